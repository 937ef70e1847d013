"""Removing what a schema copy made, and only that.

What is ours is a set of names. It is removed as DROP ... RESTRICT would remove it if it could take the whole
set at once: where an object that is not in the set depends on one that is, nothing is removed and the error
names both. Only when nothing stands in the way is CASCADE used, which then reaches nothing but the set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import asyncpg

from .builtin_rights import drop_default_privileges
from .errors import SchemaInTheWay, listed
from .inventory import Listed, ObjectKey, inventory
from .session import ControlSession

_TIMEOUT_S = 600.0
# One transaction drops this many, so that its locks fit in the lock table of a server with small settings
# (64 for each of 100 connections by default; a table takes a few: max_locks_per_transaction).
_CHUNK = 200

_DROP_WORDS = {
    "event trigger": "EVENT TRIGGER",
    "foreign table": "FOREIGN TABLE",
    "materialized view": "MATERIALIZED VIEW",
    "view": "VIEW",
    "table": "TABLE",
    "sequence": "SEQUENCE",
    "statistics object": "STATISTICS",
    "function": "FUNCTION",
    "procedure": "PROCEDURE",
    "aggregate": "AGGREGATE",
    "transform": "TRANSFORM",
    "cast": "CAST",
    "operator class": "OPERATOR CLASS",
    "operator family": "OPERATOR FAMILY",
    "operator": "OPERATOR",
    "text search configuration": "TEXT SEARCH CONFIGURATION",
    "text search dictionary": "TEXT SEARCH DICTIONARY",
    "text search parser": "TEXT SEARCH PARSER",
    "text search template": "TEXT SEARCH TEMPLATE",
    "conversion": "CONVERSION",
    "type": "TYPE",
    "collation": "COLLATION",
    "server": "SERVER",
    "foreign-data wrapper": "FOREIGN DATA WRAPPER",
    "access method": "ACCESS METHOD",
    "language": "LANGUAGE",
    "extension": "EXTENSION",
    "schema": "SCHEMA",
}
"""In the order of dropping; schemas are empty by then."""

_TAKES_A_LIST = frozenset(_DROP_WORDS) - {
    "transform", "cast", "operator class", "operator family", "conversion", "language", "access method",
    "text search configuration", "text search dictionary", "text search parser", "text search template",
}  # fmt: skip

# Parts (deptype a, i, P, S, e) go with their whole even under RESTRICT; a normal dependent (n) of anything
# in the set that is not in it itself is in the way (PostgreSQL: 53.18 pg_depend).
_PARTS = """
WITH RECURSIVE parts (classid, objid) AS (
    SELECT * FROM unnest($1::oid[], $2::oid[])
    UNION
    SELECT d.classid, d.objid FROM parts p
    JOIN pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid
    WHERE d.deptype IN ('a', 'i', 'P', 'S', 'e')
)
"""
_BLOCKERS = (
    _PARTS
    + """
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) || ' depends on '
    || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) AS what
FROM parts p JOIN pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid
WHERE d.deptype = 'n' AND NOT EXISTS (SELECT FROM parts o WHERE o.classid = d.classid AND o.objid = d.objid)
ORDER BY 1
"""
)
_PART_IDS = _PARTS + "SELECT classid::bigint AS classid, objid::bigint AS objid FROM parts"


async def remove_objects(session: ControlSession, ours: Collection[ObjectKey]) -> int:
    """Drop those of `ours` that exist; returns how many there were. Can be repeated after a crash.

    Raises SchemaInTheWay before anything is dropped where somebody else's objects depend on them.
    """
    there = await inventory(session)
    doomed = [there[key] for key in ours if key in there]
    if not doomed:
        return 0
    await _refuse_dependents(session, doomed, there)
    by_type: dict[str, list[Listed]] = defaultdict(list)
    for entry in doomed:
        by_type[entry.key.type].append(entry)
    for entry in by_type["default acl"]:
        await _drop_default_acl(session, entry)
    for kind, word in _DROP_WORDS.items():
        for names in _chunks([entry.identity for entry in by_type[kind]], _CHUNK if kind in _TAKES_A_LIST else 1):
            await _drop(session, f"DROP {word} IF EXISTS {', '.join(names)} CASCADE")
    left = set(ours) & set(await inventory(session))
    if left:
        raise SchemaInTheWay(
            f'some of the copied schema is still on "{session.endpoint.name}"',
            detail=listed([str(key) for key in sorted(left)]),
            hint="Drop it there, then run RESET again.",
        )
    return len(doomed)


async def _refuse_dependents(session: ControlSession, doomed: Sequence[Listed], there: dict[ObjectKey, Listed]) -> None:
    arrays = [entry.classid for entry in doomed], [entry.objid for entry in doomed]
    blockers = [row["what"] for row in await session.fetch(_BLOCKERS, *arrays, timeout_s=_TIMEOUT_S)]
    ours = {(entry.classid, entry.objid) for entry in doomed}
    strangers = {(entry.classid, entry.objid): entry for entry in there.values()}
    for row in await session.fetch(_PART_IDS, *arrays, timeout_s=_TIMEOUT_S):
        place = (row["classid"], row["objid"])
        if place in strangers and place not in ours:
            blockers.append(f"{strangers[place].key} is part of a copied object")
    if blockers:
        raise SchemaInTheWay(
            f'objects on "{session.endpoint.name}" that pgcutover did not make depend on the copied schema',
            detail=listed(blockers),
            hint="Drop or move them, then run RESET again. Nothing was removed.",
        )


async def _drop(session: ControlSession, statement: str) -> None:
    try:
        await session.execute(statement, timeout_s=_TIMEOUT_S)
    except asyncpg.PostgresError as error:
        raise SchemaInTheWay(
            f'"{session.endpoint.name}" refused to drop a part of the copied schema: {error}',
            hint="Mend that, then run RESET again; it goes on where it stopped.",
        ) from error


async def _drop_default_acl(session: ControlSession, entry: Listed) -> None:
    role, *schema = entry.key.names
    await drop_default_privileges(session, role, schema[0] if schema else None, entry.key.arguments[0])


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
