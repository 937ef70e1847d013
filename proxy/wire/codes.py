"""Names for the bytes of the protocol.

https://www.postgresql.org/docs/current/protocol-message-formats.html, PostgreSQL:
src/include/libpq/protocol.h, src/include/libpq/pqcomm.h
"""

from __future__ import annotations

from typing import Final

# Start-up packets carry one of these where a typed message has its type.
PROTOCOL_3_0: Final = 3 << 16
PROTOCOL_3_2: Final = 3 << 16 | 2
LATEST_PROTOCOL: Final = PROTOCOL_3_2
OLDEST_MAJOR_PROTOCOL: Final = 3
CANCEL_REQUEST_CODE: Final = 1234 << 16 | 5678
SSL_REQUEST_CODE: Final = 1234 << 16 | 5679
GSSENC_REQUEST_CODE: Final = 1234 << 16 | 5680

MAX_STARTUP_PACKET_LENGTH: Final = 10000
"""Without the length word itself (pqcomm.h)."""
MAX_CANCEL_KEY_LENGTH: Final = 256
"""Protocol 3.2 (BackendKeyData, CancelRequest); 3.0 always has 4 bytes."""
MAX_SASL_MESSAGE_LENGTH: Final = 1024
"""PG_MAX_SASL_MESSAGE_LENGTH in libpq/auth-sasl.c."""
MAX_AUTH_TOKEN_LENGTH: Final = 65535
"""PG_MAX_AUTH_TOKEN_LENGTH in libpq/auth.h; a password message may be this long."""
NAME_LENGTH: Final = 63
"""NAMEDATALEN - 1; the server cuts user and database names of the start-up packet to it, in bytes."""

TLS_HANDSHAKE_BYTE: Final = 0x16
"""First byte of a TLS ClientHello. As the first byte of a start-up packet it would mean 369 MB."""
ALPN_PROTOCOL: Final = "postgresql"


class ClientMessage:
    """Type bytes of messages from a client to a server."""

    BIND: Final = ord("B")
    CLOSE: Final = ord("C")
    COPY_DATA: Final = ord("d")
    COPY_DONE: Final = ord("c")
    COPY_FAIL: Final = ord("f")
    DESCRIBE: Final = ord("D")
    EXECUTE: Final = ord("E")
    FLUSH: Final = ord("H")
    FUNCTION_CALL: Final = ord("F")
    PARSE: Final = ord("P")
    PASSWORD: Final = ord("p")
    """PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse; the exchange tells which."""
    QUERY: Final = ord("Q")
    SYNC: Final = ord("S")
    TERMINATE: Final = ord("X")


class ServerMessage:
    """Type bytes of messages from a server to a client."""

    AUTHENTICATION: Final = ord("R")
    BACKEND_KEY_DATA: Final = ord("K")
    BIND_COMPLETE: Final = ord("2")
    CLOSE_COMPLETE: Final = ord("3")
    COMMAND_COMPLETE: Final = ord("C")
    COPY_BOTH_RESPONSE: Final = ord("W")
    COPY_DATA: Final = ord("d")
    COPY_DONE: Final = ord("c")
    COPY_IN_RESPONSE: Final = ord("G")
    COPY_OUT_RESPONSE: Final = ord("H")
    DATA_ROW: Final = ord("D")
    EMPTY_QUERY_RESPONSE: Final = ord("I")
    ERROR_RESPONSE: Final = ord("E")
    FUNCTION_CALL_RESPONSE: Final = ord("V")
    NEGOTIATE_PROTOCOL_VERSION: Final = ord("v")
    NO_DATA: Final = ord("n")
    NOTICE_RESPONSE: Final = ord("N")
    NOTIFICATION_RESPONSE: Final = ord("A")
    PARAMETER_DESCRIPTION: Final = ord("t")
    PARAMETER_STATUS: Final = ord("S")
    PARSE_COMPLETE: Final = ord("1")
    PORTAL_SUSPENDED: Final = ord("s")
    READY_FOR_QUERY: Final = ord("Z")
    ROW_DESCRIPTION: Final = ord("T")


class AuthRequest:
    """The number inside an Authentication message (AUTH_REQ_* in protocol.h)."""

    OK: Final = 0
    KERBEROS_V5: Final = 2
    CLEARTEXT_PASSWORD: Final = 3
    MD5_PASSWORD: Final = 5
    GSS: Final = 7
    GSS_CONTINUE: Final = 8
    SSPI: Final = 9
    SASL: Final = 10
    SASL_CONTINUE: Final = 11
    SASL_FINAL: Final = 12


class TransactionStatus:
    """The byte of ReadyForQuery."""

    IDLE: Final = ord("I")
    IN_TRANSACTION: Final = ord("T")
    FAILED: Final = ord("E")


TEXT_OID: Final = 25
"""pg_type: text. Its length on the wire is -1 (variable)."""
