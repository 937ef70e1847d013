"""Whether the schema of the destination takes every row of the source, and the source every row back."""

from __future__ import annotations

from collections.abc import Iterator

from .fragments import nonempty_tables
from .model import CheckContext, Finding, Phase, Severity, Where
from .registry import check
from .row_counts import surplus_rows
from .snapshot import Column, Table, snapshots
from .type_change import takes_all_values

_APPLY_SCHEMA = "apply the schema of the source to the destination"


@check("D01", "tables and columns of the source exist on the destination", Severity.BLOCK, Where.BOTH)
async def check_columns(context: CheckContext) -> list[Finding]:
    both = await snapshots(context)
    if both is None:
        return [
            Finding(
                "D01",
                Severity.INFO,
                context.on(context.destination),
                "there is no table yet; the schemas (D and Q checks) are compared once there is one",
                "REPLICATE copies the schema",
            )
        ]
    source, destination = both
    findings: list[Finding] = []
    for name, table in source.tables.items():
        other = destination.tables.get(name)
        if other is None:
            if not table.parent:  # T07a speaks about partitions
                finding = "the table is missing here"
                findings.append(_d01(Severity.BLOCK, context, name, finding, _APPLY_SCHEMA))
            continue
        for severity, column, finding, remedy in compare_columns(table, other):
            findings.append(_d01(severity, context, f"{name}.{column}", finding, remedy))
    return findings


def _d01(severity: Severity, context: CheckContext, name: str, finding: str, remedy: str) -> Finding:
    return Finding("D01", severity, context.on(context.destination, name), finding, remedy)


def compare_columns(table: Table, other: Table) -> Iterator[tuple[Severity, str, str, str]]:
    """What is different in the destination's `other`: severity, column, finding, remedy."""
    for column in table.columns.values():
        there = other.columns.get(column.name)
        if there is None:
            yield Severity.BLOCK, column.name, "the column is missing here: applying fails", _APPLY_SCHEMA
        else:
            for severity, finding, remedy in _compare(column, there):
                yield severity, column.name, finding, remedy
    for column in other.columns.values():
        fills_itself = column.default or column.identity or column.generated
        if column.name not in table.columns and column.not_null and not fills_itself:
            yield (
                Severity.BLOCK,
                column.name,
                "the column exists only here, is NOT NULL and has no default: applying an INSERT fails",
                "give it a default, or allow NULL until the cutover",
            )


def _compare(column: Column, there: Column) -> Iterator[tuple[Severity, str, str]]:
    if column.type != there.type:
        taken = takes_all_values(column.type, there.type)
        yield (
            Severity.WARN if taken else Severity.BLOCK,
            f"type {column.type} on the source, {there.type} here"
            + ("; larger values would not go back" if taken else ": not every value is sure to be taken"),
            "ALTER TABLE ... ALTER COLUMN ... TYPE ... on one of the sides",
        )
    if there.not_null and not column.not_null:
        yield (
            Severity.BLOCK,
            "NOT NULL here, nullable on the source: applying a null fails",
            "DROP NOT NULL here, or SET NOT NULL on the source",
        )
    elif column.not_null and not there.not_null:
        yield (
            Severity.WARN,
            "NOT NULL on the source, nullable here: a null would not go back",
            "SET NOT NULL here",
        )
    if column.default != there.default:
        yield (
            Severity.WARN,
            f"default {column.default or 'null'} on the source, {there.default or 'null'} here",
            "SET DEFAULT on one of the sides, where that is not intended",
        )
    if column.collation != there.collation:
        yield (
            Severity.WARN,
            f"collation {column.collation or 'default'} on the source, {there.collation or 'default'} here",
            "use the same collation, or check sort order and unique keys",
        )


@check("D01b", "tables and columns of the destination exist on the source", Severity.BLOCK, Where.BOTH)
async def check_columns_for_way_back(context: CheckContext) -> list[Finding]:
    """The way back takes every table and column that the destination publishes."""
    both = await snapshots(context)
    if both is None:
        return []
    source, destination = both
    findings = [
        Finding(
            "D01b",
            Severity.WARN if other.unlogged else Severity.BLOCK,
            context.on(context.destination, name),
            "the table exists only here: the way back has no place for its rows",
            "create it on the source, too",
        )
        for name, other in destination.tables.items()
        if name not in source.tables and not other.parent  # T07a speaks about partitions
    ]
    return findings + [
        Finding(
            "D01b",
            Severity.BLOCK,
            context.on(context.destination, f"{name}.{column.name}"),
            "the column exists only here: after the cutover, no change of the table could go back",
            f"add it to the source: ALTER TABLE {name} ADD COLUMN {column.name} {column.type};",
        )
        for name, other in destination.tables.items()
        if name in source.tables
        for column in other.columns.values()
        # A generated column is computed on each side, and T09 compares those that both have.
        if column.name not in source.tables[name].columns and not column.generated
    ]


@check("D08", "the destination holds no rows that the source does not", Severity.BLOCK, Where.BOTH)
async def check_surplus_rows(context: CheckContext) -> list[Finding]:
    """Before the copy no table may hold rows. Afterwards tables whose estimates differ are counted; whether
    the rows are the same is what VERIFY tells."""
    both = await snapshots(context)
    if both is None:
        return []
    tables = sorted(n for n, t in both[1].tables.items() if not t.partitioned and not t.unlogged)
    if context.phase == Phase.SETUP and context.subscription is None:
        return [
            Finding(
                "D08",
                Severity.BLOCK,
                context.on(context.destination, name),
                "the table holds rows before the copy: they would clash with the copied ones, or be too many",
                f"TRUNCATE {name}; on the destination, after making sure that nobody needs its rows",
            )
            for name in await nonempty_tables(context.destination, tables)
        ]
    return await surplus_rows(context, [name for name in tables if name in both[0].tables])
