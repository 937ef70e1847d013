"""The decision record: taking a run's source, the fence, the commit point, giving up, and the runs' history.

The statements themselves are functions of the control schema (sql/control_schema.sql); here they get types.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from .session import ControlSession

RUN_LOCK_KEY = 0x7067_6375_746F_7672
"""The advisory lock that a run holds on both sides ("pgcutovr" in ASCII; any fixed 64-bit number serves)."""


class Outcome(StrEnum):
    UNDECIDED = "undecided"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class FenceResult:
    """What the fence found. The marker was written only where `clear` is true."""

    terminated: tuple[str, ...]
    remaining: tuple[str, ...]
    busy: tuple[str, ...]
    prepared: tuple[str, ...]

    @property
    def clear(self) -> bool:
        return not (self.remaining or self.busy or self.prepared)

    @property
    def obstacle(self) -> str:
        parts = []
        if self.remaining:
            parts.append("sessions that did not end: " + ", ".join(self.remaining))
        if self.busy:
            parts.append("links that are not idle: " + ", ".join(self.busy))
        if self.prepared:
            parts.append("prepared transactions: " + ", ".join(self.prepared))
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A row of pgcutover.run. `intent` is what an undo or a finish needs to know; `report` the figures."""

    run_id: uuid.UUID
    kind: str
    pair: str
    epoch: int
    source_uuid: uuid.UUID
    destination_uuid: uuid.UUID
    intent: dict[str, Any]
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    report: dict[str, Any] | None


async def try_lock(session: ControlSession) -> bool:
    """Take the run lock of one side for as long as `session` lives; False where another run holds it."""
    return bool(await session.fetchval("SELECT pg_try_advisory_lock($1)", RUN_LOCK_KEY))


async def unlock(session: ControlSession) -> None:
    await session.fetchval("SELECT pg_advisory_unlock($1)", RUN_LOCK_KEY)


async def record_run(session: ControlSession, record: RunRecord) -> None:
    """The journal's first entry, before the run does anything that needs undoing."""
    await session.execute(
        """
        INSERT INTO pgcutover.run (run_id, kind, pair, epoch, source_uuid, destination_uuid, intent)
        VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb)
        """,
        record.run_id,
        record.kind,
        record.pair,
        record.epoch,
        record.source_uuid,
        record.destination_uuid,
        json.dumps(record.intent),
    )


async def finish_run(
    session: ControlSession,
    run_id: uuid.UUID,
    outcome: Outcome,
    report: Mapping[str, Any] | None,
    timeout_s: float = 5.0,
) -> None:
    """The journal's last entry. A report that is there already is kept."""
    await session.execute(
        """
        UPDATE pgcutover.run SET outcome = $2, finished_at = clock_timestamp(), report = coalesce($3::jsonb, report)
        WHERE run_id = $1
        """,
        run_id,
        outcome.value,
        json.dumps(report) if report is not None else None,
        timeout_s=timeout_s,
    )


async def save_report(session: ControlSession, run_id: uuid.UUID, outcome: Outcome, report: Mapping[str, Any]) -> None:
    """The figures of a run that is decided but whose clean-up may not be done yet."""
    await session.execute(
        "UPDATE pgcutover.run SET outcome = $2, report = $3::jsonb WHERE run_id = $1",
        run_id,
        outcome.value,
        json.dumps(report),
    )


async def runs(session: ControlSession, *, unfinished_only: bool = False) -> list[RunRecord]:
    """Runs by start time, oldest first."""
    rows = await session.fetch(
        "SELECT * FROM pgcutover.run WHERE NOT $1 OR finished_at IS NULL ORDER BY started_at", unfinished_only
    )
    return [
        RunRecord(
            run_id=row["run_id"],
            kind=row["kind"],
            pair=row["pair"],
            epoch=row["epoch"],
            source_uuid=row["source_uuid"],
            destination_uuid=row["destination_uuid"],
            intent=json.loads(row["intent"]),
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            outcome=row["outcome"],
            report=json.loads(row["report"]) if row["report"] is not None else None,
        )
        for row in rows
    ]


async def place_of(session: ControlSession, database: uuid.UUID) -> str:
    """Where the last run that moved to this database found it; empty where the journal does not say."""
    return str(
        await session.fetchval(
            "SELECT intent->>'destination_place' FROM pgcutover.run WHERE destination_uuid = $1 "
            "ORDER BY started_at DESC LIMIT 1",
            database,
        )
        or ""
    )


async def open_source(source: ControlSession, run_id: uuid.UUID) -> bool:
    """Take the serving database as the source of a run; False where it does not serve or has a run already."""
    return bool(await source.fetchval("SELECT pgcutover.open_run($1)", run_id))


async def open_decision(destination: ControlSession, run_id: uuid.UUID, epoch: int) -> None:
    await destination.execute("INSERT INTO pgcutover.decision (run_id, epoch) VALUES ($1, $2)", run_id, epoch)


async def raise_fence(source: ControlSession, run_id: uuid.UUID, *, read_only: bool, timeout_s: float) -> None:
    """The first half of the fence: the record says draining, new sessions are read-only. Raises ControlUnavailable."""
    await source.execute("SELECT pgcutover.raise_fence($1, $2)", run_id, read_only, timeout_s=timeout_s)


