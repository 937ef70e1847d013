"""The PostgreSQL protocol as bytes. Pure: no socket, no clock, no randomness.

    codes      names for type bytes and special numbers
    framing    cutting bytes into packets and messages
    startup    what a client sends before any typed message
    messages   encoders and decoders of typed messages
    md5, scram what the two password methods compute
    saslprep   the form of a password that SCRAM computes with
    binding    the digest of a certificate that SCRAM can be bound to

Rules. Bytes from outside are parsed or refused with ProtocolViolation (or FeatureNotSupported), never
anything else, whatever they are and however they were cut. A length is checked before its bytes are waited
for. Nonces and salts come in from the caller.
"""
