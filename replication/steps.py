"""The steps of REPLICATE, RESET and COMPLETE: what was done and how long it took."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from . import decision
from .endpoint import Endpoint
from .errors import MoveRefused, SideUnreachable
from .session import ControlSession, ControlUnavailable, connect

Notify = Callable[[str], None]
"""Called with one line of progress."""


@dataclass(slots=True)
class SetupStep:
    """One row of the result. Times in milliseconds since the command began."""

    step: str
    status: str
    """"done", "failed" or "skipped"."""
    started_ms: float
    duration_ms: float
    detail: str


class StepLog:
    """Collects the steps of one command."""

    def __init__(self, notify: Notify) -> None:
        self.notify = notify
        self.steps: list[SetupStep] = []
        self._began = time.monotonic()

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[SetupStep]:
        """Time one step; its `detail` (and `status`, where it is not "done") may be set inside."""
        started = (time.monotonic() - self._began) * 1000
        row = SetupStep(name, "failed", started, 0.0, "")
        self.steps.append(row)
        self.notify(name)
        try:
            yield row
            if row.status == "failed":
                row.status = "done"
        except BaseException as error:
            row.detail = row.detail or str(error)
            raise
        finally:
            row.duration_ms = (time.monotonic() - self._began) * 1000 - started
        if row.detail:
            self.notify(f"{name}: {row.detail}")


@asynccontextmanager
async def both_sides(source: Endpoint, destination: Endpoint) -> AsyncIterator[tuple[ControlSession, ControlSession]]:
    """Sessions on both sides, which hold the run lock there: no run, and no other command of these, goes on.

    Raises SideUnreachable, MoveRefused. A side that is lost later raises SideUnreachable as well.
    """
    try:
        async with await connect(source) as here:
            async with await connect(destination) as there:
                await _refuse_same_database(here, there)
                for session in (here, there):
                    await take_lock(session)
                yield here, there
    except ControlUnavailable as error:
        raise SideUnreachable(
            f"one side did not answer: {error}",
            detail="What was done until then is recorded.",
            hint="Run the command again when both sides can be reached.",
        ) from error


async def take_lock(session: ControlSession) -> None:
    """Hold the run lock of one side as long as the session lives. Raises MoveRefused where another has it."""
    if not await decision.try_lock(session):
        raise MoveRefused(
            f'another command of pgcutover is at work on "{session.endpoint.name}"',
            hint="Wait until it is done.",
        )


async def _refuse_same_database(source: ControlSession, destination: ControlSession) -> None:
    """A copy of a cluster has its system identifier and OIDs too; only one has our very backend."""
    identity = (
        "SELECT system_identifier::text || '/' || d.oid FROM pg_control_system(), pg_database d "
        "WHERE d.datname = current_database()"
    )
    if await source.fetchval(identity) != await destination.fetchval(identity):
        return
    seen = await destination.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2)",
        source.pid,
        await source.fetchval("SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"),
    )
    if seen:
        raise MoveRefused(
            f'"{source.endpoint.name}" and "{destination.endpoint.name}" are one and the same database',
            hint="Check host, port and database_name of both.",
        )
