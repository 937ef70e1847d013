"""The stream between the two: its subscription, its slot, how far behind it is, and who else replicates."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from ..session import ControlSession
from ..sqltext import identifier
from .fragments import OWN_SCHEMA
from .model import CannotCheck, CheckContext, ErrorBaseline, Finding, Severity, Where
from .registry import ARM_ONLY, check

# wal_receiver_timeout's default: a publisher that is alive has sent a keepalive by then.
_SILENCE_LIMIT_S = 60.0


async def subscription_row(context: CheckContext) -> asyncpg.Record | None:
    """Our subscription on the destination; the connection string, which not everybody may read, left out."""
    if context.subscription is None:
        return None
    session = context.destination
    skip = "s.subskiplsn::text" if session.major >= 15 else "'0/0'::text"
    return await session.fetchrow(
        "select s.oid, s.subenabled as enabled, s.subslotname::text as slot,"
        f" s.subpublications as publications, {skip} as skip_lsn"
        " from pg_subscription s join pg_database d on d.oid = s.subdbid"
        " where d.datname = current_database() and s.subname = $1",
        context.subscription,
    )


async def _required(context: CheckContext) -> asyncpg.Record:
    """Raises CannotCheck where there is none; P05b says so as well, and how to get one."""
    row = await subscription_row(context)
    if row is None:
        raise CannotCheck("replication is not set up", "REPLICATE first")
    return row


@check("P05a", "every table is in sync", Severity.BLOCK, Where.BOTH, ARM_ONLY)
async def check_tables_ready(context: CheckContext) -> list[Finding]:
    subscription = await _required(context)
    rows = await context.destination.fetch(_TABLE_STATES, subscription["oid"])
    findings = [
        Finding(
            "P05a",
            Severity.BLOCK,
            context.on(context.destination, row["relation"]),
            f"not in sync yet: {_STATES.get(row['state'], row['state'])}",
            "wait; SHOW TABLE_COPIES tells how far it is, the server's log why it does not go on",
        )
        for row in rows
        if row["state"] != "r"
    ]
    published = await context.source.fetch(_PUBLISHED, list(subscription["publications"]))
    missing = {row["relation"] for row in published} - {row["relation"] for row in rows}
    findings += [
        Finding(
            "P05a",
            Severity.BLOCK,
            context.on(context.destination, relation),
            "published, but the subscription does not take it: its changes are ignored",
            f"ALTER SUBSCRIPTION {identifier(context.subscription or '')} REFRESH PUBLICATION;",
        )
        for relation in sorted(missing)
    ]
    if not rows and not missing:
        object_ = context.on(context.destination, context.subscription or "")
        finding = "the subscription takes no table at all"
        findings.append(Finding("P05a", Severity.BLOCK, object_, finding, "REFRESH PUBLICATION, or REPLICATE again"))
    return findings


# pg_subscription_rel.srsubstate (PostgreSQL: 51.54)
_STATES = {
    "i": "waiting for its copy",
    "d": "its rows are being copied",
    "f": "copied, catching up",
    "s": "copied, catching up",
}

_TABLE_STATES = """
    select srrelid::regclass::text as relation, srsubstate::text as state
    from pg_subscription_rel where srsubid = $1 order by 1"""

_PUBLISHED = f"""
    select distinct format('%I.%I', schemaname, tablename) as relation
    from pg_publication_tables where pubname = any ($1) and schemaname <> '{OWN_SCHEMA}'"""


@check("P05b", "the subscription is enabled and its worker alive", Severity.BLOCK, Where.DESTINATION, ARM_ONLY)
async def check_worker(context: CheckContext) -> list[Finding]:
    session = context.destination
    object_ = context.on(session, context.subscription or "subscription")
    subscription = await subscription_row(context)
    if subscription is None:
        finding = "there is no subscription: replication is not set up"
        return [Finding("P05b", Severity.BLOCK, object_, finding, "REPLICATE")]
    if not subscription["enabled"]:
        enable = f"ALTER SUBSCRIPTION {identifier(context.subscription or '')} ENABLE;"
        remedy = f"mend what disabled it (see the server's log), then {enable}"
        return [Finding("P05b", Severity.BLOCK, object_, "the subscription is disabled", remedy)]
    # Parallel apply workers (16+) have rows of their own, with the pid of their leader.
    row = await session.fetchrow(
        "select x.pid, extract(epoch from clock_timestamp() - x.last_msg_receipt_time)::float8 as silent_s"
        " from pg_stat_subscription x where x.subid = $1 and x.relid is null"
        " order by to_jsonb(x) ->> 'leader_pid' nulls first limit 1",
        subscription["oid"],
    )
    remedy = "see the log of the destination's server for the error that ends it"
    if row is None or row["pid"] is None:
        return [Finding("P05b", Severity.BLOCK, object_, "its apply worker is not running", remedy)]
    if row["silent_s"] is None or row["silent_s"] > _SILENCE_LIMIT_S:
        heard = "nothing yet" if row["silent_s"] is None else f"nothing for {row['silent_s']:.0f} s"
        return [Finding("P05b", Severity.BLOCK, object_, f"its apply worker has heard {heard}", remedy)]
    return []


async def read_error_baseline(session: ControlSession, subscription: str) -> ErrorBaseline | None:
    """The counters as they are now, to compare with later; None where the server keeps none (before 15).

    Raises ControlUnavailable, asyncpg.PostgresError.
    """
    counters = await _error_counters(session, subscription)
    return ErrorBaseline(subscription, counters) if counters is not None else None


async def _error_counters(session: ControlSession, subscription: str) -> Mapping[str, int] | None:
    if session.major < 15:
        return None
    # to_jsonb, since every version adds columns: conflicts in 18, other names for sync errors in 19.
    rows = await session.fetch(
        "select e.key, e.value::bigint as value from pg_stat_subscription_stats x,"
        " jsonb_each_text(to_jsonb(x)) e where x.subname = $1 and e.key ~ '_error_count$|^confl_'",
        subscription,
    )
    return {row["key"]: row["value"] for row in rows}


@check("P05c", "no apply error or conflict since the copy", Severity.BLOCK, Where.DESTINATION, ARM_ONLY)
async def check_errors(context: CheckContext) -> list[Finding]:
    """A row that was missing, or there already, tells of a copy that differs. That a row was last written by
    somebody else (origin differs) is ordinary on the way back: the change is applied nevertheless. An error is
    counted for every connection that is lost too (PG_CATCH of start_apply in worker.c), and one that was not
    overcome stops the stream, which other checks find; so errors alone are a warning."""
    await _required(context)
    session, name = context.destination, context.subscription or ""
    counters = await _error_counters(session, name)
    object_ = context.on(session, name)
    if counters is None:
        finding = f"version {session.major} counts neither errors nor conflicts"
        remedy = "look for errors of the apply worker in the server's log, and VERIFY"
        return [Finding("P05c", Severity.WARN, object_, finding, remedy)]
    known = context.baseline is not None and context.baseline.subscription == name
    before = context.baseline.counters if context.baseline is not None and known else {}
    rose = {key: value - before.get(key, 0) for key, value in counters.items() if value > before.get(key, 0)}
    fell = any(value < before.get(key, 0) for key, value in counters.items())
    findings: list[Finding] = []
    for key, by in sorted(rose.items()):
        since = "since the copy was found good" if known else "in all, and no earlier count to compare with"
        harmless = key.endswith(("_origin_differs", "_error_count"))
        severity = Severity.WARN if harmless else Severity.BLOCK
        remedy = "find the cause in the server's log, then VERIFY; copy again what differs"
        if key.endswith("_error_count"):
            remedy = "lost connections count too; if the server's log tells of anything else, VERIFY"
        findings.append(Finding("P05c", severity, object_, f"{key} rose by {by} {since}", remedy))
    if fell:
        finding = "the server's counters were reset: earlier errors cannot be seen"
        findings.append(Finding("P05c", Severity.WARN, object_, finding, "VERIFY before the cutover"))
    return findings


@check("P05d", "no transaction is to be skipped", Severity.BLOCK, Where.DESTINATION, ARM_ONLY)
async def check_skipped(context: CheckContext) -> list[Finding]:
    subscription = await _required(context)
    if subscription["skip_lsn"] == "0/0":
        return []
    return [
        Finding(
            "P05d",
            Severity.BLOCK,
            context.on(context.destination, context.subscription or ""),
            f"the transaction that ends at {subscription['skip_lsn']} is to be skipped: its rows get lost",
            f"ALTER SUBSCRIPTION {identifier(context.subscription or '')} SKIP (lsn = NONE); and VERIFY",
        )
    ]


@check("P04a", "the replication slot is healthy", Severity.BLOCK, Where.SOURCE, ARM_ONLY)
async def check_slot(context: CheckContext) -> list[Finding]:
    row = await required_slot(context)
    object_ = context.on(context.source, row["name"])
    problems: dict[str, bool] = {
        f"it belongs to plug-in {row['plugin']}, not pgoutput": row["plugin"] != "pgoutput",
        "it belongs to another database": not row["same_database"],
        "nobody reads from it": not row["active"],
        f"its WAL is {row['wal_status']}": row["wal_status"] in ("unreserved", "lost"),
        "it was invalidated by a conflict with recovery": row["conflicting"] == "true",
        f"it was invalidated: {row['invalidation_reason']}": row["invalidation_reason"] is not None,
    }
    findings = [
        Finding(
            "P04a",
            Severity.BLOCK,
            object_,
            problem,
            "see the logs of both servers; a lost slot takes a new copy",
        )
        for problem, is_so in problems.items()
        if is_so
    ]
    if row["wal_status"] == "extended":
        finding = "it keeps more WAL than max_wal_size"
        findings.append(Finding("P04a", Severity.WARN, object_, finding, "watch the disk, and wait until lag shrinks"))
    return findings


async def required_slot(context: CheckContext) -> asyncpg.Record:
    subscription = await _required(context)
    if subscription["slot"] is None:
        raise CannotCheck("the subscription has no slot", "RESET, then REPLICATE")
    row = await context.source.fetchrow(_SLOT, subscription["slot"])
    if row is None:
        raise CannotCheck(
            f'the source has no slot "{subscription["slot"]}", from which the subscription reads',
            "RESET, then REPLICATE: what was written since it is gone is lost to the stream",
        )
    return row


# to_jsonb: wal_status came with 13, conflicting with 16, invalidation_reason with 17.
_SLOT = """
    select slot_name::text as name, plugin::text, database = current_database() as same_database, active,
        active_pid, to_jsonb(s) ->> 'wal_status' as wal_status, to_jsonb(s) ->> 'conflicting' as conflicting,
        to_jsonb(s) ->> 'invalidation_reason' as invalidation_reason,
        to_jsonb(s) ->> 'failover' as failover,
        pg_wal_lsn_diff(pg_current_wal_lsn(), greatest(s.confirmed_flush_lsn, r.replay_lsn))::bigint
            as lag_bytes
    from pg_replication_slots s left join pg_stat_replication r on r.pid = s.active_pid
    where slot_name = $1"""


@check("P04b", "replication lag is small", Severity.BLOCK, Where.SOURCE, ARM_ONLY)
async def check_lag(context: CheckContext) -> list[Finding]:
    row = await required_slot(context)
    lag_bytes = row["lag_bytes"]
    if lag_bytes is None:
        raise CannotCheck("the lag is not known: the slot has confirmed nothing", "wait until the stream runs")
    if lag_bytes <= context.lag_threshold_bytes:
        return []
    return [
        Finding(
            "P04b",
            Severity.BLOCK,
            context.on(context.source, row["name"]),
            f"the destination is {lag_bytes:,} bytes behind; {context.lag_threshold_bytes:,} are allowed",
            "wait until it has caught up, or raise cutover_traffic_stop_threshold",
        )
    ]
