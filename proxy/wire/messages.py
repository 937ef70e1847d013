"""Typed messages, written and read one at a time. Pure: values in, bytes out, and the reverse.

Every encoder returns the whole message, type byte and length included. Decoders take the body only (what
`framing.take_message` returns) and raise ProtocolViolation where it is not what it should be, because the
bytes come from outside. Text is UTF-8 with surrogate escapes, so bytes in any other encoding survive.

The formats: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from struct import error as StructError

from ..errors import ProtocolViolation, ProxyError
from .codes import (
    CANCEL_REQUEST_CODE,
    GSSENC_REQUEST_CODE,
    SSL_REQUEST_CODE,
    TEXT_OID,
    AuthRequest,
    ClientMessage,
    ServerMessage,
    TransactionStatus,
)
from .framing import HEADER, LENGTH
from .startup import to_bytes, to_text

_INT16 = Struct("!h")
_UINT16 = Struct("!H")
_INT32 = Struct("!i")
_FIELD = Struct("!IhIhih")  # table OID, column number, type OID, type length, type modifier, format
_TEXT_FORMAT = _UINT16.pack(0)
_NULL = _INT32.pack(-1)


def message(kind: int, body: bytes = b"") -> bytes:
    """Any typed message."""
    return HEADER.pack(kind, len(body) + 4) + body


def _zero_terminated(text: str | bytes) -> bytes:
    raw = to_bytes(text) if isinstance(text, str) else text
    if b"\0" in raw:
        raise ValueError("a protocol string cannot hold a byte of zero")
    return raw + b"\0"


# What a server says while a client logs in


def _authentication(request: int, data: bytes = b"") -> bytes:
    return message(ServerMessage.AUTHENTICATION, LENGTH.pack(request) + data)


AUTHENTICATION_OK = _authentication(AuthRequest.OK)
AUTHENTICATION_CLEARTEXT_PASSWORD = _authentication(AuthRequest.CLEARTEXT_PASSWORD)


def authentication_md5_password(salt: bytes) -> bytes:
    """`salt` is 4 random bytes."""
    return _authentication(AuthRequest.MD5_PASSWORD, salt)


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    """The mechanisms that the client may choose from, the best first."""
    return _authentication(AuthRequest.SASL, b"".join(map(_zero_terminated, mechanisms)) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return _authentication(AuthRequest.SASL_CONTINUE, data)


def authentication_sasl_final(data: bytes) -> bytes:
    return _authentication(AuthRequest.SASL_FINAL, data)


def negotiate_protocol_version(protocol: int, unknown_options: Sequence[bytes]) -> bytes:
    """PostgreSQL 18 sends the whole version number here, not only the minor part
    (SendNegotiateProtocolVersion).
    """
    names = b"".join(map(_zero_terminated, unknown_options))
    return message(
        ServerMessage.NEGOTIATE_PROTOCOL_VERSION,
        LENGTH.pack(protocol) + LENGTH.pack(len(unknown_options)) + names,
    )


def parameter_status(name: str | bytes, value: str | bytes) -> bytes:
    return message(ServerMessage.PARAMETER_STATUS, _zero_terminated(name) + _zero_terminated(value))


def backend_key_data(pid: int, key: bytes) -> bytes:
    """`key` has 4 bytes in protocol 3.0, up to 256 in 3.2."""
    return message(ServerMessage.BACKEND_KEY_DATA, _INT32.pack(pid) + key)


def ready_for_query(status: int = TransactionStatus.IDLE) -> bytes:
    return message(ServerMessage.READY_FOR_QUERY, bytes((status,)))


# Errors and notices


def error_response(
    severity: str,
    sqlstate: str,
    text: str,
    *,
    detail: str | None = None,
    hint: str | None = None,
) -> bytes:
    return message(ServerMessage.ERROR_RESPONSE, _report(severity, sqlstate, text, detail, hint))


def notice_response(
    text: str, *, severity: str = "NOTICE", sqlstate: str = "00000", detail: str | None = None
) -> bytes:
    return message(ServerMessage.NOTICE_RESPONSE, _report(severity, sqlstate, text, detail, None))


def error_bytes(error: ProxyError) -> bytes:
    """An error of ours as the client reads it."""
    return error_response(error.severity, error.sqlstate, error.message, detail=error.detail, hint=error.hint)


def old_error_bytes(error: ProxyError) -> bytes:
    """The same for a client that speaks protocol 2 or older, which has neither lengths nor fields.

    PostgreSQL: send_message_to_frontend in utils/error/elog.c, the branch for old-style clients.
    """
    return b"E" + _zero_terminated(f"{error.severity}:  {error.message}\n")


def _report(severity: str, sqlstate: str, text: str, detail: str | None, hint: str | None) -> bytes:
    """S may be translated, V never is; without translations both are the same word."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text), ("D", detail), ("H", hint)]
    return (
        b"".join(
            to_bytes(code) + _zero_terminated(value.replace("\0", "")) for code, value in fields if value is not None
        )
        + b"\0"
    )


