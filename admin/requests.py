"""Bodies of a client's messages to values. Pure; a body that does not add up raises BrokenMessage.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Final

from .errors import BadEncoding, BrokenMessage

_INT16: Final = Struct("!H")
_INT32: Final = Struct("!i")
_OID: Final = Struct("!I")


@dataclass(frozen=True, slots=True)
class ParseRequest:
    statement: str
    query: str
    parameter_oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BindRequest:
    portal: str
    statement: str
    parameter_formats: tuple[int, ...]
    parameters: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NamedRequest:
    """Describe and Close: of a statement, else of a portal."""

    of_statement: bool
    name: str


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """`row_limit` of 0 is none."""

    portal: str
    row_limit: int


class _Body:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def number(self, layout: Struct) -> int:
        try:
            (value,) = layout.unpack_from(self._body, self._at)
        except StructError:
            raise BrokenMessage("insufficient data left in message") from None
        self._at += layout.size
        return int(value)

    def numbers(self, layout: Struct) -> tuple[int, ...]:
        """A count in 16 bits, then so many."""
        return tuple(self.number(layout) for _ in range(self.number(_INT16)))

    def take(self, size: int) -> bytes:
        taken = self._body[self._at : self._at + size]
        if len(taken) < size:
            raise BrokenMessage("insufficient data left in message")
        self._at += size
        return taken

    def string(self) -> str:
        end = self._body.find(b"\0", self._at)
        if end < 0:
            raise BrokenMessage("invalid string in message")
        raw = self._body[self._at : end]
        self._at = end + 1
        return utf8(raw)

    def end(self) -> None:
        if self._at != len(self._body):
            raise BrokenMessage("invalid message format")


def utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadEncoding() from None


def query(body: bytes) -> str:
    reader = _Body(body)
    text = reader.string()
    reader.end()
    return text


def parse(body: bytes) -> ParseRequest:
    reader = _Body(body)
    request = ParseRequest(reader.string(), reader.string(), reader.numbers(_OID))
    reader.end()
    return request


def bind(body: bytes) -> BindRequest:
    reader = _Body(body)
    portal, statement = reader.string(), reader.string()
    formats = reader.numbers(_INT16)
    parameters = tuple(_parameter(reader) for _ in range(reader.number(_INT16)))
    request = BindRequest(portal, statement, formats, parameters, reader.numbers(_INT16))
    reader.end()
    return request


def _parameter(reader: _Body) -> bytes | None:
    size = reader.number(_INT32)
    if size == -1:
        return None
    if size < 0:
        raise BrokenMessage("invalid message format")
    return reader.take(size)


def named(body: bytes) -> NamedRequest:
    """Of Describe or Close."""
    reader = _Body(body)
    kind = reader.take(1)
    if kind not in (b"S", b"P"):
        raise BrokenMessage(f"invalid subtype {kind[0]} of message")
    request = NamedRequest(kind == b"S", reader.string())
    reader.end()
    return request


def execute(body: bytes) -> ExecuteRequest:
    reader = _Body(body)
    # Negative limits mean no limit (PostgreSQL: exec_execute_message).
    request = ExecuteRequest(reader.string(), max(0, reader.number(_INT32)))
    reader.end()
    return request


def formats(codes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The format of each of `count` values: none given is text for all, one is for all, else one each."""
    if any(code not in (0, 1) for code in codes):
        raise BrokenMessage("unsupported format code")
    if len(codes) == count:
        return codes
    if len(codes) > 1:
        raise BrokenMessage(f"bind message has {len(codes)} formats but {count} values")
    return (codes or (0,)) * count
