"""Whether both sides have the same partitions and inheritance children."""

from __future__ import annotations

from .fragments import RELATIONS, some, users_schema
from .model import CheckContext, Finding, Severity, Where
from .publication import publications
from .registry import check
from .snapshot import snapshots


@check("T07a", "both sides have the same partitions", Severity.BLOCK, Where.BOTH)
async def check_partitions(context: CheckContext) -> list[Finding]:
    """Without publish_via_partition_root, changes arrive under the name of the partition they are in."""
    both = await snapshots(context)
    if both is None:
        return []
    source, destination = both
    by_root = await _published_via_root(context)
    findings: list[Finding] = []
    for name, table in source.tables.items():
        other = destination.tables.get(name)
        if not table.parent or (other is not None and other.bound == table.bound):
            continue
        if other is None and by_root and table.parent in destination.tables:
            continue
        findings.append(
            Finding(
                "T07a",
                Severity.WARN if other is not None and by_root else Severity.BLOCK,
                context.on(context.destination, name),
                f"partition of {table.parent} {table.bound}: "
                + ("missing here" if other is None else f"here it is {other.bound or 'no partition'}"),
                "create it on the destination as it is on the source, and the partitions of the near future",
            )
        )
    findings += [
        Finding(
            "T07a",
            Severity.BLOCK,
            context.on(context.destination, name),
            f"partition of {table.parent} exists only here: its rows could not go back",
            "create it on the source, too",
        )
        for name, table in destination.tables.items()
        if table.parent in source.tables and name not in source.tables and not by_root
    ]
    return findings


async def _published_via_root(context: CheckContext) -> bool:
    return bool(
        await context.source.fetchval(
            "select coalesce(bool_or(pubviaroot), false) from pg_publication where pubname = any ($1)",
            await publications(context),
        )
    )


@check("T07b", "inheritance children", Severity.INFO, Where.SOURCE)
async def check_inheritance(context: CheckContext) -> list[Finding]:
    session = context.source
    rows = await session.fetch(
        "select c.oid::regclass::text as parent, array_agg(i.inhrelid::regclass::text) as children"
        f" from {RELATIONS} join pg_inherits i on i.inhparent = c.oid"
        f" where c.relkind = 'r' and {users_schema('n')} group by c.oid order by 1"
    )
    return [
        Finding(
            "T07b",
            Severity.INFO,
            context.on(session, row["parent"]),
            f"has inheritance children: {some(row['children'])}",
            "see that the publication carries each of them (T04 names those it does not)",
        )
        for row in rows
    ]
