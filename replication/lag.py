"""How far a stream is behind, in bytes and in milliseconds. Unknown is None, never zero."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from . import decision
from .session import ControlSession, ControlUnavailable
from .stream_health import LAG_BYTES

HEARTBEAT = "heartbeat"
PROBE = "probe"

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat marker, committed on the publisher."""

    writer: uuid.UUID
    token: int
    written_at: datetime
    """By the publisher's clock."""


def new_token() -> int:
    """A marker token that no earlier one equals, other than by a chance of 2**-62."""
    return secrets.randbits(62)


async def lag_bytes(publisher: ControlSession, slot: str, *, timeout_s: float = _TIMEOUT_S) -> int | None:
    """WAL written since what the slot's subscriber has applied; None without slot, answer or position.

    WAL of all databases of the server counts, so a quiet stream can show a little until the next keepalive.
    """
    try:
        value = await publisher.fetchval(
            f"SELECT {LAG_BYTES} FROM pg_replication_slots k "
            "WHERE k.slot_name = $1 AND k.database = current_database()",
            slot,
            timeout_s=timeout_s,
        )
    except (ControlUnavailable, asyncpg.PostgresError):
        return None
    return max(0, int(value)) if value is not None else None


async def beat(publisher: ControlSession, *, timeout_s: float = _TIMEOUT_S) -> Beat:
    """Write a heartbeat marker. Raises ControlUnavailable, asyncpg.PostgresError."""
    token = new_token()
    await decision.write_marker(publisher, HEARTBEAT, token, timeout_s=timeout_s)
    row = await publisher.fetchrow(
        "SELECT m.writer, m.token, m.written_at FROM pgcutover.marker m "
        "JOIN pgcutover.identity i ON i.uuid = m.writer WHERE m.kind = $1",
        HEARTBEAT,
        timeout_s=timeout_s,
    )
    if row is None:
        raise AssertionError("the marker was just written")
    return Beat(row["writer"], row["token"], row["written_at"])


async def heartbeat(
    subscriber: ControlSession, writer: uuid.UUID, publisher: ControlSession, *, timeout_s: float = _TIMEOUT_S
) -> float | None:
    """Age in milliseconds of the newest heartbeat of `writer` that has arrived; None: none has, or no answer.

    Written and read by the publisher's clock: it does not matter how far apart the two servers' clocks are.
    The age is the lag plus the time since that beat: between beats it grows on a sound stream too.
    """
    try:
        arrived = await subscriber.fetchval(
            "SELECT written_at FROM pgcutover.marker WHERE writer = $1 AND kind = $2",
            writer,
            HEARTBEAT,
            timeout_s=timeout_s,
        )
        if arrived is None:
            return None
        age = await publisher.fetchval(
            "SELECT extract(epoch FROM clock_timestamp() - $1::timestamptz)::float8 * 1000",
            arrived,
            timeout_s=timeout_s,
        )
    except (ControlUnavailable, asyncpg.PostgresError):
        return None
    return max(0.0, float(age))


async def measure_lag_ms(
    publisher: ControlSession, subscriber: ControlSession, *, timeout_s: float = _TIMEOUT_S
) -> float | None:
    """Write a marker and wait for it: the time from commit to its being seen, in milliseconds.

    None where it did not arrive within `timeout_s`, or a side did not answer.
    """
    loop = asyncio.get_running_loop()
    token = new_token()
    try:
        writer = await publisher.fetchval("SELECT uuid FROM pgcutover.identity", timeout_s=timeout_s)
        await decision.write_marker(publisher, PROBE, token, timeout_s=timeout_s)
        started = loop.time()
        arrived = await decision.await_marker(subscriber, writer, PROBE, token, timeout_s)
    except (ControlUnavailable, asyncpg.PostgresError):
        return None
    return (loop.time() - started) * 1000 if arrived else None