# Results


def row_description(columns: Sequence[str]) -> bytes:
    """Columns of type text, in text format, of no table."""
    fields = b"".join(_zero_terminated(name) + _FIELD.pack(0, 0, TEXT_OID, -1, -1, 0) for name in columns)
    return message(ServerMessage.ROW_DESCRIPTION, _UINT16.pack(len(columns)) + fields)


def data_row(values: Sequence[str | bytes | None]) -> bytes:
    return message(ServerMessage.DATA_ROW, _UINT16.pack(len(values)) + b"".join(map(_sized, values)))


def _sized(value: str | bytes | None) -> bytes:
    """A value with its length in front; NULL is a length of -1 and no bytes."""
    if value is None:
        return _NULL
    raw = to_bytes(value) if isinstance(value, str) else value
    return _INT32.pack(len(raw)) + raw


def command_complete(tag: str) -> bytes:
    return message(ServerMessage.COMMAND_COMPLETE, _zero_terminated(tag))


def parameter_description(type_oids: Sequence[int]) -> bytes:
    return message(
        ServerMessage.PARAMETER_DESCRIPTION,
        _UINT16.pack(len(type_oids)) + b"".join(map(LENGTH.pack, type_oids)),
    )


PARSE_COMPLETE = message(ServerMessage.PARSE_COMPLETE)
BIND_COMPLETE = message(ServerMessage.BIND_COMPLETE)
CLOSE_COMPLETE = message(ServerMessage.CLOSE_COMPLETE)
NO_DATA = message(ServerMessage.NO_DATA)
EMPTY_QUERY_RESPONSE = message(ServerMessage.EMPTY_QUERY_RESPONSE)
PORTAL_SUSPENDED = message(ServerMessage.PORTAL_SUSPENDED)


# What a client says


SSL_REQUEST = LENGTH.pack(8) + LENGTH.pack(SSL_REQUEST_CODE)
GSSENC_REQUEST = LENGTH.pack(8) + LENGTH.pack(GSSENC_REQUEST_CODE)
SYNC = message(ClientMessage.SYNC)
FLUSH = message(ClientMessage.FLUSH)
TERMINATE = message(ClientMessage.TERMINATE)


def cancel_request(pid: int, key: bytes) -> bytes:
    return LENGTH.pack(12 + len(key)) + LENGTH.pack(CANCEL_REQUEST_CODE) + _INT32.pack(pid) + key


