"""Replication slots: made with a deadline that says who is waited for, and removed whoever uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg
import structlog

from .endpoint import Endpoint
from .errors import SlotBlocked, StreamError, listed
from .registry import Kind, forget, record
from .session import ControlSession, ControlUnavailable, connect

log = structlog.get_logger(__name__)

_POLL_S = 0.1
_BLOCKER_POLL_S = 1.0
_ABANDON_DEADLINE_S = 5.0

# Making a slot waits for every transaction of the whole cluster that has an xid, prepared ones included
# (PostgreSQL: SnapBuildFindSnapshot waits for the running transactions of all databases).
_BLOCKERS = """
SELECT format('backend %s (user %s, database %s%s), %s, in its transaction for %s s',
              a.pid, a.usename, a.datname,
              CASE WHEN a.application_name <> '' THEN ', application ' || a.application_name ELSE '' END,
              a.state, round(extract(epoch FROM clock_timestamp() - a.xact_start)::numeric, 1)) AS who
FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> $1
UNION ALL
SELECT format('prepared transaction %L (database %s), prepared %s s ago', gid, database,
              round(extract(epoch FROM clock_timestamp() - prepared)::numeric, 1))
FROM pg_prepared_xacts
"""


@dataclass(frozen=True, slots=True)
class SlotState:
    active: bool
    active_pid: int | None
    status: str | None
    """wal_status: reserved, extended, unreserved or lost; None before 13."""
    confirmed_lsn: str | None


async def create_slot(
    endpoint: Endpoint, slot: str, *, wait_s: float = 60.0, notify: Callable[[str], None] | None = None
) -> str:
    """Make a logical slot for pgoutput and return its start position; it is recorded before it is made.

    Works on connections of its own. Raises SlotBlocked, which names the transactions waited for, when it
    takes longer than `wait_s`; StreamError where the server refuses; ControlUnavailable. Whatever ends it
    early, no half-made slot stays behind unless the server is out of reach then.
    """
    async with await connect(endpoint) as monitor, await connect(endpoint) as maker:
        await _refuse_taken_name(monitor, slot)
        await record(monitor, Kind.SLOT, slot)
        await maker.execute(f"SET statement_timeout = {max(1, int(wait_s * 1000))}")
        if maker.major >= 14:
            # Should we die, the backend sees it and does not make a slot that nobody wants any more.
            await maker.execute("SET client_connection_check_interval = 1000")
        making = asyncio.create_task(_make(maker, slot, wait_s))
        try:
            return await _watch(making, monitor, maker.pid, notify)
        except asyncpg.QueryCanceledError as error:
            blockers = await _blockers(monitor, maker.pid)
            await forget(monitor, Kind.SLOT, slot)
            raise SlotBlocked(
                f'replication slot "{slot}" could not be made on "{endpoint.name}" within {wait_s:g} s: '
                "other transactions are open",
                detail="Waited for " + (listed(blockers, 6) if blockers else "transactions that are gone by now"),
                hint="End these transactions, then try again.",
            ) from error
        except asyncpg.PostgresError as error:
            await forget(monitor, Kind.SLOT, slot)
            raise StreamError(f'replication slot "{slot}" could not be made on "{endpoint.name}": {error}') from error
        except (asyncio.CancelledError, ControlUnavailable):
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            await _abandon(endpoint, maker.pid, slot)
            raise


async def _refuse_taken_name(session: ControlSession, slot: str) -> None:
    database = await session.fetchval("SELECT database FROM pg_replication_slots WHERE slot_name = $1", slot)
    if database is not None:
        raise StreamError(
            f'replication slot "{slot}" exists already on the server of "{session.endpoint.name}"',
            detail=f'It belongs to the database "{database}"; all databases of a server share slot names.',
            hint="Drop it if nobody needs it, then try again.",
        )


async def _make(maker: ControlSession, slot: str, wait_s: float) -> str:
    return str(
        await maker.fetchval(
            "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')",
            slot,
            timeout_s=wait_s + 10.0,
        )
    )


async def _watch(
    making: asyncio.Task[str], monitor: ControlSession, pid: int, notify: Callable[[str], None] | None
) -> str:
    told: list[str] = []
    while True:
        done, _ = await asyncio.wait({making}, timeout=_BLOCKER_POLL_S)
        if done:
            return making.result()
        blockers = await _blockers(monitor, pid)
        if blockers and [b.split(",")[0] for b in blockers] != told and notify is not None:
            told = [b.split(",")[0] for b in blockers]
            notify("waiting for transactions that are older than the replication slot: " + listed(blockers, 6))


async def _blockers(session: ControlSession, pid: int) -> list[str]:
    return [row["who"] for row in await session.fetch(_BLOCKERS, pid)]


async def _abandon(endpoint: Endpoint, pid: int, slot: str) -> None:
    """End the backend that makes the slot: it would finish its work although nobody waits for it."""
    try:
        async with await connect(endpoint) as session:
            await session.fetchval("SELECT pg_terminate_backend($1)", pid)
            await drop_slot(session, slot, timeout_s=_ABANDON_DEADLINE_S)
    except (ControlUnavailable, StreamError, asyncpg.PostgresError) as error:
        log.warning("replication.slot_left_behind", slot=slot, database=endpoint.name, error=str(error))


async def slot_state(session: ControlSession, slot: str) -> SlotState | None:
    """What the server says of a slot of this database; None where there is none."""
    row = await session.fetchrow(
        """
        SELECT active, active_pid, to_jsonb(k)->>'wal_status' AS wal_status,
            confirmed_flush_lsn::text AS confirmed
        FROM pg_replication_slots k WHERE slot_name = $1 AND database = current_database()
        """,
        slot,
    )
    return SlotState(row["active"], row["active_pid"], row["wal_status"], row["confirmed"]) if row else None


async def drop_slot(session: ControlSession, slot: str, *, timeout_s: float = 15.0) -> None:
    """Drop a slot of this database, ending the walsender (or the maker) that uses it; gone is no error.

    Raises StreamError where it is still in use after `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while (state := await slot_state(session, slot)) is not None:
        if state.active_pid is not None:
            await session.fetchval("SELECT pg_terminate_backend($1)", state.active_pid)
        try:
            await session.execute("SELECT pg_drop_replication_slot($1)", slot)
        except asyncpg.UndefinedObjectError:
            pass
        except asyncpg.ObjectInUseError as error:
            if loop.time() >= deadline:
                raise StreamError(
                    f'replication slot "{slot}" on "{session.endpoint.name}" is still in use after '
                    f"{timeout_s:g} s (backend {state.active_pid})"
                ) from error
            await asyncio.sleep(_POLL_S)
    await forget(session, Kind.SLOT, slot)


async def drop_sync_slots(session: ControlSession, pattern: str) -> list[str]:
    """Drop the slots of unfinished table copies of one subscription; `pattern` is a regular expression."""
    rows = await session.fetch(
        "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND slot_name ~ $1",
        pattern,
    )
    for row in rows:
        await drop_slot(session, row["slot_name"])
    return [row["slot_name"] for row in rows]


async def advance_slot(session: ControlSession, slot: str, lsn: str | None = None) -> str:
    """Move an unused slot forward to `lsn`, or to the newest position; returns where it stands then.

    Raises StreamError where the slot is in use or gone.
    """
    try:
        return str(
            await session.fetchval(
                "SELECT end_lsn::text FROM pg_replication_slot_advance("
                "$1, coalesce($2::text::pg_lsn, pg_current_wal_lsn()))",
                slot,
                lsn,
            )
        )
    except asyncpg.PostgresError as error:
        raise StreamError(
            f'replication slot "{slot}" on "{session.endpoint.name}" could not be advanced: {error}'
        ) from error
