"""One run: CUTOVER and REVERT are the same steps, in opposite directions (docs/CUTOVER.md).

Nothing before the hold touches traffic (run_prepare.py). Inside the pause (run_pause.py) every call has a deadline
inside cutover_max_pause. Here is what a failure leads to: back, before the commit is sent; to the question what the
destination decided, once it is; forward, after the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from config.model import FenceKind
from replication import decision
from replication.errors import ReplicationError
from replication.sequences import SequencesMissing
from replication.session import ControlUnavailable, StatementFailed, connect

from .api import MoveError, Notify, RunKind, RunOutcome, RunReport, StepRow
from .failpoints import Failpoints, InjectedFailure
from .finish import NotFinished, clean_up_aborted, finish_committed, save_outcome
from .machine import Event, Phase, Reaction, on_failure
from .pair import LiveRun, Pair
from .run_context import RESERVE_SHARE, RunContext, StepFailed
from .run_pause import Pause
from .run_prepare import Preparation

RELEASE_TIMEOUT_S = 0.5
ASK_AGAIN_S = 0.1

_EXPECTED = (
    StepFailed,
    ControlUnavailable,
    StatementFailed,
    ReplicationError,
    InjectedFailure,
    SequencesMissing,
)


class Run:
    """Use it once: `execute`, and after a commit `finish`."""

    def __init__(self, pair: Pair, kind: RunKind, notify: Notify, failpoints: Failpoints, node: str) -> None:
        self.run = RunContext(pair, kind, notify, failpoints, node)
        self._swapped = False

    async def execute(self) -> RunReport:
        """Returns the report of a committed run. Raises MoveError with the report of an aborted one."""
        run = self.run
        run.pair.live = LiveRun(run.run_id, run.kind.value, "", run.began, self._waiting_for)
        try:
            async with run.open_sessions() as sessions:
                try:
                    prepared = await Preparation(run).prepare(sessions)
                    await Pause(run, sessions, prepared).run_through()
                    self._forward()
                except BaseException as error:
                    await self._after_failure(error)
                    if isinstance(error, asyncio.CancelledError):
                        raise
            return run.report
        finally:
            if run.report.outcome is not RunOutcome.COMMITTED:
                run.pair.live = None

    async def _after_failure(self, error: BaseException) -> None:
        """What a failure means depends on the phase alone (machine.py)."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, _EXPECTED):
            self.run.log.error(
                "run broken off", error=repr(error), exc_info=not isinstance(error, asyncio.CancelledError)
            )
        match on_failure(self.run.phase):
            case Reaction.GO_BACK:
                await self._go_back(error)
            case Reaction.ASK_AGAIN:
                await self._until_decided(error)
            case Reaction.GO_FORWARD:
                self._forward()

    async def _until_decided(self, cause: BaseException) -> None:
        """Nobody but the destination knows the outcome. Ask until it answers; clients stay held meanwhile."""
        self.run.notify(f'the commit was sent and "{self.run.destination_name}" did not answer; asking again')
        self.run.pair.undecided = f'run {self.run.run_id} waits for the answer of "{self.run.destination_name}"'
        self.run.hold.outcome_unknown(True)
        try:
            outcome = await self._ask_until_answered(_was_refused(cause))
        finally:
            self.run.pair.undecided = ""
            self.run.hold.outcome_unknown(False)
        if outcome is decision.Outcome.COMMITTED:
            self.run.advance(Event.ANSWER_COMMITTED)
            self._forward()
            return
        self.run.advance(Event.ANSWER_ABORTED)
        reason = getattr(cause, "message", None) or cause
        sqlstate = getattr(cause, "sqlstate", None) or "55000"
        hint = getattr(cause, "hint", None) or ""
        await self._go_back(StepFailed(f"the commit did not happen: {reason}", hint=hint, sqlstate=sqlstate))

    async def _ask_until_answered(self, refused: bool) -> decision.Outcome:
        """`refused`: the server itself said that our commit failed. Nobody else commits this run, so it is enough to
        read that it is still undecided where the abort cannot be written either (a full disk)."""
        while True:
            self.run.advance(Event.STEP_FAILED)
            try:
                async with await connect(self.run.destination_endpoint, timeout_s=1.0) as session:
                    try:
                        return await decision.abort(session, self.run.run_id, 2.0)
                    except StatementFailed:
                        found = await decision.outcome_of(session, self.run.run_id, 2.0)
                        if not refused and found is decision.Outcome.UNDECIDED:
                            raise
                        return found if found is decision.Outcome.COMMITTED else decision.Outcome.ABORTED
            except (ControlUnavailable, StatementFailed) as error:
                if refused:
                    return decision.Outcome.ABORTED
                self.run.log.warning("outcome unknown", error=str(error))
                await asyncio.sleep(ASK_AGAIN_S)

    def _forward(self) -> None:
        """After the commit point. Nothing here waits; what is left is repeated until it is done (finish.py)."""
        if self._swapped:
            return
        self._swapped = True
        began = time.monotonic()
        config = self.run.pair.config.swapped(self.run.source_name, self.run.destination_name)
        self.run.report.sessions_closed += self.run.hold.swap(config)
        self.run.hold.release()
        now = time.monotonic()
        self.run.pair.epoch = self.run.report.epoch
        self.run.report.pause_ms = (now - self.run.all_stopped) * 1000.0
        self.run.report.steps.append(
            StepRow("swap", "done", (began - self.run.began) * 1000.0, (now - began) * 1000.0, "gates open")
        )
        self._hold_figures()
        self.run.report.outcome = RunOutcome.COMMITTED
        self.run.notify(
            f'traffic of "{self.run.pair.name}" flows on the new side; pause {self.run.report.pause_ms:.1f} ms'
        )
        self.run.log.info("committed", pause_ms=self.run.report.pause_ms, epoch=self.run.report.epoch)

    def _hold_figures(self) -> None:
        holds = sorted(self.run.hold.holds_ms)
        self.run.report.clients_held = len(holds)
        if holds:
            self.run.report.hold_p50_ms = statistics.median(holds)
            self.run.report.hold_p99_ms = holds[min(len(holds) - 1, int(len(holds) * 0.99))]
            self.run.report.hold_max_ms = holds[-1]

    async def finish(self) -> None:
        """What is left after the commit point, with a row per step. What cannot be done now is done later, so
        nothing that goes wrong here is an error of the run."""
        try:
            await self._finish()
        except Exception as error:
            self.run.log.exception("finish_incomplete")
            self.run.pair.unfinished, self.run.pair.unfinished_why = True, str(error)
        finally:
            self.run.pair.live = None
            if self.run.lock_keeper is not None:
                await self.run.lock_keeper.close()

    async def _finish(self) -> None:
        if self.run.record is None:
            return
        sides = (self.run.source_endpoint, self.run.destination_endpoint)
        self.run.report.total_ms = (time.monotonic() - self.run.began) * 1000.0
        await save_outcome(self.run.run_id, decision.Outcome.COMMITTED, self.run.report, sides, done=False)
        why = ""
        try:
            await finish_committed(
                self.run.record, self.run.source_endpoint, self.run.destination_endpoint, self._finish_step
            )
        except (ControlUnavailable, StatementFailed, ReplicationError, NotFinished, InjectedFailure) as error:
            why = str(error)
            self.run.log.warning("finish_incomplete", error=why)
            self.run.notify(f"not finished yet, tried again every second: {why}")
        self.run.report.total_ms = (time.monotonic() - self.run.began) * 1000.0
        problems = await save_outcome(self.run.run_id, decision.Outcome.COMMITTED, self.run.report, sides, done=not why)
        for problem in problems:
            self.run.notify(f"tried again every second: {problem}")
        self.run.pair.unfinished_why = "; ".join(filter(None, [why, *problems]))
        self.run.pair.unfinished = bool(self.run.pair.unfinished_why)

    async def _finish_step(self, name: str, do: Callable[[], Awaitable[str]]) -> None:
        async with self.run.step(name) as detail:
            detail.append(await do())

    async def _go_back(self, error: BaseException) -> None:
        """Before the commit: traffic goes on on the source, then what the run made is taken away."""
        if self.run.phase is not Phase.ABORTED:
            self.run.advance(Event.STEP_FAILED)
        held = self.run.hold_began > 0
        failed_step = self.run.current
        if self.run.raising is not None:
            await _cancel(self.run.raising)
        if held and self.run.general.cutover_fence is FenceKind.TRIGGERS:
            await self._release_source(self._rest_of_pause_s())
        self.run.hold.release_sessions()
        # The read-only default binds new sessions only, so those that were held need not wait for its end.
        await self._release_source(RELEASE_TIMEOUT_S * 3)
        self.run.hold.release()
        if held:
            self._hold_figures()
            self.run.report.pause_ms = (time.monotonic() - (self.run.all_stopped or self.run.hold_began)) * 1000.0
        self.run.report.outcome = RunOutcome.ABORTED
        self.run.report.error = f"{failed_step}: {getattr(error, 'message', None) or error}"
        self.run.log.warning("aborted", step=failed_step, error=str(error))
        self.run.report.total_ms = (time.monotonic() - self.run.began) * 1000.0
        left = await self._clean_up() if self.run.record is not None else []
        self.run.pair.unfinished = bool(left)
        self.run.report.total_ms = (time.monotonic() - self.run.began) * 1000.0
        details = [getattr(error, "detail", ""), self.run.traffic(), *left]
        raise MoveError(
            f"{self.run.kind.value} aborted at step {failed_step}: {getattr(error, 'message', None) or error}",
            sqlstate=getattr(error, "sqlstate", "55000") or "55000",
            detail=" ".join(_sentence(d) for d in details if d),
            hint=getattr(error, "hint", ""),
            report=self.run.report,
        )

    async def _release_source(self, timeout_s: float) -> None:
        """The source serves again, without its fence. Quick, for clients are waiting; the clean-up repeats it."""
        sessions = self.run.sessions
        if sessions is None:
            return
        with contextlib.suppress(ControlUnavailable, StatementFailed, TimeoutError):
            async with asyncio.timeout(timeout_s):
                for session in (sessions.source_reader, sessions.source):
                    if not session.closed:
                        with contextlib.suppress(ControlUnavailable, StatementFailed):
                            await decision.release_source(session, self.run.run_id, RELEASE_TIMEOUT_S)
                            return
                async with await connect(self.run.source_endpoint, timeout_s=RELEASE_TIMEOUT_S) as session:
                    await decision.release_source(session, self.run.run_id, RELEASE_TIMEOUT_S)

    def _rest_of_pause_s(self) -> float:
        """What is left for the way back of those who are held; never nothing."""
        most_s = self.run.general.cutover_max_pause / 1000.0 * (1 - RESERVE_SHARE / 4)
        return max(0.02, self.run.hold_began + most_s - time.monotonic())

    async def _clean_up(self) -> list[str]:
        """Take away what the run made. What cannot be done now is said and left to the next look."""
        return await clean_up_aborted(
            self.run.record,
            self.run.run_id,
            self.run.report,
            self.run.source_endpoint,
            self.run.destination_endpoint,
            self._stale_pids(),
        )

    def _stale_pids(self) -> dict[str, list[int]]:
        if self.run.sessions is None:
            return {}
        return {
            self.run.source_name: [self.run.sessions.source.pid, self.run.sessions.source_reader.pid],
            self.run.destination_name: [
                self.run.sessions.destination.pid,
                self.run.sessions.destination_waiter.pid,
            ],
        }

    def _waiting_for(self) -> str:
        if self.run.phase in (Phase.HOLDING,) and self.run.current == "hold":
            return "; ".join(str(s) for s in self.run.hold.stragglers()[:5])
        if self.run.phase is Phase.DECIDING:
            return f'the answer of "{self.run.destination_name}"'
        return ""


def _was_refused(error: BaseException) -> bool:
    """Whether the server answered a statement with an ERROR, which rolled it back, and the session went on."""
    return isinstance(error, StatementFailed) and getattr(error, "severity_en", None) == "ERROR"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