def password_message(password: str | bytes) -> bytes:
    return message(ClientMessage.PASSWORD, _zero_terminated(password))


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    return message(ClientMessage.PASSWORD, _zero_terminated(mechanism) + _INT32.pack(len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    return message(ClientMessage.PASSWORD, data)


def query(sql: str | bytes) -> bytes:
    return message(ClientMessage.QUERY, _zero_terminated(sql))


def parse(name: str | bytes, sql: str | bytes, parameter_oids: Sequence[int] = ()) -> bytes:
    """An empty name is the unnamed statement; an OID of 0 leaves the type to the server."""
    return message(
        ClientMessage.PARSE,
        _zero_terminated(name)
        + _zero_terminated(sql)
        + _UINT16.pack(len(parameter_oids))
        + b"".join(map(LENGTH.pack, parameter_oids)),
    )


def bind(portal: str | bytes, statement: str | bytes, parameters: Iterable[str | bytes | None] = ()) -> bytes:
    """Parameters and results in text format; None is NULL."""
    values = [_sized(value) for value in parameters]
    return message(
        ClientMessage.BIND,
        _zero_terminated(portal)
        + _zero_terminated(statement)
        + _TEXT_FORMAT
        + _UINT16.pack(len(values))
        + b"".join(values)
        + _TEXT_FORMAT,
    )


def describe(kind: str, name: str | bytes) -> bytes:
    """`kind` is "S" for a statement, "P" for a portal."""
    return message(ClientMessage.DESCRIBE, kind.encode("ascii") + _zero_terminated(name))


def execute(portal: str | bytes, max_rows: int = 0) -> bytes:
    """0 rows means all."""
    return message(ClientMessage.EXECUTE, _zero_terminated(portal) + LENGTH.pack(max_rows))


def close(kind: str, name: str | bytes) -> bytes:
    """`kind` is "S" for a statement, "P" for a portal."""
    return message(ClientMessage.CLOSE, kind.encode("ascii") + _zero_terminated(name))


# Decoders


def zero_terminated(body: bytes, position: int = 0) -> tuple[bytes, int]:
    """The string that starts at `position`, and where the next thing starts."""
    end = body.find(b"\0", position)
    if end < 0:
        raise ProtocolViolation("invalid string in message")
    return body[position:end], end + 1


def error_fields(body: bytes) -> dict[str, bytes]:
    """The fields of an ErrorResponse or NoticeResponse by their one-letter code (C: SQLSTATE, M: message,
    ...).
    """
    fields: dict[str, bytes] = {}
    position = 0
    while position < len(body) and body[position]:
        value, end = zero_terminated(body, position + 1)
        fields[chr(body[position])] = value
        position = end
    if position != len(body) - 1:
        raise ProtocolViolation("invalid message format")
    return fields


def error_text(body: bytes) -> tuple[str, str]:
    """SQLSTATE and message of an ErrorResponse, for a log line; empty where the server left one out."""
    fields = error_fields(body)
    return to_text(fields.get("C", b"")), to_text(fields.get("M", b""))


def decode_data_row(body: bytes) -> list[bytes | None]:
    try:
        (count,) = _UINT16.unpack_from(body)
        position = _UINT16.size
        values: list[bytes | None] = []
        for _ in range(count):
            (size,) = _INT32.unpack_from(body, position)
            position += _INT32.size
            if size < 0:
                values.append(None)
                continue
            values.append(body[position : position + size])
            position += size
    except StructError:
        raise ProtocolViolation("insufficient data left in message") from None
    if position != len(body):
        raise ProtocolViolation("invalid message format")
    return values


def decode_bind(body: bytes) -> tuple[bytes, list[bytes | None]]:
    """The statement's name and the parameter values, each in the format the client chose for it."""
    try:
        _, position = zero_terminated(body)
        statement, position = zero_terminated(body, position)
        (formats,) = _UINT16.unpack_from(body, position)
        position += _UINT16.size * (1 + formats)
        (count,) = _UINT16.unpack_from(body, position)
        position += _UINT16.size
        values: list[bytes | None] = []
        for _ in range(count):
            (size,) = _INT32.unpack_from(body, position)
            position += _INT32.size
            values.append(None if size < 0 else body[position : position + size])
            position += max(size, 0)
    except StructError:
        raise ProtocolViolation("insufficient data left in message") from None
    return statement, values


def decode_parameter_status(body: bytes) -> tuple[bytes, bytes]:
    """Name and value."""
    name, position = zero_terminated(body)
    value, position = zero_terminated(body, position)
    if position != len(body):
        raise ProtocolViolation("invalid message format")
    return name, value


def decode_backend_key(body: bytes) -> tuple[int, bytes]:
    """Backend pid and cancel key."""
    if not 5 <= len(body) <= 260:
        raise ProtocolViolation("invalid message format")
    return int.from_bytes(body[:4], "big", signed=True), body[4:]


def decode_authentication(body: bytes) -> tuple[int, bytes]:
    """The number of the request (codes.AuthRequest) and its data."""
    if len(body) < 4:
        raise ProtocolViolation("insufficient data left in message")
    return LENGTH.unpack_from(body)[0], body[4:]


def decode_sasl_mechanisms(data: bytes) -> list[str]:
    """The list inside AuthenticationSASL, which ends with an empty name."""
    mechanisms: list[str] = []
    position = 0
    while True:
        name, position = zero_terminated(data, position)
        if not name:
            return mechanisms
        mechanisms.append(to_text(name))


def decode_sasl_initial_response(body: bytes) -> tuple[str, bytes | None]:
    """The mechanism that the client chose, and its first message; None where it sent none."""
    mechanism, position = zero_terminated(body)
    if len(body) < position + 4:
        raise ProtocolViolation("insufficient data left in message")
    (size,) = _INT32.unpack_from(body, position)
    data = body[position + 4 :]
    if size == -1 and not data:
        return to_text(mechanism), None
    if size != len(data):
        raise ProtocolViolation("invalid message format")
    return to_text(mechanism), data


def decode_negotiate_protocol_version(body: bytes) -> tuple[int, list[bytes]]:
    """The newest version the server speaks, as a whole number (3.2 = 196610), and options it does not know.

    Servers before 18 that send this put the whole number too; the documentation of that time spoke of the
    minor version only, so a bare minor is taken for one of 3.x.
    """
    if len(body) < 8:
        raise ProtocolViolation("insufficient data left in message")
    (version,) = LENGTH.unpack_from(body)
    (count,) = LENGTH.unpack_from(body, 4)
    position = 8
    names: list[bytes] = []
    for _ in range(count):
        name, position = zero_terminated(body, position)
        names.append(name)
    if position != len(body):
        raise ProtocolViolation("invalid message format")
    return (version if version >> 16 else 3 << 16 | version), names
