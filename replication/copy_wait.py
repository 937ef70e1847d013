"""Waiting for the initial copy: it may take days, but not without a sign of life or failing for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from .errors import CopyStalled, listed
from .progress import TableCopy, summarize, table_copies
from .session import ControlSession
from .stream_health import StreamHealth, stream_health
from .stream_names import StreamNames

_POLL_S = 0.25
_TELL_EVERY_S = 2.0
_BLOCKED_AFTER_S = 3.0
_SILENCE_S = 900.0
# A failed table copy is tried again every wal_retrieve_retry_interval (5 s by default). Two failures may be a
# restart or a lost connection.
_FAILURES_ALLOWED = 2

# A table copy first makes a slot, which waits for open transactions, like every slot.
_WAITED_FOR = """
SELECT format('backend %s (user %s, database %s, %s)', a.pid, a.usename, a.datname, a.state) AS who
FROM pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) b (pid) JOIN pg_stat_activity a ON a.pid = b.pid
WHERE w.backend_type = 'walsender' AND w.datname = current_database() AND w.wait_event_type = 'Lock'
"""


@dataclass(slots=True)
class _Watch:
    """What was seen last, and when it last changed."""

    changed_at: float
    began_at: float
    began_with: int | None = None
    """Bytes that were there when we began to watch."""
    seen: tuple[object, ...] = ()
    failures: int | None = None
    ready: int = -1
    told_at: float = float("-inf")


async def wait_until_copied(
    source: ControlSession,
    destination: ControlSession,
    names: StreamNames,
    notify: Callable[[str], None],
    *,
    silence_s: float = _SILENCE_S,
) -> str:
    """Return when every table of the subscription is ready; tells of progress meanwhile.

    Raises CopyStalled when copies keep failing, or nothing has moved for `silence_s`; ControlUnavailable.
    """
    loop = asyncio.get_running_loop()
    watch = _Watch(changed_at=loop.time(), began_at=loop.time())
    while True:
        asked_at = loop.time()
        health = await stream_health(destination, source, names)
        copies = await table_copies(source, destination, names.subscription)
        _refuse_broken(health, destination)
        if health.tables_total and health.not_ready == () and health.unsubscribed == ():
            return f"{len(copies)} tables ready"
        now = loop.time()
        seen = (health.not_ready, health.tables_ready, tuple((c.state, c.rows, c.bytes) for c in copies))
        if seen != watch.seen:
            watch.seen, watch.changed_at = seen, now
        _refuse_failures(watch, health, destination)
        if now - watch.changed_at > silence_s:
            raise _stalled(f"nothing has moved for {silence_s:g} s", health, destination)
        if now - watch.told_at >= _TELL_EVERY_S:
            watch.told_at = now
            notify(str(summarize(copies, bytes_per_sec=_rate(watch, copies, now))))
            if now - watch.changed_at >= _BLOCKED_AFTER_S:
                await _tell_who_blocks(source, notify)
        # Sizes of thousands of tables take a while to ask for: never be busy with that most of the time.
        await asyncio.sleep(max(_POLL_S, 4 * (now - asked_at)))


def _rate(watch: _Watch, copies: list[TableCopy], now: float) -> float | None:
    """Bytes per second since the watch began: steadier than what single tables do at the moment."""
    copied = sum(copy.bytes for copy in copies)
    if watch.began_with is None:
        watch.began_with, watch.began_at = copied, now
    if now <= watch.began_at or copied <= watch.began_with:
        return None
    return (copied - watch.began_with) / (now - watch.began_at)


def _refuse_broken(health: StreamHealth, destination: ControlSession) -> None:
    if health.exists is False or health.slot_exists is False or health.slot_status == "lost":
        raise _stalled(health.state, health, destination)
    if health.enabled is False:
        raise _stalled("the subscription was disabled", health, destination)


def _refuse_failures(watch: _Watch, health: StreamHealth, destination: ControlSession) -> None:
    """Failures count anew whenever a table gets ready."""
    if health.sync_errors is None or health.tables_ready is None:
        return
    if watch.failures is None or health.tables_ready > watch.ready:
        watch.failures, watch.ready = health.sync_errors, health.tables_ready
    if health.sync_errors - watch.failures > _FAILURES_ALLOWED:
        raise _stalled(f"copying failed {health.sync_errors - watch.failures} times", health, destination)


def _stalled(why: str, health: StreamHealth, destination: ControlSession) -> CopyStalled:
    waiting = health.not_ready or ()
    return CopyStalled(
        f"the copy does not go on: {why}",
        detail=f"Not ready: {listed(waiting)}" if waiting else "",
        hint=f'The reason is in the log of "{destination.endpoint.name}". Mend it and run REPLICATE again, or RESET.',
    )


async def _tell_who_blocks(source: ControlSession, notify: Callable[[str], None]) -> None:
    rows = await source.fetch(_WAITED_FOR)
    if rows:
        notify("the copy waits for open transactions: " + listed([row["who"] for row in rows], 6))
