"""How one stream is doing, asked of both sides at once. What could not be asked is None, never zero."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg

from .session import ControlSession, ControlUnavailable
from .stream_names import StreamNames

_TIMEOUT_S = 5.0

# Counters by name, since 18 added the conflicts and 19 renames the synchronization errors.
_SUBSCRIBER = """
SELECT s.subenabled AS enabled,
    (SELECT w.pid FROM pg_stat_subscription w
     WHERE w.subid = s.oid AND w.relid IS NULL AND w.pid IS NOT NULL {leader_only} LIMIT 1) AS worker_pid,
    (SELECT extract(epoch FROM clock_timestamp() - max(w.last_msg_receipt_time)) * 1000
     FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL)::float8 AS last_message_age_ms,
    (SELECT count(*) FROM pg_subscription_rel r WHERE r.srsubid = s.oid) AS tables_total,
    (SELECT coalesce(array_agg(r.srrelid::regclass::text ORDER BY r.srrelid::regclass::text), '{{}}')
     FROM pg_subscription_rel r
     WHERE r.srsubid = s.oid AND r.srsubstate <> 'r') AS not_ready,
    (SELECT coalesce(array_agg(format('%I.%I', n.nspname, c.relname)), '{{}}') FROM pg_subscription_rel r
     JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE r.srsubid = s.oid) AS subscribed,
    {skip_lsn} AS skip_lsn,
    {errors}
FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
WHERE d.datname = current_database() AND s.subname = $1
"""

_ERRORS = """
    (SELECT to_jsonb(x)->>'apply_error_count' FROM pg_stat_subscription_stats x
     WHERE x.subid = s.oid)::bigint AS apply_errors,
    (SELECT sum(e.value::bigint) FROM pg_stat_subscription_stats x, jsonb_each_text(to_jsonb(x)) e
     WHERE x.subid = s.oid AND e.key LIKE 'sync%error_count')::bigint AS sync_errors,
    (SELECT sum(e.value::bigint) FROM pg_stat_subscription_stats x, jsonb_each_text(to_jsonb(x)) e
     WHERE x.subid = s.oid AND e.key LIKE 'confl\\_%')::bigint AS conflicts
"""
_NO_ERRORS = "NULL::bigint AS apply_errors, NULL::bigint AS sync_errors, NULL::bigint AS conflicts"

# Applied (replay_lsn) runs ahead of confirmed: the apply worker commits asynchronously and confirms only
# what its WAL writer has flushed. Only a walsender that has had an answer knows replay_lsn.
LAG_BYTES = """
CASE WHEN to_jsonb(k)->>'wal_status' IS DISTINCT FROM 'lost' THEN
    pg_wal_lsn_diff(pg_current_wal_lsn(), greatest(
        k.confirmed_flush_lsn,
        (SELECT w.replay_lsn FROM pg_stat_replication w WHERE w.pid = k.active_pid)))::bigint END
"""

_PUBLISHER = f"""
SELECT k.slot_name IS NOT NULL AS slot_exists, k.active, to_jsonb(k)->>'wal_status' AS wal_status,
    {LAG_BYTES} AS lag_bytes,
    (SELECT coalesce(array_agg(format('%I.%I', schemaname, tablename)), '{{}}') FROM pg_publication_tables
     WHERE pubname = $2) AS published,
    EXISTS (SELECT FROM pg_publication WHERE pubname = $2) AS publication_exists
FROM (SELECT 1) one LEFT JOIN pg_replication_slots k ON k.slot_name = $1 AND k.database = current_database()
"""


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """None is "unknown": that side could not be asked, or its version does not tell."""

    exists: bool | None
    enabled: bool | None
    worker_running: bool | None
    worker_pid: int | None
    last_message_age_ms: float | None
    tables_ready: int | None
    tables_total: int | None
    not_ready: tuple[str, ...] | None
    unsubscribed: tuple[str, ...] | None
    """Published, but the subscription does not carry them: their changes are dropped silently."""
    publication_exists: bool | None
    slot_exists: bool | None
    slot_active: bool | None
    slot_status: str | None
    lag_bytes: int | None
    apply_errors: int | None
    sync_errors: int | None
    conflicts: int | None
    skip_lsn: str | None
    unknown: tuple[str, ...] = ()
    """Why something is unknown, in words."""

    @property
    def state(self) -> str:
        """One word for SHOW REPLICATION, or "broken: ..." / "unknown: ..." with the reason."""
        if self.unknown:
            return "unknown: " + "; ".join(self.unknown)
        broken = self._broken()
        if broken:
            return f"broken: {broken}"
        if not self.enabled:
            return "disabled"
        if self.not_ready:
            return "copying"
        return "streaming" if self.worker_running and self.slot_active else "starting"

    def _broken(self) -> str:
        if not self.exists:
            return "no subscription"
        if not self.publication_exists:
            return "no publication"
        if not self.slot_exists:
            return "no replication slot"
        if self.slot_status == "lost":
            return "the replication slot was lost"
        if self.unsubscribed:
            return "published but not subscribed: " + ", ".join(self.unsubscribed)
        return f"transaction at {self.skip_lsn} is to be skipped" if self.skip_lsn else ""


async def stream_health(
    subscriber: ControlSession,
    publisher: ControlSession,
    names: StreamNames,
    *,
    timeout_s: float = _TIMEOUT_S,
) -> StreamHealth:
    """Ask both sides at once. Never raises for a side that cannot be asked: its fields are None."""
    version = subscriber.major
    subscriber_sql = _SUBSCRIBER.format(
        leader_only="AND w.leader_pid IS NULL" if version >= 16 else "",
        skip_lsn="nullif(s.subskiplsn, '0/0')::text" if version >= 15 else "NULL::text",
        errors=_ERRORS if version >= 15 else _NO_ERRORS,
    )
    (there, why_there), (here, why_here) = await asyncio.gather(
        _ask(subscriber, timeout_s, subscriber_sql, names.subscription),
        _ask(publisher, timeout_s, _PUBLISHER, names.slot, names.publication),
    )
    unsubscribed = None
    if there is not None and here is not None:
        unsubscribed = tuple(sorted(set(here["published"]) - set(there["subscribed"])))
    exists = None if why_there else there is not None
    return StreamHealth(
        exists=exists,
        enabled=there["enabled"] if there else None,
        worker_running=there["worker_pid"] is not None if there else None,
        worker_pid=there["worker_pid"] if there else None,
        last_message_age_ms=there["last_message_age_ms"] if there else None,
        tables_ready=there["tables_total"] - len(there["not_ready"]) if there else None,
        tables_total=there["tables_total"] if there else None,
        not_ready=tuple(there["not_ready"]) if there else None,
        unsubscribed=unsubscribed,
        publication_exists=here["publication_exists"] if here else None,
        slot_exists=here["slot_exists"] if here else None,
        slot_active=here["active"] if here else None,
        slot_status=here["wal_status"] if here else None,
        lag_bytes=here["lag_bytes"] if here else None,
        apply_errors=there["apply_errors"] if there else None,
        sync_errors=there["sync_errors"] if there else None,
        conflicts=there["conflicts"] if there else None,
        skip_lsn=there["skip_lsn"] if there else None,
        unknown=tuple(why for why in (why_there, why_here) if why),
    )


async def _ask(session: ControlSession, timeout_s: float, sql: str, *args: object) -> tuple[asyncpg.Record | None, str]:
    """The row (None: there is none) and, where the side could not be asked, why."""
    try:
        return await session.fetchrow(sql, *args, timeout_s=timeout_s), ""
    except (ControlUnavailable, asyncpg.PostgresError) as error:
        return None, str(error)
