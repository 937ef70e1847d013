"""Whether every sequence can be set on the destination to where the source's stands."""

from __future__ import annotations

import asyncpg

from ..session import ControlSession
from ..sqltext import identifier
from .fragments import RELATIONS, users_relation
from .model import CheckContext, Finding, Severity, Where
from .registry import check
from .snapshot import destination_has_schema

# Only worth a word when that few calls are left.
_NEAR_END_CALLS = 1_000
# Setting them all takes about 20 ms then, which shows in the pause.
_MANY = 1_000


async def _sequences(context: CheckContext, session: ControlSession) -> dict[str, asyncpg.Record]:
    async def load() -> dict[str, asyncpg.Record]:
        return {row["name"]: row for row in await session.fetch(_SEQUENCES)}

    return await context.once(f"sequences {session.endpoint.name}", load)


# Not the view pg_sequences: there "never called" and "you may not read it" are both null.
_SEQUENCES = f"""
    select c.oid::regclass::text as name, s.seqtypid::regtype::text as type, s.seqincrement as increment,
        s.seqmin as minimum, s.seqmax as maximum, s.seqcycle as cycles, s.seqcache as cache,
        s.seqstart as start,
        has_sequence_privilege(c.oid, 'select') and has_sequence_privilege(c.oid, 'update') as allowed,
        case when has_sequence_privilege(c.oid, 'select')
            then pg_sequence_last_value(c.oid) end as last_value,
        coalesce((select o.refobjid::regclass || '.' || quote_ident(a.attname)
            from pg_depend o join pg_attribute a on a.attrelid = o.refobjid and a.attnum = o.refobjsubid
            where o.classid = 'pg_class'::regclass and o.objid = c.oid and o.deptype in ('a', 'i')
                and o.refclassid = 'pg_class'::regclass limit 1), '') as owner
    from {RELATIONS} join pg_sequence s on s.seqrelid = c.oid
    where c.relkind = 'S' and c.relpersistence <> 't' and {users_relation()} order by 1"""

_MUST_AGREE = {
    "type": "type",
    "increment": "increment",
    "minimum": "minimum",
    "maximum": "maximum",
    "cycles": "cycle option",
}
_MAY_DIFFER = {"cache": "cache", "start": "start value", "owner": "owning column"}


@check("Q01a", "sequences exist on the destination with the same definition", Severity.BLOCK, Where.BOTH)
async def check_definitions(context: CheckContext) -> list[Finding]:
    if not await destination_has_schema(context):
        return []
    source, destination = [await _sequences(context, session) for session in context.both]
    findings: list[Finding] = []
    for name, sequence in source.items():
        object_ = context.on(context.destination, name)
        there = destination.get(name)
        if there is None:
            finding = "the sequence is missing here"
            findings.append(Finding("Q01a", Severity.BLOCK, object_, finding, "create it as it is on the source"))
            continue
        for session, row in zip(context.both, (sequence, there), strict=True):
            if not row["allowed"]:
                finding = f'"{session.endpoint.user}" may not read and set the sequence'
                remedy = f"GRANT SELECT, UPDATE ON SEQUENCE {name} TO {identifier(session.endpoint.user)};"
                findings.append(Finding("Q01a", Severity.BLOCK, context.on(session, name), finding, remedy))
        for severity, names in ((Severity.BLOCK, _MUST_AGREE), (Severity.WARN, _MAY_DIFFER)):
            findings += [
                Finding(
                    "Q01a",
                    severity,
                    object_,
                    f"{word} {sequence[key] or 'none'} on the source, {there[key] or 'none'} here",
                    f"ALTER SEQUENCE {name} ...; so that both are the same",
                )
                for key, word in names.items()
                if sequence[key] != there[key]
            ]
    return findings


@check("Q02", "sequences near their end", Severity.INFO, Where.SOURCE)
async def check_near_end(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for name, row in (await _sequences(context, context.source)).items():
        if row["cycles"] or row["last_value"] is None:
            continue
        room = row["maximum"] - row["last_value"] if row["increment"] > 0 else row["last_value"] - row["minimum"]
        calls = room // abs(row["increment"])
        if calls < _NEAR_END_CALLS:
            findings.append(
                Finding(
                    "Q02",
                    Severity.INFO,
                    context.on(context.source, name),
                    f"{calls} values are left before the end of its range",
                    "values are copied exactly, so the cutover needs no room; the application soon will",
                )
            )
    return findings


@check("Q03", "sequences of the destination that are ahead", Severity.INFO, Where.BOTH)
async def check_ahead(context: CheckContext) -> list[Finding]:
    if not await destination_has_schema(context):
        return []
    destination = await _sequences(context, context.destination)
    findings: list[Finding] = []
    for name, row in (await _sequences(context, context.source)).items():
        there = destination.get(name)
        if there is None or there["last_value"] is None:
            continue
        direction = 1 if row["increment"] > 0 else -1
        if row["last_value"] is None or (there["last_value"] - row["last_value"]) * direction > 0:
            findings.append(
                Finding(
                    "Q03",
                    Severity.INFO,
                    context.on(context.destination, name),
                    f"stands at {there['last_value']}, the source at {row['last_value'] or 'its start'}",
                    "nothing: a cutover never sets a sequence back",
                )
            )
    return findings


@check("Q05", "number of sequences", Severity.INFO, Where.SOURCE)
async def check_count(context: CheckContext) -> list[Finding]:
    count = len(await _sequences(context, context.source))
    if count < _MANY:
        return []
    finding = f"{count} sequences; those that moved since the last sync are set inside the pause"
    return [Finding("Q05", Severity.INFO, context.on(context.source), finding, "nothing")]
