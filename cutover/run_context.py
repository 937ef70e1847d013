"""What the parts of a run share: its names and figures, its control connections, its clock, a row per step."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from config.model import General, SessionPolicy
from proxy.control import RunHold
from replication import decision
from replication.session import ControlSession, ControlUnavailable, connect

from .api import MoveError, Notify, RunKind, RunReport, StepRow
from .failpoints import Failpoints
from .machine import Event, Phase, advance
from .pair import CONNECT_TIMEOUT_S, Pair

log = structlog.get_logger("cutover")

RESERVE_SHARE = 0.2
"""Part of cutover_max_pause that is kept for the way back."""
CALL_TIMEOUT_S = 10.0
"""For calls before the pause; those inside it have their own, shorter deadlines."""


class StepFailed(Exception):
    """A step did not go through; the words are the operator's."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "", sqlstate: str = "55000") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.sqlstate = sqlstate


@dataclass(slots=True)
class Sessions:
    """The control connections of one run, opened before the pause. Each carries one strand of calls."""

    source: ControlSession
    source_reader: ControlSession
    destination: ControlSession
    destination_waiter: ControlSession

    def all(self) -> tuple[ControlSession, ...]:
        return (self.source, self.source_reader, self.destination, self.destination_waiter)

    def round_trips(self) -> int:
        return sum(session.round_trips for session in self.all())


class RunContext:
    """One per run. `sessions` is set once they are open, `record` once the journal has the run."""

    def __init__(self, pair: Pair, kind: RunKind, notify: Notify, failpoints: Failpoints, node: str) -> None:
        self.pair = pair
        self.kind = kind
        self.node = node
        self.run_id = uuid.uuid4()
        self.general: General = pair.config.general
        self.notify = notify
        self.failpoints = failpoints
        self.phase = Phase.PREPARING
        self.began = time.monotonic()
        self.hold_began = 0.0
        self.all_stopped = 0.0
        self.current = ""
        self.source_name = pair.source_name
        self.destination_name = pair.destination_name
        self.source_endpoint = pair.source
        self.destination_endpoint = pair.destination
        self.hold: RunHold = pair.control.run_hold(str(self.run_id), self.source_name, self.destination_name)
        self.hold.session_policy(self.general.cutover_session_policy)
        self.report = RunReport(str(self.run_id), kind, self.source_name, self.destination_name, datetime.now(UTC))
        self.log = log.bind(run=str(self.run_id), pair=pair.name, kind=kind.value)
        self.sessions: Sessions | None = None
        self.lock_keeper: ControlSession | None = None  # holds the run lock until a committed run is finished
        self.raising: asyncio.Task[None] | None = None
        self.record: decision.RunRecord | None = None
        self.marker = time.time_ns() // 1000

    def advance(self, event: Event) -> None:
        self.phase = advance(self.phase, event)

    @contextlib.asynccontextmanager
    async def open_sessions(self) -> AsyncIterator[Sessions]:
        opened: list[ControlSession] = []
        try:
            try:
                for target in (self.source_endpoint,) * 2 + (self.destination_endpoint,) * 2:
                    opened.append(await connect(target, timeout_s=CONNECT_TIMEOUT_S, application_name="pgcutover run"))
            except ControlUnavailable as error:
                raise MoveError(
                    f"cannot start: {error}",
                    sqlstate="08006",
                    detail=self.traffic(),
                    hint="Nothing was changed.",
                ) from error
            for session in opened:
                session.default_timeout_s = CALL_TIMEOUT_S
            self.sessions = Sessions(*opened)
            yield self.sessions
        finally:
            if self.phase is Phase.COMMITTED and self.sessions is not None:
                self.lock_keeper = self.sessions.destination
            await asyncio.gather(*(session.close() for session in opened if session is not self.lock_keeper))

    @contextlib.asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[list[str]]:
        """Time a step and write its row. What is appended to the yielded list becomes its detail."""
        self.current = name
        if self.pair.live is not None:
            self.pair.live.step = name
        began = time.monotonic()
        detail: list[str] = []
        status = "failed"
        try:
            await self.failpoints.reach(f"before:{name}")
            yield detail
            await self.failpoints.reach(f"after:{name}")
            status = "done"
        except BaseException as error:
            detail.append(str(error) or type(error).__name__)
            raise
        finally:
            self.report.steps.append(
                StepRow(
                    name,
                    status,
                    (began - self.began) * 1000.0,
                    (time.monotonic() - began) * 1000.0,
                    "; ".join(detail),
                )
            )
            if self.phase not in (Phase.HOLDING, Phase.DECIDING):
                self.notify(f"{name}: {status}" + (f" ({'; '.join(detail)})" if detail else ""))

    def left_s(self, most_s: float) -> float:
        """What a step may take now. Raises StepFailed when the pause has used its time."""
        budget = self.general.cutover_max_pause / 1000.0 * (1 - RESERVE_SHARE)
        left = self.hold_began + budget - time.monotonic()
        if left <= 0.001:
            raise self.limit_reached()
        return min(left, most_s)

    def limit_reached(self) -> StepFailed:
        """The pause has used its time; with those who did not become quiet where that is what it waited for."""
        waited_for = "; ".join(str(s) for s in self.hold.stragglers()[:10]) if self.current == "hold" else ""
        return StepFailed(
            f"the pause reached its limit of {self.general.cutover_max_pause} ms",
            detail=f"waited for {waited_for}" if waited_for else "",
            hint="cutover_max_pause bounds it; the steps' durations show where the time went.",
        )

    def traffic(self) -> str:
        target = self.source_endpoint
        return f'Traffic of "{self.pair.name}" flows on the source, {target.host}:{target.port}.'

    def judge_sessions(self) -> None:
        """Raises StepFailed for clients that got no link, and by policy for sessions that cannot move."""
        unopened = self.hold.unopened()
        if unopened:
            raise StepFailed(
                f'{len(unopened)} clients could not get a link to "{self.destination_name}"',
                detail="; ".join(unopened[:10]),
                hint="The destination refuses these logins; CHECK; tells more.",
            )
        immovable = self.hold.immovable()
        if immovable and self.general.cutover_session_policy is SessionPolicy.ABORT:
            raise StepFailed(
                f"{len(immovable)} sessions cannot move (cutover_session_policy = abort)",
                detail="; ".join(immovable[:10]),
                hint='End them, or set cutover_session_policy = "disconnect".',
            )
