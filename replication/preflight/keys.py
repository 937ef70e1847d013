"""Keys, constraints and indexes that one side has and the other lacks, or that are not fit for use."""

from __future__ import annotations

from collections.abc import Iterator

from .fragments import RELATIONS, users_relation
from .model import CheckContext, Finding, Severity, Where
from .registry import check
from .snapshot import Table, snapshots


@check("D02", "keys, constraints and indexes exist on the destination", Severity.BLOCK, Where.BOTH)
async def check_constraints(context: CheckContext) -> list[Finding]:
    """Compared by what they say, not by name. Without a unique key the destination takes what must not be."""
    both = await snapshots(context)
    if both is None:
        return []
    source, destination = both
    findings: list[Finding] = []
    for name, table in source.tables.items():
        other = destination.tables.get(name)
        if other is None:
            continue
        object_ = context.on(context.destination, name)
        for severity, text in missing_constraints(table, other):
            findings.append(Finding("D02", severity, object_, f"missing here: {text}", "create it here, too"))
        for severity, text in missing_constraints(other, table):
            # An extra key here refuses rows that the source accepts; what is only slower there may differ.
            if severity is Severity.BLOCK:
                finding = f"only here: {text}; applying fails on rows that the source allows"
                remedy = "drop it until the cutover, or create it on the source"
                findings.append(Finding("D02", Severity.WARN, object_, finding, remedy))
    return findings


def missing_constraints(table: Table, other: Table) -> Iterator[tuple[Severity, str]]:
    """What `table` has and `other` lacks."""
    for key in sorted(table.unique_keys - other.unique_keys, key=str):
        yield Severity.BLOCK, str(key)
    for definition in sorted(table.exclusions - other.exclusions):
        yield Severity.BLOCK, definition
    for definition in sorted(table.constraints - other.constraints):
        yield Severity.WARN, definition
    for definition in sorted(table.indexes - other.indexes):
        yield Severity.WARN, definition


@check("K01", "constraints are validated", Severity.WARN, Where.BOTH)
async def check_validated(context: CheckContext) -> list[Finding]:
    query = (
        f"select c.oid::regclass::text as relation, quote_ident(k.conname) as name from {RELATIONS}"
        " join pg_constraint k on k.conrelid = c.oid"
        f" where not k.convalidated and {users_relation()} order by 1, 2"
    )
    return [
        Finding(
            "K01",
            Severity.WARN,
            context.on(session, row["relation"]),
            f"constraint {row['name']} was never validated: older rows may break it",
            f"ALTER TABLE {row['relation']} VALIDATE CONSTRAINT {row['name']};",
        )
        for session in context.both
        for row in await session.fetch(query)
    ]


@check("K02", "indexes are valid", Severity.BLOCK, Where.BOTH)
async def check_valid_indexes(context: CheckContext) -> list[Finding]:
    """An invalid one on the destination leaves duplicates in, or makes queries slow after the cutover."""
    query = (
        f"select i.indexrelid::regclass::text as name, c.oid::regclass::text as relation from {RELATIONS}"
        f" join pg_index i on i.indrelid = c.oid where not (i.indisvalid and i.indisready)"
        f" and {users_relation()} order by 1"
    )
    return [
        Finding(
            "K02",
            Severity.BLOCK if session is context.destination else Severity.WARN,
            context.on(session, row["name"]),
            f"the index of {row['relation']} is invalid: it was not built to the end",
            f"REINDEX INDEX {row['name']}; or drop it",
        )
        for session in context.both
        for row in await session.fetch(query)
    ]
