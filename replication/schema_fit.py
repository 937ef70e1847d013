"""Does a schema that the destination has already take what the source will send?

A superset with defaults fits, and so does a type whose text form takes every value of the source's type.
`differences` is pure; `read_shape` asks a database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .publications import TableName
from .session import ControlSession

_TIMEOUT_S = 120.0

_WIDER = {
    "smallint": ("integer", "bigint", "numeric"),
    "integer": ("bigint", "numeric"),
    "bigint": ("numeric",),
    "real": ("double precision",),
    "character varying": ("text",),
    "json": ("text",),
}
_LENGTH = re.compile(r"^(character varying|character|bit varying|numeric)\((\d+)(?:,(-?\d+))?\)(\[\])?$")


@dataclass(frozen=True, slots=True)
class Column:
    type: str
    not_null: bool = False
    filled: bool = False
    """The database fills it by itself: default, identity or generated."""
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    columns: Mapping[str, Column]
    identity: str = "d"
    """relreplident: d(efault), i(ndex), f(ull), n(othing)."""
    key: frozenset[str] = frozenset()
    """Columns of the replica identity index or the primary key; empty where there is none."""
    unlogged: bool = False


@dataclass(frozen=True, slots=True)
class SequenceShape:
    increment: int
    cycles: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a schema matters to the rows that arrive."""

    tables: Mapping[TableName, Table]
    sequences: Mapping[TableName, SequenceShape] = field(default_factory=dict)
    enums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def differences(source: Shape, destination: Shape, tables: Iterable[TableName]) -> list[str]:
    """Why `destination` does not take the rows of `tables`, one sentence each; empty: it fits."""
    found: list[str] = []
    for name in tables:
        if name not in destination.tables:
            found.append(f"table {name} is missing")
        elif name in source.tables:
            found += [f"table {name}: {what}" for what in _table(source.tables[name], destination.tables[name])]
    for name, here in source.sequences.items():
        there = destination.sequences.get(name)
        if there is None:
            found.append(f"sequence {name} is missing")
        elif (here.increment > 0) != (there.increment > 0) or here.cycles != there.cycles:
            found.append(f"sequence {name} runs another way: {_way(there)} instead of {_way(here)}")
    for enum, labels in source.enums.items():
        lacking = [label for label in labels if label not in destination.enums.get(enum, labels)]
        if lacking:
            found.append(f"type {enum} lacks the labels {', '.join(lacking)}")
    return found


def _way(sequence: SequenceShape) -> str:
    return ("ascending" if sequence.increment > 0 else "descending") + (" in a cycle" if sequence.cycles else "")


def _table(source: Table, destination: Table) -> list[str]:
    found: list[str] = []
    for name, here in source.columns.items():
        there = destination.columns.get(name)
        if there is None:
            # A generated column is not sent; the destination may do without.
            if not here.generated:
                found.append(f"column {name} is missing")
        else:
            found += _column(name, here, there)
    for name, column in destination.columns.items():
        if name not in source.columns and column.not_null and not column.filled:
            found.append(f"column {name} exists only there, is NOT NULL and has no default")
    if destination.unlogged:
        found.append("it is unlogged there and would be empty after a crash")
    found += _key(source, destination)
    return found


def _column(name: str, here: Column, there: Column) -> list[str]:
    if here.generated != there.generated:
        which = "there but not on the source" if there.generated else "on the source but not there"
        return [f"column {name} is generated {which}"]
    found = []
    if not takes(here.type, there.type):
        found.append(f"column {name} is of type {there.type} instead of {here.type}")
    if there.not_null and not here.not_null:
        found.append(f"column {name} is NOT NULL there but not on the source")
    return found


def _key(source: Table, destination: Table) -> list[str]:
    """The apply worker looks rows up by its own key and is sent only the columns of the source's.

    PostgreSQL: GetRelationIdentityOrPK.
    """
    if source.identity == "f" or not source.key:
        return []
    if not destination.key:
        return [f"no primary key or replica identity index; the source has ({', '.join(sorted(source.key))})"]
    if not destination.key <= source.key:
        there, here = ", ".join(sorted(destination.key)), ", ".join(sorted(source.key))
        return [f"its key ({there}) has columns that the source's ({here}) has not"]
    return []


def takes(source: str, destination: str) -> bool:
    """Whether every value of type `source`, as text, is a value of type `destination`."""
    if source == destination:
        return True
    base, length, scale = _parts(source)
    other, other_length, other_scale = _parts(destination)
    if base == other:
        if other_length is None:
            return True
        if length is None:
            return False
        if base == "numeric":
            return other_scale >= scale and other_length - other_scale >= length - scale
        return base != "character" and other_length >= length
    return other_length is None and other in _WIDER.get(base, ())


def _parts(name: str) -> tuple[str, int | None, int]:
    found = _LENGTH.match(name)
    if found is None:
        return name, None, 0
    return found[1] + (found[4] or ""), int(found[2]), int(found[3] or 0)


_COLUMNS = """
SELECT n.nspname, c.relname, c.relreplident::text AS relreplident, c.relpersistence = 'u' AS unlogged,
    a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull, a.attgenerated <> '' AS generated,
    a.atthasdef OR a.attidentity <> '' AS filled,
    EXISTS (SELECT FROM pg_index i
            WHERE i.indrelid = c.oid AND i.indisvalid
              AND a.attnum = ANY ((i.indkey::int2[])[:i.indnkeyatts - 1])  -- not the INCLUDE columns
              AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident
                       ELSE i.indisprimary AND i.indimmediate END) AS in_key
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384
  AND n.nspname NOT IN ('information_schema', 'pgcutover') AND n.nspname NOT LIKE 'pg\\_%'
"""
_SEQUENCES = """
SELECT n.nspname, c.relname, s.seqincrement, s.seqcycle
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgcutover')
"""
_ENUMS = """
SELECT format_type(enumtypid, NULL) AS name, array_agg(enumlabel::text ORDER BY enumsortorder) AS labels
FROM pg_enum GROUP BY 1
"""


async def read_shape(session: ControlSession) -> Shape:
    columns: dict[TableName, dict[str, Column]] = {}
    keys: dict[TableName, set[str]] = {}
    rest: dict[TableName, tuple[str, bool]] = {}
    for row in await session.fetch(_COLUMNS, timeout_s=_TIMEOUT_S):
        name = TableName(row["nspname"], row["relname"])
        rest[name] = row["relreplident"], row["unlogged"]
        columns.setdefault(name, {})
        keys.setdefault(name, set())
        if row["attname"] is not None:
            columns[name][row["attname"]] = Column(row["type"], row["attnotnull"], row["filled"], row["generated"])
            if row["in_key"]:
                keys[name].add(row["attname"])
    return Shape(
        tables={
            name: Table(columns[name], identity, frozenset(keys[name]), unlogged)
            for name, (identity, unlogged) in rest.items()
        },
        sequences={
            TableName(row["nspname"], row["relname"]): SequenceShape(row["seqincrement"], row["seqcycle"])
            for row in await session.fetch(_SEQUENCES)
        },
        enums={row["name"]: tuple(row["labels"]) for row in await session.fetch(_ENUMS)},
    )