async def still(
    source: ControlSession,
    run_id: uuid.UUID,
    *,
    terminate: bool,
    keep_pids: Sequence[int],
    quiet_pids: Sequence[int],
    marker: int,
    timeout_s: float,
    dry: bool = False,
) -> FenceResult:
    """The second half, once our links are quiet: strangers go and the drain marker is written, in one round trip.

    Raises ControlUnavailable. With `dry` nobody is terminated and no drain marker written.
    """
    raw = await source.fetchval(
        "SELECT pgcutover.still($1, $2, $3, $4, $5, $6, $7)",
        run_id,
        terminate,
        list(keep_pids),
        list(quiet_pids),
        marker,
        max(1, int(timeout_s * 900)),
        dry,
        timeout_s=timeout_s,
    )
    found = json.loads(raw)
    return FenceResult(
        terminated=tuple(_stranger(s) for s in found["terminated"]),
        remaining=tuple(_stranger(s) for s in found["remaining"]),
        busy=tuple(f"backend {b['pid']} {b['state']}" for b in found["busy"]),
        prepared=tuple(str(gid) for gid in found["prepared"]),
    )


def _stranger(row: Mapping[str, Any]) -> str:
    where = row["client_addr"] or "a Unix socket"
    application = f" ({row['application_name']})" if row["application_name"] else ""
    return f"{row['usename']}{application} from {where}, backend {row['pid']}"


async def write_marker(session: ControlSession, kind: str, token: int, timeout_s: float = 5.0) -> None:
    await session.execute("SELECT pgcutover.write_marker($1, $2)", kind, token, timeout_s=timeout_s)


async def await_marker(session: ControlSession, writer: uuid.UUID, kind: str, token: int, timeout_s: float) -> bool:
    """Wait on the receiving side for a marker. False where it did not come in time."""
    return bool(
        await session.fetchval(
            "SELECT pgcutover.await_marker($1, $2, $3, $4)",
            writer,
            kind,
            token,
            max(1, int(timeout_s * 1000)),
            timeout_s=timeout_s + 1.0,
        )
    )


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the destination says once the drain marker is there (or did not come in time)."""

    seen: bool
    tables_not_ready: int
    counters: dict[str, int]

    def risen(self, baseline: Mapping[str, int]) -> list[str]:
        """Error and conflict counters of the subscription that are higher than before the run."""
        return [
            f"{name} {baseline.get(name, 0)} -> {value}"
            for name, value in sorted(self.counters.items())
            if value > baseline.get(name, 0)
        ]


async def arrived(
    destination: ControlSession, writer: uuid.UUID, token: int, subscription: str, timeout_s: float
) -> Arrival:
    """Wait for the drain marker and look at the subscription, in one round trip."""
    raw = await destination.fetchval(
        "SELECT pgcutover.arrived($1, $2, $3, $4)",
        writer,
        token,
        max(1, int(timeout_s * 1000)),
        subscription,
        timeout_s=timeout_s + 0.2,
    )
    found = json.loads(raw)
    counters = {
        name: int(value)
        for name, value in found["counters"].items()
        if isinstance(value, int) and (name.endswith("_error_count") or name.startswith("confl_"))
    }
    return Arrival(bool(found["seen"]), int(found["not_ready"]), counters)


async def commit(
    destination: ControlSession,
    run_id: uuid.UUID,
    sequences: Sequence[tuple[int, int, bool]],
    timeout_s: float,
) -> Outcome:
    """THE COMMIT POINT. `sequences` are (destination oid, last_value, is_called) of those that moved.

    Raises ControlUnavailable when the answer did not come; the outcome is then unknown until it is read.
    """
    return Outcome(
        await destination.fetchval(
            "SELECT pgcutover.commit_run($1, $2, $3, $4)",
            run_id,
            [s[0] for s in sequences],
            [s[1] for s in sequences],
            [s[2] for s in sequences],
            timeout_s=timeout_s,
        )
    )


async def abort(destination: ControlSession, run_id: uuid.UUID, timeout_s: float = 5.0) -> Outcome:
    """Decide a run as aborted where it is undecided. The answer is what was decided."""
    return Outcome(await destination.fetchval("SELECT pgcutover.abort_run($1)", run_id, timeout_s=timeout_s))


async def outcome_of(destination: ControlSession, run_id: uuid.UUID, timeout_s: float = 5.0) -> Outcome:
    """What is decided by now, without deciding anything. A run that is not known there is undecided."""
    found = await destination.fetchval(
        "SELECT outcome FROM pgcutover.decision WHERE run_id = $1", run_id, timeout_s=timeout_s
    )
    return Outcome(found) if found is not None else Outcome.UNDECIDED


async def release_source(source: ControlSession, run_id: uuid.UUID, timeout_s: float = 5.0) -> bool:
    """After an aborted run: the source serves again, without its fence. False where the run was not open."""
    return bool(await source.fetchval("SELECT pgcutover.release_source($1)", run_id, timeout_s=timeout_s))


async def retire_source(
    source: ControlSession, run_id: uuid.UUID, successor: uuid.UUID, epoch: int, timeout_s: float = 5.0
) -> bool:
    """After a committed run: the source is marked as moved. False where that was done already."""
    return bool(
        await source.fetchval(
            "SELECT pgcutover.retire_source($1, $2, $3)", run_id, successor, epoch, timeout_s=timeout_s
        )
    )
