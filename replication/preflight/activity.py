"""Who uses the two databases besides the proxy, and whether the fence and the housekeeping will work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import asyncpg

from config.model import FenceKind

from .fragments import IS_CONTROL, RELATIONS, WHO, need_activity, some, users_relation
from .model import CannotCheck, CheckContext, Finding, Severity, Where
from .registry import ARM_ONLY, check

# A writer with short transactions is idle most of the time; it is looked for several times.
_WRITER_LOOKS = 5
_WRITER_LOOK_INTERVAL_S = 0.04


@check("P03", "nobody uses the source but through the proxy", Severity.BLOCK, Where.SOURCE)
async def check_strangers(context: CheckContext) -> list[Finding]:
    """They would go on writing to the old database; a fence ends their sessions and keeps honest ones out."""
    session = context.source
    await need_activity(context, session)
    fenced = context.fence is not FenceKind.NONE
    return [
        Finding(
            "P03",
            Severity.WARN if fenced else Severity.BLOCK,
            context.on(session, row["who"]),
            f"connected from {row['address']}, not through the proxy"
            + ("; the fence ends this session at the cutover" if fenced else "; it goes on writing here"),
            "let it connect to the proxy" + ("" if fenced else ", or set cutover_fence to read_only or triggers"),
        )
        for row in await session.fetch(_STRANGERS, context.own_pids(session))
    ]


_STRANGERS = f"""
    select a.pid, {WHO} as who, coalesce(host(a.client_addr), 'a local socket') as address,
        a.backend_xid is not null as writes, a.usename = current_user or r.rolsuper as admin,
        r.rolsuper or exists (select from {RELATIONS}
            where c.relkind in ('r', 'p') and {users_relation()}
                and has_table_privilege(a.usesysid, c.oid, 'insert, update, delete, truncate')) as may_write
    from pg_stat_activity a join pg_roles r on r.oid = a.usesysid
    where a.datname = current_database() and a.backend_type = 'client backend'
        and a.pid <> all ($1) and not {IS_CONTROL}
    order by 1"""


@check("P03b", "nobody else writes to the destination", Severity.BLOCK, Where.DESTINATION)
async def check_destination_writers(context: CheckContext) -> list[Finding]:
    """A session that is seen writing blocks, and one of an ordinary role that may write. An administrator's
    that is not seen writing does not: somebody may watch the move."""
    session = context.destination
    await need_activity(context, session)
    seen: dict[int, asyncpg.Record] = {}
    for look in range(_WRITER_LOOKS):
        for row in await session.fetch(_STRANGERS, context.own_pids(session)):
            if row["pid"] not in seen or row["writes"]:
                seen[row["pid"]] = row
        if not seen:
            break
        if look + 1 < _WRITER_LOOKS:
            await asyncio.sleep(_WRITER_LOOK_INTERVAL_S)
    return [_destination_writer(context, row) for row in seen.values()]


def _destination_writer(context: CheckContext, row: Mapping[str, object]) -> Finding:
    blocks = bool(row["writes"] or (row["may_write"] and not row["admin"]))
    what = "is writing" if row["writes"] else "may write" if row["may_write"] else "may only read"
    return Finding(
        "P03b",
        Severity.BLOCK if blocks else Severity.WARN,
        context.on(context.destination, str(row["who"])),
        f"connected from {row['address']}, and {what}: what it writes here is not on the source",
        "let it connect to the proxy, which leads to the source until the cutover",
    )


@check("P09", "the fence can be put up", Severity.BLOCK, Where.BOTH)
async def check_fence_rights(context: CheckContext) -> list[Finding]:
    if context.fence is FenceKind.NONE:
        return []
    findings: list[Finding] = []
    for session in context.both:
        row = await session.fetchrow(_FENCE_RIGHTS)
        if row is None:
            raise CannotCheck("the control user is not in pg_roles")
        user = session.endpoint.user
        object_ = context.on(session, user)
        if not row["may_alter"]:
            remedy = f"make {user} a member of {row['owner']}, who owns the database"
            finding = "may not ALTER DATABASE ... SET, which fences the old side"
            findings.append(Finding("P09", Severity.BLOCK, object_, finding, remedy))
        if not row["may_terminate"]:
            remedy = f"GRANT pg_signal_backend TO {user};"
            finding = "may not terminate the sessions of others, which the fence does"
            findings.append(Finding("P09", Severity.BLOCK, object_, finding, remedy))
        if context.fence is FenceKind.TRIGGERS and row["no_trigger"]:
            finding = f"may not create triggers on {some(row['no_trigger'])}"
            findings.append(Finding("P09", Severity.BLOCK, object_, finding, "GRANT TRIGGER ON them, or own them"))
        if row["superusers"] and not row["super"]:
            finding = f"cannot terminate the sessions of superusers: {some(row['superusers'])}"
            findings.append(Finding("P09", Severity.WARN, object_, finding, "end them by hand before the cutover"))
    return findings


_FENCE_RIGHTS = f"""
    select r.rolsuper as super, pg_get_userbyid(d.datdba)::text as owner,
        pg_has_role(r.oid, d.datdba, 'usage') as may_alter,
        r.rolsuper or exists (select from pg_roles s where s.rolname = 'pg_signal_backend'
            and pg_has_role(r.oid, s.oid, 'usage')) as may_terminate,
        array(select distinct x.rolname::text from pg_stat_activity a join pg_roles x on x.oid = a.usesysid
            where a.datid = d.oid and x.rolsuper) as superusers,
        array(select c.oid::regclass::text from {RELATIONS}
            where c.relkind = 'r' and {users_relation()} and not has_table_privilege(c.oid, 'trigger')
            order by 1) as no_trigger
    from pg_roles r, pg_database d where r.rolname = current_user and d.datname = current_database()"""


@check("P10", "the destination has statistics", Severity.WARN, Where.DESTINATION, ARM_ONLY)
async def check_statistics(context: CheckContext) -> list[Finding]:
    session = context.destination
    rows = await session.fetch(
        f"select c.oid::regclass::text as relation from {RELATIONS}"
        " left join pg_stat_all_tables s on s.relid = c.oid"
        f" where c.relkind = 'r' and {users_relation()} and pg_relation_size(c.oid) > 0"
        " and s.last_analyze is null and s.last_autoanalyze is null and c.reltuples <= 0 order by 1"
    )
    if not rows:
        return []
    names = [row["relation"] for row in rows]
    finding = f"{len(names)} tables were never analyzed; their first queries get poor plans: {some(names)}"
    return [
        Finding(
            "P10",
            Severity.WARN,
            context.on(session),
            finding,
            "ANALYZE; on the destination before the cutover",
        )
    ]


@check("P11", "the destination is looked after", Severity.WARN, Where.DESTINATION)
async def check_housekeeping(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for name, harmful, finding in (
        ("autovacuum", "off", "autovacuum is off: dead rows stay and statistics grow old"),
        ("archive_mode", "off", "WAL is not archived there, and it is on the source"),
    ):
        here, there = [await session.fetchval("select current_setting($1)", name) for session in context.both]
        if there == harmful and here != harmful:
            object_ = context.on(context.destination, name)
            remedy = f"set {name} as on the source before the cutover"
            findings.append(Finding("P11", Severity.WARN, object_, finding, remedy))
    return findings
