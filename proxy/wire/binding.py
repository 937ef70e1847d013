"""tls-server-end-point: the digest of the server's certificate that SCRAM-SHA-256-PLUS is bound to (RFC 5929,
4.1).

The digest uses the hash of the certificate's own signature, with SHA-256 in place of MD5 and SHA-1. Finding
out which hash that is takes two steps into the DER encoding of a certificate (RFC 5280, 4.1):

    Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID, parameters }, ... }
"""

from __future__ import annotations

import hashlib
from typing import Final

_SEQUENCE: Final = 0x30
_OBJECT_IDENTIFIER: Final = 0x06
_PSS_HASH: Final = 0xA0

_HASH_OF_SIGNATURE: Final = {
    bytes.fromhex("2a864886f70d010104"): "sha256",  # md5WithRSAEncryption
    bytes.fromhex("2a864886f70d010105"): "sha256",  # sha1WithRSAEncryption
    bytes.fromhex("2a864886f70d01010e"): "sha224",  # sha224WithRSAEncryption
    bytes.fromhex("2a864886f70d01010b"): "sha256",  # sha256WithRSAEncryption
    bytes.fromhex("2a864886f70d01010c"): "sha384",  # sha384WithRSAEncryption
    bytes.fromhex("2a864886f70d01010d"): "sha512",  # sha512WithRSAEncryption
    bytes.fromhex("2a8648ce3d0401"): "sha256",  # ecdsa-with-SHA1
    bytes.fromhex("2a8648ce3d040301"): "sha224",  # ecdsa-with-SHA224
    bytes.fromhex("2a8648ce3d040302"): "sha256",  # ecdsa-with-SHA256
    bytes.fromhex("2a8648ce3d040303"): "sha384",  # ecdsa-with-SHA384
    bytes.fromhex("2a8648ce3d040304"): "sha512",  # ecdsa-with-SHA512
}
_RSASSA_PSS: Final = bytes.fromhex("2a864886f70d01010a")
_HASH_OF_PSS: Final = {
    bytes.fromhex("2b0e03021a"): "sha256",  # SHA-1
    bytes.fromhex("608648016503040204"): "sha224",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}


def end_point_digest(certificate: bytes) -> bytes | None:
    """The digest of a DER certificate; None where its signature has no hash of its own (Ed25519) or is
    unknown.

    Without a digest there is no channel binding: a server does not offer it, a client does not ask for it.
    """
    name = _signature_hash(certificate)
    return None if name is None else hashlib.new(name, certificate).digest()


def _signature_hash(certificate: bytes) -> str | None:
    try:
        whole = _value(certificate, 0, _SEQUENCE)
        _, _, after_tbs = _element(whole, 0)
        algorithm = _value(whole, after_tbs, _SEQUENCE)
        _, oid, after_oid = _element(algorithm, 0)
        if oid != _RSASSA_PSS:
            return _HASH_OF_SIGNATURE.get(oid)
        parameters = _value(algorithm, after_oid, _SEQUENCE)
        if not parameters or parameters[0] != _PSS_HASH:
            return "sha256"  # the default of RSASSA-PSS-params is SHA-1
        pss_hash = _value(_value(parameters, 0, _PSS_HASH), 0, _SEQUENCE)
        return _HASH_OF_PSS.get(_value(pss_hash, 0, _OBJECT_IDENTIFIER))
    except (IndexError, ValueError):
        return None


def _value(data: bytes, position: int, tag: int) -> bytes:
    found, value, _ = _element(data, position)
    if found != tag:
        raise ValueError("unexpected element in a certificate")
    return value


def _element(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Tag and value of the DER element at `position`, and where the next one starts (X.690, 8.1)."""
    tag, length = data[position], data[position + 1]
    start = position + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise ValueError("unexpected length in a certificate")
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    if start + length > len(data):
        raise ValueError("certificate is cut short")
    return tag, data[start : start + length], start + length
