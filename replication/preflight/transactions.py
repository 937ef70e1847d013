"""Transactions and schema changes that are under way, and that a cutover would have to wait for."""

from __future__ import annotations

from .fragments import IS_CONTROL, RELATIONS, WHO, need_activity, users_relation
from .model import CheckContext, Finding, Phase, Severity, Where
from .registry import check
from .settings import reverse_slot_exists

_IDLE_IN_TRANSACTION_WARN_MS = 1_000


@check("P01", "no prepared transactions", Severity.BLOCK, Where.BOTH)
async def check_prepared_transactions(context: CheckContext) -> list[Finding]:
    """One of this database would stay behind, or be committed after the move. One of any database of the
    server keeps a slot from being made: that waits for every transaction that is open."""
    slot_is_made = {
        context.source.endpoint.name: context.phase == Phase.ARM,
        context.destination.endpoint.name: await reverse_slot_exists(context),
    }
    findings: list[Finding] = []
    for session in context.both:
        rows = await session.fetch(
            "select gid, database::text, database = current_database() as here,"
            " extract(epoch from now() - prepared)::bigint as age_s from pg_prepared_xacts order by gid"
        )
        for row in rows:
            harmless = not row["here"] and slot_is_made[session.endpoint.name]
            findings.append(
                Finding(
                    "P01",
                    Severity.WARN if harmless else Severity.BLOCK,
                    context.on(session, row["gid"]),
                    f"a transaction prepared {row['age_s']} s ago in database {row['database']}"
                    + ("" if row["here"] else "; making a replication slot waits for it"),
                    f"COMMIT PREPARED or ROLLBACK PREPARED '{row['gid']}'; there, as its owner decides",
                )
            )
    return findings


@check("P02a", "no transaction is older than the pause budget", Severity.BLOCK, Where.SOURCE)
async def check_long_transactions(context: CheckContext) -> list[Finding]:
    """The gate waits for every open transaction of a client, and for those of others that write."""
    session = context.source
    await need_activity(context, session)
    rows = await session.fetch(_TRANSACTIONS, context.pause_budget_ms, context.own_pids(session))
    return [
        Finding(
            "P02a",
            Severity.BLOCK if row["writes"] or row["ours"] else Severity.WARN,
            context.on(session, row["who"]),
            f"a transaction is open for {row['age_s']:.1f} s ({row['state']}), longer than the"
            f" {context.pause_budget_ms} ms of a pause" + ("" if row["writes"] else "; it has not written"),
            f"wait for it, or SELECT pg_terminate_backend({row['pid']});",
        )
        for row in rows
        if row["here"]
    ]


_TRANSACTIONS = f"""
    select a.pid, {WHO} as who, coalesce(a.state, a.backend_type) as state, a.backend_type,
        extract(epoch from clock_timestamp() - a.xact_start)::float8 as age_s,
        a.backend_xid is not null as writes, a.pid = any ($2) as ours, a.datname = current_database() as here
    from pg_stat_activity a
    where a.xact_start < clock_timestamp() - $1 * interval '1 ms' and a.pid <> pg_backend_pid()
        and a.backend_type not in ('autovacuum worker', 'walsender', 'logical replication launcher')
        and not {IS_CONTROL}
    order by a.xact_start"""


@check("P02b", "no session idles in a transaction", Severity.WARN, Where.SOURCE)
async def check_idle_in_transaction(context: CheckContext) -> list[Finding]:
    session = context.source
    await need_activity(context, session)
    rows = await session.fetch(
        f"select {WHO} as who, extract(epoch from clock_timestamp() - a.state_change)::float8 as idle_s"
        " from pg_stat_activity a where a.datname = current_database()"
        " and a.state like 'idle in transaction%'"
        " and a.state_change < clock_timestamp() - $1 * interval '1 ms'"
        f" and not {IS_CONTROL} order by 2 desc",
        _IDLE_IN_TRANSACTION_WARN_MS,
    )
    return [
        Finding(
            "P02b",
            Severity.WARN,
            context.on(session, row["who"]),
            f"idle in a transaction for {row['idle_s']:.1f} s: a cutover waits for such sessions",
            "see that it ends its transactions; client_idle_in_transaction_timeout can do it",
        )
        for row in rows
    ]


@check("P02c", "no long transaction on the destination", Severity.BLOCK, Where.DESTINATION)
async def check_destination_transactions(context: CheckContext) -> list[Finding]:
    """The slot of the way back is made there, and that waits for every transaction of the server that has an
    id, whichever database it is in. Once the slot exists they do no harm."""
    session = context.destination
    if await reverse_slot_exists(context):
        return []
    await need_activity(context, session)
    rows = await session.fetch(_TRANSACTIONS, context.pause_budget_ms, context.own_pids(session))
    return [
        Finding(
            "P02c",
            Severity.BLOCK,
            context.on(session, row["who"]),
            f"a transaction with an id is open for {row['age_s']:.1f} s ({row['state']}): making the slot of"
            " the way back would wait for it",
            f"wait for it, or SELECT pg_terminate_backend({row['pid']});",
        )
        for row in rows
        if row["writes"]
    ]


@check("P02d", "no schema change is running", Severity.BLOCK, Where.BOTH)
async def check_running_ddl(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for session in context.both:
        await need_activity(context, session)
        for row in await session.fetch(_RUNNING_DDL):
            builds = row["builds"]
            findings.append(
                Finding(
                    "P02d",
                    Severity.BLOCK if builds else Severity.WARN,
                    context.on(session, row["who"]),
                    f"{'builds an index on or rewrites' if builds else 'has locked'} {row['relation']}",
                    "wait until it is done, do the same on the other side, then run CHECK again",
                )
            )
    return findings


_RUNNING_DDL = f"""
    select {WHO} as who, coalesce(p.relid::regclass::text, 'a table') as relation, true as builds
    from (select pid, relid, datid from pg_stat_progress_create_index
          union all select pid, relid, datid from pg_stat_progress_cluster) p
        join pg_stat_activity a on a.pid = p.pid join pg_database d on d.oid = p.datid
    where d.datname = current_database() and a.backend_type = 'client backend'
    union
    select {WHO}, c.oid::regclass::text, false
    from pg_locks l join pg_stat_activity a on a.pid = l.pid join pg_database d on d.oid = l.database,
        {RELATIONS}
    where d.datname = current_database() and l.locktype = 'relation' and l.relation = c.oid
        and l.mode = 'AccessExclusiveLock' and l.granted and c.relkind in ('r', 'p')
        and a.backend_type = 'client backend' and not {IS_CONTROL} and {users_relation()}
    order by 1, 2"""
