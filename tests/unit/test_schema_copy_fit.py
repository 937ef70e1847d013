"""Whether a schema takes the rows of another one."""

from __future__ import annotations

import pytest

from replication.publications import TableName
from replication.schema_fit import Column, SequenceShape, Shape, Table, differences, takes

T = TableName("public", "t")
ID = Column("integer", not_null=True)


def compared(source: Table, destination: Table | None) -> list[str]:
    there = {T: destination} if destination is not None else {}
    return differences(Shape({T: source}), Shape(there), [T])


def table(key: str = "id", identity: str = "d", unlogged: bool = False, **columns: Column) -> Table:
    return Table({"id": ID, **columns}, identity, frozenset(key.split()) if key else frozenset(), unlogged)


def test_the_same_fits() -> None:
    assert compared(table(x=Column("text")), table(x=Column("text"))) == []


@pytest.mark.parametrize(
    "extra",
    [Column("text"), Column("text", not_null=True, filled=True), Column("int", filled=True, generated=True)],
)
def test_more_columns_fit_where_they_need_no_value(extra: Column) -> None:
    assert compared(table(), table(more=extra)) == []


@pytest.mark.parametrize(
    ("source", "destination", "said"),
    [
        (table(), None, "table public.t is missing"),
        (table(x=Column("text")), table(), "column x is missing"),
        (table(x=Column("text")), table(x=Column("integer")), "of type integer instead of text"),
        (table(x=Column("text")), table(x=Column("text", not_null=True)), "x is NOT NULL there"),
        (table(), table(x=Column("text", not_null=True)), "x exists only there"),
        (
            table(x=Column("text")),
            table(x=Column("text", filled=True, generated=True)),
            "x is generated there but not on the source",
        ),
        (
            table(x=Column("text", filled=True, generated=True)),
            table(x=Column("text")),
            "x is generated on the source but not there",
        ),
        (table(), table(key=""), "no primary key or replica identity index"),
        (table(x=Column("text")), table(key="id x", x=Column("text")), "its key (id, x) has columns"),
        (table(), table(unlogged=True), "unlogged"),
    ],
)
def test_what_does_not_fit_is_said(source: Table, destination: Table | None, said: str) -> None:
    found = compared(source, destination)
    assert len(found) == 1
    assert said in found[0]


def test_a_part_of_the_key_is_enough_and_the_whole_row_needs_none() -> None:
    assert compared(table(key="id x", x=Column("text")), table(x=Column("text"))) == []
    assert compared(table(identity="f"), table(key="")) == []
    assert compared(table(key=""), table(key="")) == []


def test_only_the_tables_asked_for_count() -> None:
    assert differences(Shape({T: table()}), Shape({}), []) == []


def test_sequences_and_labels() -> None:
    s, enum = TableName("public", "s"), "public.color"
    source = Shape({}, {s: SequenceShape(1, False)}, {enum: ("red", "green")})
    assert differences(source, Shape({}, {s: SequenceShape(5, False)}, {enum: ("green", "red", "x")}), []) == []
    assert differences(source, Shape({}), []) == ["sequence public.s is missing"]
    assert differences(source, Shape({}, {s: SequenceShape(-1, True)}, {enum: ("red",)}), []) == [
        "sequence public.s runs another way: descending in a cycle instead of ascending",
        "type public.color lacks the labels green",
    ]


@pytest.mark.parametrize(
    ("source", "destination", "fits"),
    [
        ("integer", "integer", True),
        ("integer", "bigint", True),
        ("bigint", "integer", False),
        ("smallint", "numeric", True),
        ("bigint", "numeric(10,0)", False),
        ("character varying(10)", "character varying(20)", True),
        ("character varying(10)", "character varying", True),
        ("character varying(10)", "character varying(5)", False),
        ("character varying", "character varying(5)", False),
        ("character varying(10)", "text", True),
        ("text", "character varying(10)", False),
        ("character(3)", "character(5)", False),
        ("numeric(10,2)", "numeric(12,2)", True),
        ("numeric(10,2)", "numeric(10,4)", False),
        ("numeric(10,2)", "numeric", True),
        ("numeric", "numeric(10,2)", False),
        ("character varying(10)[]", "character varying(20)[]", True),
        ("integer[]", "bigint[]", False),
        ("timestamp without time zone", "timestamp with time zone", False),
        ("app.mood", "text", False),
    ],
)
def test_types(source: str, destination: str, fits: bool) -> None:
    assert takes(source, destination) is fits
