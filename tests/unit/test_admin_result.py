"""admin.result: values in both formats. The binary ones are held against psycopg's own loaders."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import psycopg.adapt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq

from admin.result import Column, Type, columns, data_rows, row_description
from proxy.wire.framing import take_message
from proxy.wire.messages import decode_data_row


def loaded(type: Type, value: Any, format: int) -> Any:
    """The value as psycopg reads it."""
    raw = type.encode(value, format)
    assert raw is not None
    loader = psycopg.adapt.Transformer().get_loader(type.oid, pq.Format(format))
    return loader.load(raw)


@pytest.mark.parametrize("format", [0, 1])
@pytest.mark.parametrize(
    ("type", "value"),
    [
        (Type.TEXT, "größe ' \" \\ \n"),
        (Type.TEXT, ""),
        (Type.INT4, -(2**31)),
        (Type.INT8, 2**63 - 1),
        (Type.BOOL, True),
        (Type.BOOL, False),
        (Type.FLOAT8, 0.1),
        (Type.FLOAT8, 12.0),
        (Type.FLOAT8, 1e-300),
        (Type.FLOAT8, -math.inf),
        (Type.NUMERIC, 0),
        (Type.NUMERIC, 10_000),
        (Type.NUMERIC, 10**30 + 1),
        (Type.NUMERIC, Decimal("-0.00012")),
        (Type.NUMERIC, Decimal("123456.7800")),
    ],
)
def test_a_driver_reads_what_was_written(type: Type, value: Any, format: int) -> None:
    found = loaded(type, value, format)
    assert found == value
    if isinstance(value, Decimal):
        assert str(found) == str(value)


@given(st.integers(min_value=-(10**40), max_value=10**40), st.integers(min_value=0, max_value=20))
def test_any_numeric(digits: int, scale: int) -> None:
    value = Decimal(f"{digits}E-{scale}")
    for format in (0, 1):
        assert loaded(Type.NUMERIC, value, format) == value


@given(st.floats(allow_nan=False))
def test_any_float(value: float) -> None:
    assert loaded(Type.FLOAT8, value, 0) == value
    assert loaded(Type.FLOAT8, value, 1) == value


def test_not_a_number() -> None:
    assert Type.FLOAT8.encode(math.nan, 0) == b"NaN"
    assert math.isnan(loaded(Type.FLOAT8, math.nan, 1))
    assert loaded(Type.NUMERIC, Decimal("NaN"), 1).is_nan()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2025, 3, 4, 5, 6, 7, 890123, tzinfo=UTC), b"2025-03-04 05:06:07.890123+00"),
        (datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), b"1999-12-31 23:59:59+00"),
        (datetime(2025, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2))), b"2024-12-31 23:00:00+00"),
    ],
)
def test_timestamps_are_in_utc(value: datetime, text: bytes) -> None:
    assert Type.TIMESTAMPTZ.encode(value, 0) == text
    binary = Type.TIMESTAMPTZ.encode(value, 1)
    assert binary is not None
    microseconds = int.from_bytes(binary, "big", signed=True)
    assert datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds) == value


@pytest.mark.parametrize(("value", "text"), [(12.0, b"12"), (0.5, b"0.5"), (1e-05, b"1e-05"), (-0.0, b"-0")])
def test_floats_look_as_the_server_writes_them(value: float, text: bytes) -> None:
    assert Type.FLOAT8.encode(value, 0) == text


def test_null_and_a_byte_of_zero() -> None:
    assert Type.INT4.encode(None, 1) is None
    assert Type.TEXT.encode("a\0b", 0) == b"ab"


def test_a_row_description_tells_names_types_and_formats() -> None:
    described = (Column("name", Type.TEXT), Column("n", Type.INT8))
    found = take_message(bytearray(row_description(described, (0, 1))), 1000)
    assert found is not None
    kind, body = found
    assert kind == ord("T")
    assert body == (
        b"\0\2"
        b"name\0" + b"\0" * 6 + (25).to_bytes(4, "big") + b"\xff\xff" + b"\xff" * 4 + b"\0\0"
        b"n\0" + b"\0" * 6 + (20).to_bytes(4, "big") + b"\0\10" + b"\xff" * 4 + b"\0\1"
    )


def test_rows_come_in_pieces_and_none_is_lost() -> None:
    described = columns(Type.TEXT, "a", "b")
    rows = [(str(number), "x" * 1000) for number in range(200)]
    pieces = list(data_rows(described, rows, (0, 0)))
    assert len(pieces) > 1
    assert all(len(piece) < 70_000 for piece in pieces)
    buffer = bytearray(b"".join(pieces))
    seen = []
    while (found := take_message(buffer, 1 << 20)) is not None:
        seen.append(decode_data_row(found[1])[0])
    assert seen == [str(number).encode() for number in range(200)]


def test_a_row_with_another_width_than_its_columns_is_a_fault() -> None:
    with pytest.raises(ValueError):
        list(data_rows(columns(Type.TEXT, "a", "b"), [("only one",)], (0, 0)))
