"""Types of the user's: their labels, and the OIDs that drivers remember."""

from __future__ import annotations

from ..session import ControlSession
from .fragments import not_of_extension, some, users_schema
from .model import CheckContext, Finding, Severity, Where
from .registry import check
from .snapshot import snapshots


@check("D03", "enum types have the same labels", Severity.BLOCK, Where.BOTH)
async def check_enum_labels(context: CheckContext) -> list[Finding]:
    if await snapshots(context) is None:
        return []
    source, destination = [await _enums(session) for session in context.both]
    findings: list[Finding] = []
    for name, labels in source.items():
        there = destination.get(name)
        if there is None:
            problem = (Severity.BLOCK, "the enum type is missing here", "create it as it is on the source")
        elif missing := [label for label in labels if label not in there]:
            remedy = f"ALTER TYPE {name} ADD VALUE ...; on the destination first"
            problem = (Severity.BLOCK, f"labels missing here: {some(missing)}: applying them fails", remedy)
        elif extra := [label for label in there if label not in labels]:
            remedy = f"ALTER TYPE {name} ADD VALUE ...; on the source"
            problem = (Severity.WARN, f"labels only here, which could not go back: {some(extra)}", remedy)
        elif labels != there:
            problem = (
                Severity.WARN,
                "the labels have another order here, so rows sort differently",
                "create it as it is on the source",
            )
        else:
            continue
        severity, finding, remedy = problem
        findings.append(Finding("D03", severity, context.on(context.destination, name), finding, remedy))
    return findings


async def _enums(session: ControlSession) -> dict[str, list[str]]:
    rows = await session.fetch(
        "select t.oid::regtype::text as name, array_agg(e.enumlabel::text order by e.enumsortorder) as labels"
        " from pg_enum e join pg_type t on t.oid = e.enumtypid join pg_namespace n on n.oid = t.typnamespace"
        f" where {users_schema('n')} and {not_of_extension('pg_type', 't.oid')} group by t.oid order by 1"
    )
    return {row["name"]: row["labels"] for row in rows}


@check("D05", "types of the user's have the same OIDs", Severity.WARN, Where.BOTH)
async def check_type_oids(context: CheckContext) -> list[Finding]:
    """Drivers remember the OIDs of a connection's types, and connections live through a cutover."""
    if await snapshots(context) is None:
        return []
    source, destination = [
        {row["name"]: (row["oid"], row["array"]) for row in await session.fetch(_TYPE_OIDS)} for session in context.both
    ]
    differ = sorted(name for name in source.keys() & destination.keys() if source[name] != destination[name])
    if not differ:
        return []
    return [
        Finding(
            "D05",
            Severity.WARN,
            context.pair_name,
            f"{len(differ)} types have other OIDs on the destination: {some(differ)}",
            "drivers that remember type OIDs should reconnect or reload their types after the cutover",
        )
    ]


# Types of extensions count, too; row types of tables hardly reach a client.
_TYPE_OIDS = f"""
    select t.oid::regtype::text as name, t.oid::bigint, t.typarray::bigint as array
    from pg_type t join pg_namespace n on n.oid = t.typnamespace left join pg_class c on c.oid = t.typrelid
    where {users_schema("n")} and t.typcategory <> 'A' and (t.typrelid = 0 or c.relkind = 'c')"""
