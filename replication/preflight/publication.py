"""Whether the publication carries every change of every table."""

from __future__ import annotations

from ..sqltext import identifier
from .fragments import OWN_SCHEMA, RELATIONS, some, users_relation
from .model import CheckContext, Finding, Severity, Where
from .registry import check
from .replication_state import subscription_row
from .snapshot import snapshots


async def publications(context: CheckContext) -> list[str]:
    """Those that the subscription takes (an adopted one may take several), else the one that it will take."""
    subscription = await subscription_row(context)
    if subscription is not None:
        return sorted(subscription["publications"])
    return [context.publication] if context.publication is not None else []


@check("T04", "the publication carries every table", Severity.BLOCK, Where.SOURCE)
async def check_unpublished_tables(context: CheckContext) -> list[Finding]:
    session, names = context.source, await publications(context)
    if not names:
        return []
    known = await session.fetch("select pubname::text as name from pg_publication where pubname = any ($1)", names)
    missing = sorted(set(names) - {row["name"] for row in known})
    findings = [
        Finding(
            "T04",
            Severity.BLOCK,
            context.on(session, name),
            "the publication does not exist",
            "RESET, then REPLICATE; or make it again as it was",
        )
        for name in missing
    ]
    # With no publication left, that is the finding, not every table.
    unpublished = await session.fetch(_UNPUBLISHED, names) if len(missing) < len(names) else []
    quoted = ", ".join(identifier(name) for name in names)
    return findings + [
        Finding(
            "T04",
            Severity.BLOCK,
            context.on(session, row["relation"]),
            f"no change of this table is replicated: {quoted} does not carry it",
            f"ALTER PUBLICATION ... ADD TABLE {row['relation']}; and on the destination"
            " ALTER SUBSCRIPTION ... REFRESH PUBLICATION;",
        )
        for row in unpublished
    ]


# A partition is carried when it, or a table above it, is published.
_UNPUBLISHED = f"""
    with published as (
        select c.oid from pg_publication_tables p
            join pg_namespace n on n.nspname = p.schemaname
            join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
        where p.pubname = any ($1))
    select c.oid::regclass::text as relation
    from {RELATIONS}
    where c.relkind = 'r' and c.relpersistence = 'p' and {users_relation()}
        and c.oid not in (select oid from published)
        and not (c.relispartition and exists (
            select from pg_partition_ancestors(c.oid) a where a.relid in (select oid from published)))
    order by 1"""


@check("T05", "the publication carries every operation", Severity.BLOCK, Where.SOURCE)
async def check_published_operations(context: CheckContext) -> list[Finding]:
    rows = await context.source.fetch(
        "select pubname::text as name, pubinsert as insert, pubupdate as update, pubdelete as delete,"
        " pubtruncate as truncate from pg_publication where pubname = any ($1) order by 1",
        await publications(context),
    )
    return [
        Finding(
            "T05",
            Severity.BLOCK,
            context.on(context.source, row["name"]),
            f"the publication leaves out {operation.upper()}",
            f"ALTER PUBLICATION {identifier(row['name'])}"
            " SET (publish = 'insert, update, delete, truncate'); and copy again what was left out",
        )
        for row in rows
        for operation in ("insert", "update", "delete", "truncate")
        if not row[operation]
    ]


@check("T06", "no row filter and no column list", Severity.BLOCK, Where.SOURCE)
async def check_partial_publication(context: CheckContext) -> list[Finding]:
    """Both came with 15; to_jsonb reads their columns where they exist. A list that leaves out only columns
    the destination does not have is how a changed schema finds its way back; it is no partial copy."""
    both = await snapshots(context)
    there = both[1].tables if both is not None else {}
    findings: list[Finding] = []
    for row in await context.source.fetch(_PARTIAL, await publications(context)):
        table = there.get(row["relation"])
        left_out = [name for name in row["left_out"] if table is None or name in table.columns]
        kinds = (["rows"] if row["filtered"] else []) + ([f"columns, not {some(left_out)}"] if left_out else [])
        findings += [
            Finding(
                "T06",
                Severity.BLOCK,
                context.on(context.source, row["relation"]),
                f"the publication carries only some {kind}: a partial copy cannot take over",
                f"let {identifier(row['publication'])} carry the whole table, and copy it again",
            )
            for kind in kinds
        ]
    return findings


_PARTIAL = f"""
    select r.prrelid::regclass::text as relation, p.pubname::text as publication,
        to_jsonb(r) ->> 'prqual' is not null as filtered,
        array(select quote_ident(a.attname) from pg_attribute a
            where a.attrelid = r.prrelid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                and jsonb_typeof(to_jsonb(r) -> 'prattrs') = 'array'
                and not to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)
            order by a.attnum) as left_out
    from {RELATIONS} join pg_publication_rel r on r.prrelid = c.oid
        join pg_publication p on p.oid = r.prpubid
    where p.pubname = any ($1) and n.nspname <> '{OWN_SCHEMA}' order by 1"""
