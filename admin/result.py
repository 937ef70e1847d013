"""Result sets: columns with PostgreSQL types, and values as they go over the wire.

Every type has both formats, since a client chooses (Bind): psql and lib/pq read text, asyncpg asks for
binary. Type numbers: PostgreSQL, src/include/catalog/pg_type.dat. Binary formats: the *send functions in
src/backend/utils/adt (numeric_send, timestamptz_send, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from struct import Struct
from typing import Any, Final

from proxy.wire.codes import ServerMessage
from proxy.wire.messages import data_row, message

TEXT_FORMAT: Final = 0
BINARY_FORMAT: Final = 1

_CHUNK_BYTES: Final = 64 * 1024
_COUNT: Final = Struct("!H")
_FIELD: Final = Struct("!IhIhih")  # table OID, column number, type OID, type length, type modifier, format
_INT4: Final = Struct("!i")
_INT8: Final = Struct("!q")
_FLOAT8: Final = Struct("!d")
_NUMERIC_HEAD: Final = Struct("!HhHH")  # digit groups, weight of the first, sign, digits after the point
_NUMERIC_NEGATIVE: Final = 0x4000
_NUMERIC_NAN: Final = 0xC000
_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

Row = Sequence[Any]
Rows = Sequence[Row]


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape").replace(b"\0", b"")


def _plain(value: int | Decimal) -> bytes:
    return format(value, "f" if isinstance(value, Decimal) else "d").encode()


def _bool_text(value: bool) -> bytes:
    return b"t" if value else b"f"


def _bool_binary(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _float_text(value: float) -> bytes:
    """Shortest exact form, whole numbers without a point, as float8out has it."""
    if value != value:
        return b"NaN"
    if value in (float("inf"), float("-inf")):
        return b"Infinity" if value > 0 else b"-Infinity"
    return repr(float(value)).removesuffix(".0").encode()


def _timestamp_text(value: datetime) -> bytes:
    """ISO DateStyle in UTC, the form that carries its own zone."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ").encode() + b"+00"


def _timestamp_binary(value: datetime) -> bytes:
    return _INT8.pack((value - _POSTGRES_EPOCH) // _MICROSECOND)


def _numeric_binary(value: int | Decimal) -> bytes:
    """Groups of four decimal digits around the point (src/backend/utils/adt/numeric.c: numeric_send)."""
    number = Decimal(value)
    if not number.is_finite():
        return _NUMERIC_HEAD.pack(0, 0, _NUMERIC_NAN, 0)
    # copy_abs, since abs would round to the precision of the decimal context.
    whole, _, fraction = format(number.copy_abs(), "f").partition(".")
    scale = len(fraction)
    whole = whole.lstrip("0")
    digits = whole.rjust(-(-len(whole) // 4) * 4, "0") + fraction.ljust(-(-scale // 4) * 4, "0")
    groups = [int(digits[at : at + 4]) for at in range(0, len(digits), 4)]
    weight = -(-len(whole) // 4) - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    sign = _NUMERIC_NEGATIVE if number < 0 else 0
    head = _NUMERIC_HEAD.pack(len(groups), weight if groups else 0, sign, scale)
    return head + b"".join(map(_COUNT.pack, groups))


@dataclass(frozen=True, slots=True)
class _Codec:
    oid: int
    length: int
    text: Callable[[Any], bytes]
    binary: Callable[[Any], bytes]


class Type(Enum):
    """The types that the console's columns have."""

    BOOL = _Codec(16, 1, _bool_text, _bool_binary)
    INT8 = _Codec(20, 8, _plain, _INT8.pack)
    INT4 = _Codec(23, 4, _plain, _INT4.pack)
    TEXT = _Codec(25, -1, _text, _text)
    FLOAT8 = _Codec(701, 8, _float_text, _FLOAT8.pack)
    TIMESTAMPTZ = _Codec(1184, 8, _timestamp_text, _timestamp_binary)
    NUMERIC = _Codec(1700, -1, _plain, _numeric_binary)
    VOID = _Codec(2278, 4, lambda _value: b"", lambda _value: b"")

    @property
    def oid(self) -> int:
        return self.value.oid

    def encode(self, value: Any, format_code: int) -> bytes | None:
        if value is None:
            return None
        codec = self.value
        return codec.binary(value) if format_code == BINARY_FORMAT else codec.text(value)


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: Type


Columns = tuple[Column, ...]


def columns(type: Type, *names: str) -> Columns:
    """Neighbours of one type."""
    return tuple(Column(name, type) for name in names)


def row_description(described: Columns, formats: Sequence[int]) -> bytes:
    """`formats` has one code per column."""
    fields = b"".join(
        _text(column.name) + b"\0" + _FIELD.pack(0, 0, column.type.value.oid, column.type.value.length, -1, format_code)
        for column, format_code in zip(described, formats, strict=True)
    )
    return message(ServerMessage.ROW_DESCRIPTION, _COUNT.pack(len(described)) + fields)


def data_rows(described: Columns, rows: Rows, formats: Sequence[int]) -> Iterator[bytes]:
    """The rows as DataRow messages, in pieces of about 64 KiB so that a slow reader is noticed in between."""
    chunk = bytearray()
    for row in rows:
        chunk += data_row(
            [
                column.type.encode(value, format_code)
                for column, value, format_code in zip(described, row, formats, strict=True)
            ]
        )
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)
