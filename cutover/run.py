"""One run: CUTOVER and REVERT are the same steps, in opposite directions (docs/CUTOVER.md).

Nothing before the hold touches traffic. Inside the pause every call has a deadline inside cutover_max_pause, and
whatever fails before the commit is sent leads back: the source serves again, the gates open, and what the run had
made is taken away. Once the commit is sent only the destination knows; its answer is asked for until it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from config.model import FenceKind, General, SessionPolicy, TransactionAction
from proxy.control import AdvisoryLock, Drained, RunHold, TypeMap
from replication import decision
from replication.control_schema import Identity, ServingState, read_identity
from replication.sequences import SequencesMissing, SequenceSync, sequence_sync
from replication.errors import ReplicationError
from replication.fence_triggers import ensure_fence_triggers
from replication.session import ControlSession, ControlUnavailable, StatementFailed, connect
from replication.session_facts import advisory_locks, code_facts, type_maps

from .api import MoveError, Notify, RunKind, RunOutcome, RunReport, Severity, StepRow
from .checks import run_pair_checks
from .failpoints import Failpoints, InjectedFailure
from .finish import NotFinished, clean_up_aborted, finish_committed, save_outcome
from .machine import Event, Phase, Reaction, advance, on_failure
from .pair import CONNECT_TIMEOUT_S, LiveRun, Pair
from .readiness import Facts, not_ready
from .run_streams import RunStreams

log = structlog.get_logger("cutover")

RESERVE_SHARE = 0.2
"""Part of cutover_max_pause that is kept for the way back."""
CALL_TIMEOUT_S = 10.0
"""For calls before the pause; those inside it have their own, shorter deadlines."""
FENCE_TIMEOUT_S = 1.0
TWIN_TIMEOUT_S = 5.0
PROOF_TIMEOUT_S = 5.0
RELEASE_TIMEOUT_S = 0.5
ASK_AGAIN_S = 0.1


class StepFailed(Exception):
    """A step did not go through; the words are the operator's."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint


_EXPECTED = (StepFailed, ControlUnavailable, StatementFailed, ReplicationError, InjectedFailure, SequencesMissing)


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


@dataclass(slots=True)
class Prepared:
    """What the steps before the pause found out and made."""

    source_identity: Identity
    destination_identity: Identity
    streams: RunStreams
    sequences: SequenceSync
    counters: dict[str, int] = field(default_factory=dict)


class Run:
    """Use it once: `await execute()`."""

    def __init__(self, pair: Pair, kind: RunKind, notify: Notify, failpoints: Failpoints, node: str) -> None:
        self.pair = pair
        self.kind = kind
        self.node = node
        self.run_id = uuid.uuid4()
        self.general: General = pair.config.general
        self._notify = notify
        self._failpoints = failpoints
        self._phase = Phase.PREPARING
        self._began = time.monotonic()
        self._hold_began = 0.0
        self._all_stopped = 0.0
        self._current = ""
        self.source_name = pair.source_name
        self.destination_name = pair.destination_name
        self.source_endpoint = pair.source
        self.destination_endpoint = pair.destination
        self.hold: RunHold = pair.control.run_hold(str(self.run_id), self.source_name, self.destination_name)
        self.hold.session_policy(self.general.cutover_session_policy)
        self.report = RunReport(
            str(self.run_id), kind, self.source_name, self.destination_name, datetime.now(UTC)
        )
        self.log = log.bind(run=str(self.run_id), pair=pair.name, kind=kind.value)
        self._sessions: Sessions | None = None
        self._raising: asyncio.Task[None] | None = None
        self.record: decision.RunRecord | None = None
        self.marker = time.time_ns() // 1000

    # -- the whole -----------------------------------------------------------------------------------------

    async def execute(self) -> RunReport:
        """Returns the report of a committed run. Raises MoveError with the report of an aborted one."""
        self.pair.live = LiveRun(self.run_id, self.kind.value, "", self._began, self._waiting_for)
        try:
            async with self._open_sessions() as sessions:
                try:
                    prepared = await self._prepare(sessions)
                    await self._pause(sessions, prepared)
                except BaseException as error:
                    await self._after_failure(error)
                    if isinstance(error, asyncio.CancelledError):
                        raise
            return self.report
        finally:
            if self.report.outcome is not RunOutcome.COMMITTED:
                self.pair.live = None

    async def _after_failure(self, error: BaseException) -> None:
        """What a failure means depends on the phase alone (machine.py)."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, _EXPECTED):
            self.log.error("run broken off", error=repr(error), exc_info=not isinstance(error, asyncio.CancelledError))
        match on_failure(self._phase):
            case Reaction.GO_BACK:
                await self._go_back(error)
            case Reaction.ASK_AGAIN:
                await self._until_decided(error)
            case Reaction.GO_FORWARD:
                self._forward()

    @contextlib.asynccontextmanager
    async def _open_sessions(self) -> AsyncIterator[Sessions]:
        opened: list[ControlSession] = []
        try:
            try:
                for target in (self.source_endpoint,) * 2 + (self.destination_endpoint,) * 2:
                    opened.append(
                        await connect(target, timeout_s=CONNECT_TIMEOUT_S, application_name="pgcutover run")
                    )
            except ControlUnavailable as error:
                raise MoveError(
                    f"cannot start: {error}", sqlstate="08006", detail=self._traffic(), hint="Nothing was changed."
                ) from error
            for session in opened:
                session.default_timeout_s = CALL_TIMEOUT_S
            self._sessions = Sessions(*opened)
            yield self._sessions
        finally:
            await asyncio.gather(*(session.close() for session in opened))

    @contextlib.asynccontextmanager
    async def _step(self, name: str) -> AsyncIterator[list[str]]:
        """Time a step and write its row. What is appended to the yielded list becomes its detail."""
        self._current = name
        if self.pair.live is not None:
            self.pair.live.step = name
        began = time.monotonic()
        detail: list[str] = []
        status = "failed"
        try:
            await self._failpoints.reach(f"before:{name}")
            yield detail
            await self._failpoints.reach(f"after:{name}")
            status = "done"
        except BaseException as error:
            detail.append(str(error) or type(error).__name__)
            raise
        finally:
            self.report.steps.append(
                StepRow(
                    name,
                    status,
                    (began - self._began) * 1000.0,
                    (time.monotonic() - began) * 1000.0,
                    "; ".join(detail),
                )
            )
            if self._phase not in (Phase.HOLDING, Phase.DECIDING):
                self._notify(f"{name}: {status}" + (f" ({'; '.join(detail)})" if detail else ""))

    # -- before the pause ----------------------------------------------------------------------------------

    async def _prepare(self, sessions: Sessions) -> Prepared:
        async with self._step("lock"):
            for session, name in ((sessions.source, self.source_name), (sessions.destination, self.destination_name)):
                if not await decision.try_lock(session):
                    raise StepFailed(
                        f'another run holds the lock on "{name}"', hint="SHOW CUTOVER tells what is running."
                    )
        async with self._step("record"):
            here, there = await self._identities(sessions)
            flow = await RunStreams.load(
                self.pair.name, here, self.source_endpoint, self.destination_endpoint, sessions.destination
            )
            await self._record_run(sessions, here, there, flow)
        async with self._step("check") as detail:
            counters = await self._go_or_no_go(sessions, here, flow, detail)
        async with self._step("return stream") as detail:
            detail.append(await flow.make_outbound(sessions.source, sessions.destination))
        async with self._step("sequences ahead") as detail:
            sequences = await sequence_sync(sessions.source_reader, sessions.destination)
            moved = await sequences.set_all(sessions.source_reader, sessions.destination)
            detail.append(f"{len(sequences.names)} sequences, {moved} set")
        if self.general.cutover_fence is FenceKind.TRIGGERS:
            async with self._step("fence triggers") as detail:
                detail.append(f"{await ensure_fence_triggers(sessions.source)} made")
        async with self._step("twins") as detail:
            await self._warm_up(sessions)
            await self._make_twins(sessions, there)
            detail.append(f"{self.pair.control.client_count(self.source_name)} clients")
            self._judge_sessions()
        return Prepared(here, there, flow, sequences, counters)

    async def _identities(self, sessions: Sessions) -> tuple[Identity, Identity]:
        here = await read_identity(sessions.source)
        there = await read_identity(sessions.destination)
        if here is None or there is None:
            missing = self.source_name if here is None else self.destination_name
            raise StepFailed(
                f'nothing is replicated: "{missing}" has no control schema', hint="Run REPLICATE; first."
            )
        if here.state is not ServingState.SERVING or here.run_id is not None:
            raise StepFailed(
                f'"{self.source_name}" does not serve (it is {here.state}, run {here.run_id})',
                hint="SHOW CUTOVER; tells what is known; RELOAD; looks again.",
            )
        if here.completed:
            raise StepFailed("this move is completed", hint="REPLICATE; begins a new one.")
        expected = RunKind.CUTOVER if here.uuid == here.move_origin else RunKind.REVERT
        if expected is not self.kind:
            other = "REVERT; goes back" if expected is RunKind.REVERT else "CUTOVER; moves it"
            raise StepFailed(
                f'there is nothing to {self.kind.value}: traffic of "{self.pair.name}" is on '
                + ("the destination already" if expected is RunKind.REVERT else "the original source"),
                hint=f"{other}.",
            )
        return here, there

    async def _record_run(self, sessions: Sessions, here: Identity, there: Identity, flow: RunStreams) -> None:
        self.report.epoch = here.epoch + 1
        self.record = record = decision.RunRecord(
            self.run_id,
            self.kind.value,
            self.pair.name,
            here.epoch + 1,
            here.uuid,
            there.uuid,
            {**flow.intent(), "fence": self.general.cutover_fence.value, "node": self.node},
            self.report.started_at,
            None,
            None,
            None,
        )
        await decision.record_run(sessions.destination, record)
        await decision.record_run(sessions.source, record)
        await decision.open_decision(sessions.destination, self.run_id, here.epoch + 1)
        if not await decision.open_source(sessions.source, self.run_id):
            raise StepFailed(f'"{self.source_name}" has another run open', hint="Try again in a moment.")

    async def _go_or_no_go(
        self, sessions: Sessions, here: Identity, flow: RunStreams, detail: list[str]
    ) -> dict[str, int]:
        findings = await run_pair_checks(
            self.pair,
            sessions.source_reader,
            sessions.destination_waiter,
            here,
            own=[session.pid for session in sessions.all()],
        )
        health = await flow.inbound_health(sessions.source_reader, sessions.destination)
        began = time.monotonic()
        await decision.write_marker(sessions.source, "proof", self.marker)
        seen = await decision.await_marker(
            sessions.destination_waiter, here.uuid, "proof", self.marker, PROOF_TIMEOUT_S
        )
        took_ms = (time.monotonic() - began) * 1000.0
        arrival = await decision.arrived(sessions.destination_waiter, here.uuid, -1, flow.inbound.subscription, 0.001)
        facts = Facts(
            blocking=tuple(
                f"{f.id} {f.object}: {f.finding}" for f in findings if f.severity is Severity.BLOCK
            ),
            subscription_enabled=health.enabled,
            worker_running=health.worker_running,
            tables_not_ready=len(health.not_ready) if health.not_ready is not None else None,
            lag_bytes=health.lag_bytes,
            lag_threshold_bytes=self.general.cutover_traffic_stop_threshold,
            marker_ms=took_ms if seen else None,
            marker_limit_ms=self.general.cutover_max_pause * (1 - RESERVE_SHARE) / 2,
            sessions_on_destination=self.hold.sessions_on_destination(),
        )
        reasons = not_ready(facts)
        if reasons:
            raise StepFailed(
                "not ready: " + reasons[0],
                detail="; ".join(reasons[1:]),
                hint="CHECK; lists every finding with its remedy, SHOW REPLICATION; the state of the stream.",
            )
        detail.append(f"lag {health.lag_bytes} bytes, marker {took_ms:.1f} ms")
        return arrival.counters

    async def _make_twins(self, sessions: Sessions, there: Identity) -> None:
        if there.fenced:
            self.hold.destination_is_fenced()
        by_name, by_oid = await type_maps(sessions.source_reader, sessions.destination)
        facts = await code_facts(sessions.source_reader)
        await self.hold.prepare_twins(
            TypeMap(by_name, by_oid), set(facts.options), set(facts.functions), TWIN_TIMEOUT_S
        )
        self._types = (TypeMap(by_name, by_oid), facts)

    def _judge_sessions(self) -> None:
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

    # -- the pause -----------------------------------------------------------------------------------------

    def _left_s(self, most_s: float) -> float:
        """What a step may take now. Raises StepFailed when the pause has used its time."""
        budget = self.general.cutover_max_pause / 1000.0 * (1 - RESERVE_SHARE)
        left = self._hold_began + budget - time.monotonic()
        if left <= 0.001:
            raise StepFailed(
                f"the pause reached its limit at step {self._current}",
                hint="cutover_max_pause bounds it; the steps' durations show where the time went.",
            )
        return min(left, most_s)

    async def _pause(self, sessions: Sessions, prepared: Prepared) -> None:
        """From the first stopped client to open gates. Whatever hangs in it, the limit ends it, up to the moment
        when the commit is sent."""
        self._phase = advance(self._phase, Event.HOLD_BEGINS)
        self._hold_began = time.monotonic()
        gc.disable()  # a full collection may take as long as all the rest
        try:
            async with asyncio.timeout(self._left_s(3600.0)) as self._limit:
                async with self._step("hold") as detail:
                    drained = await self._drain()
                    detail.append(f"{drained.transactions_waited} transactions waited for")
                trips_before = sessions.round_trips()
                moved = await self._still_and_arrived(sessions, prepared)
                async with self._step("commit") as detail:
                    await self._commit(sessions, moved, detail)
                self.report.round_trips = sessions.round_trips() - trips_before
                self._forward()
        except TimeoutError as error:
            raise StepFailed(
                f"the pause reached its limit of {self.general.cutover_max_pause} ms",
                hint="cutover_max_pause bounds it; the steps' durations show where the time went.",
            ) from error
        finally:
            gc.enable()

    async def _still_and_arrived(self, sessions: Sessions, prepared: Prepared) -> list[tuple[int, int, bool]]:
        """The source is still, the destination has everything, sessions and sequences are carried over."""
        async with asyncio.TaskGroup() as group:
            arriving = group.create_task(self._arrive(sessions, prepared), name="arrival")
            refreshing = group.create_task(self.hold.refresh(self._left_s(2.0)), name="refresh")
            async with self._step("fence") as detail:
                await self._raised()
                detail.append(await self._fence(sessions))
            async with self._step("carry over") as detail:
                values = await prepared.sequences.read(sessions.source_reader, self._left_s(2.0))
                moved = prepared.sequences.moved(values)
                await self._carry_locks(sessions)
                asked = await refreshing
                self._judge_sessions()
                detail.append(f"{len(moved)} sequences moved, {asked} sessions asked again")
            async with self._step("arrival") as detail:
                detail.append(await arriving)
        return moved

    async def _drain(self) -> Drained:
        if not await self.hold.close_logins(self._left_s(self.general.connect_timeout / 1000.0)):
            raise StepFailed("logins that were under way did not end", hint="Try again.")
        types, facts = self._types
        if self.hold.without_twin():
            await self.hold.prepare_twins(types, set(facts.options), set(facts.functions), self._left_s(TWIN_TIMEOUT_S))
            self._judge_sessions()
        self.hold.begin()
        drained = await self.hold.drain(
            self._left_s(self.general.cutover_transaction_timeout / 1000.0), self._begin_raising
        )
        self.report.transactions_waited = drained.transactions_waited
        if drained.stragglers:
            if self.general.cutover_transaction_action is TransactionAction.ABORT:
                raise StepFailed(
                    f"{len(drained.stragglers)} transactions did not end within "
                    f"{self.general.cutover_transaction_timeout} ms (cutover_transaction_timeout)",
                    detail="waited for " + "; ".join(str(s) for s in drained.stragglers[:10]),
                    hint='Let them end, raise the time-out, or set cutover_transaction_action = "terminate".',
                )
            self.report.sessions_closed += self.hold.terminate_stragglers()
            drained = await self.hold.drain(self._left_s(1.0))
            if drained.stragglers:
                raise StepFailed("terminated clients did not go", detail="; ".join(map(str, drained.stragglers)))
        if self.hold.without_twin():
            raise StepFailed("links to the destination were lost", hint="Try again.")
        self._all_stopped = self.hold.all_stopped_at or self._hold_began
        self.hold.expect_lost_links()
        return drained

    def _begin_raising(self) -> None:
        """The read-only default binds new sessions only, so it goes up while the last requests still run. Fence
        triggers would stop transactions that are open, so with them the record changes when all are quiet."""
        if self._raising is None and self.general.cutover_fence is not FenceKind.TRIGGERS:
            self._raising = asyncio.create_task(self._raise(), name="raise-fence")

    async def _raise(self) -> None:
        sessions = self._sessions
        assert sessions is not None
        await decision.raise_fence(
            sessions.source,
            self.run_id,
            read_only=self.general.cutover_fence is not FenceKind.NONE,
            timeout_s=self._left_s(FENCE_TIMEOUT_S),
        )

    async def _raised(self) -> None:
        if self._raising is None:
            self._raising = asyncio.create_task(self._raise(), name="raise-fence")
        await self._raising

    async def _fence(self, sessions: Sessions) -> str:
        found = await self._still(sessions, dry=False, timeout_s=self._left_s(FENCE_TIMEOUT_S))
        if not found.clear:
            raise StepFailed(
                f'"{self.source_name}" is not still: {found.obstacle}',
                hint="COMMIT PREPARED or ROLLBACK PREPARED what is prepared; keep other clients away.",
            )
        return f"{len(found.terminated)} strangers terminated" + (
            ": " + ", ".join(found.terminated[:5]) if found.terminated else ""
        )

    async def _still(self, sessions: Sessions, *, dry: bool, timeout_s: float) -> decision.FenceResult:
        pids = self.hold.backend_pids()
        return await decision.still(
            sessions.source,
            self.run_id,
            terminate=self.general.cutover_fence is not FenceKind.NONE,
            keep_pids=pids + [s.pid for s in sessions.all()] + self.pair.checker_pids(),
            quiet_pids=pids,
            marker=self.marker,
            timeout_s=timeout_s,
            dry=dry,
        )

    async def _warm_up(self, sessions: Sessions) -> None:
        """What is compiled, planned or prepared once is so before the pause."""
        await self._still(sessions, dry=True, timeout_s=5.0)
        await decision.commit(sessions.destination, uuid.UUID(int=0), [], 5.0)
        await advisory_locks(sessions.source_reader, [], 5.0)

    async def _arrive(self, sessions: Sessions, prepared: Prepared) -> str:
        """Everything committed on the source has been applied, and nothing went wrong since the check."""
        began = time.monotonic()
        arrival = await decision.arrived(
            sessions.destination_waiter,
            prepared.source_identity.uuid,
            self.marker,
            prepared.streams.inbound.subscription,
            self._left_s(60.0),
        )
        if not arrival.seen:
            raise StepFailed("the drain marker did not arrive in time", hint="SHOW REPLICATION; tells the lag.")
        if arrival.tables_not_ready:
            raise StepFailed(f"{arrival.tables_not_ready} tables are not in sync")
        risen = arrival.risen(prepared.counters)
        if risen:
            raise StepFailed("errors or conflicts since the check", detail="; ".join(risen))
        await prepared.streams.at_drain_point(sessions.destination_waiter, sessions.source.major)
        return f"marker after {(time.monotonic() - began) * 1000.0:.1f} ms"

    async def _carry_locks(self, sessions: Sessions) -> None:
        held = await advisory_locks(sessions.source_reader, self.hold.backend_pids(), self._left_s(2.0))
        if held:
            locks = {pid: [AdvisoryLock(*row) for row in rows] for pid, rows in held.items()}
            await self.hold.take_locks(locks, self._left_s(2.0))

    async def _commit(self, sessions: Sessions, moved: list[tuple[int, int, bool]], detail: list[str]) -> None:
        timeout_s = self._left_s(2.0)
        self._limit.reschedule(None)
        self._phase = advance(self._phase, Event.COMMIT_SENT)
        # From here on whatever goes wrong, even a statement that the server refused, is settled by asking.
        outcome = await decision.commit(sessions.destination, self.run_id, moved, timeout_s)
        await self._failpoints.reach("answer:commit")
        detail.append(f"epoch {self.report.epoch}")
        self._decided(outcome)

    def _decided(self, outcome: decision.Outcome) -> None:
        if outcome is decision.Outcome.COMMITTED:
            self._phase = advance(self._phase, Event.ANSWER_COMMITTED)
        else:
            self._phase = advance(self._phase, Event.ANSWER_ABORTED)
            raise StepFailed("the run was aborted by somebody who recovered it", hint="Try again.")

    async def _until_decided(self, cause: BaseException) -> None:
        """Nobody but the destination knows the outcome. Ask until it answers; clients stay held meanwhile."""
        self._notify(f'the commit was sent and "{self.destination_name}" did not answer; asking again')
        self.pair.undecided = f'run {self.run_id} waits for the answer of "{self.destination_name}"'
        self.hold.outcome_unknown(True)
        try:
            outcome = await self._ask_until_answered()
        finally:
            self.pair.undecided = ""
            self.hold.outcome_unknown(False)
        if outcome is decision.Outcome.COMMITTED:
            self._phase = advance(self._phase, Event.ANSWER_COMMITTED)
            self._forward()
            return
        self._phase = advance(self._phase, Event.ANSWER_ABORTED)
        await self._go_back(StepFailed(f"the commit did not happen: {cause}"))

    async def _ask_until_answered(self) -> decision.Outcome:
        while True:
            self._phase = advance(self._phase, Event.STEP_FAILED)
            try:
                async with await connect(self.destination_endpoint, timeout_s=1.0) as session:
                    return await decision.abort(session, self.run_id, 2.0)
            except (ControlUnavailable, StatementFailed) as error:
                self.log.warning("outcome unknown", error=str(error))
                await asyncio.sleep(ASK_AGAIN_S)

    # -- forward -------------------------------------------------------------------------------------------

    def _forward(self) -> None:
        """After the commit point. Nothing here waits; what is left is repeated until it is done (finish.py)."""
        if self.report.outcome is not None:
            return
        began = time.monotonic()
        config = self.pair.config.swapped(self.source_name, self.destination_name)
        self.report.sessions_closed += self.hold.swap(config)
        self.hold.release()
        now = time.monotonic()
        self.pair.epoch = self.report.epoch
        self.report.pause_ms = (now - self._all_stopped) * 1000.0
        self.report.steps.append(
            StepRow("swap", "done", (began - self._began) * 1000.0, (now - began) * 1000.0, "gates open")
        )
        self._hold_figures()
        self.report.outcome = RunOutcome.COMMITTED
        self._notify(f'traffic of "{self.pair.name}" flows on the new side; pause {self.report.pause_ms:.1f} ms')
        self.log.info("committed", pause_ms=self.report.pause_ms, epoch=self.report.epoch)

    def _hold_figures(self) -> None:
        holds = sorted(self.hold.holds_ms)
        self.report.clients_held = len(holds)
        if holds:
            self.report.hold_p50_ms = statistics.median(holds)
            self.report.hold_p99_ms = holds[min(len(holds) - 1, int(len(holds) * 0.99))]
            self.report.hold_max_ms = holds[-1]

    async def finish(self) -> None:
        """What is left after the commit point, with a row per step. What cannot be done now is done later."""
        if self.record is None:
            return
        sides = (self.source_endpoint, self.destination_endpoint)
        self.report.total_ms = (time.monotonic() - self._began) * 1000.0
        await save_outcome(self.run_id, decision.Outcome.COMMITTED, self.report, sides, done=False)
        done = True
        try:
            await finish_committed(self.record, self.source_endpoint, self.destination_endpoint, self._finish_step)
        except (ControlUnavailable, StatementFailed, ReplicationError, NotFinished, InjectedFailure) as error:
            done = False
            self.log.warning("finish_incomplete", error=str(error))
            self._notify(f"not finished yet, tried again every second: {error}")
        self.report.total_ms = (time.monotonic() - self._began) * 1000.0
        problems = await save_outcome(self.run_id, decision.Outcome.COMMITTED, self.report, sides, done=done)
        self.pair.unfinished = bool(problems) or not done
        self.pair.live = None

    async def _finish_step(self, name: str, do: Callable[[], Awaitable[str]]) -> None:
        async with self._step(name) as detail:
            detail.append(await do())

    # -- back ----------------------------------------------------------------------------------------------

    async def _go_back(self, error: BaseException) -> None:
        """Before the commit: traffic goes on on the source, then what the run made is taken away."""
        if self._phase is not Phase.ABORTED:
            self._phase = advance(self._phase, Event.STEP_FAILED)
        held = self._hold_began > 0
        failed_step = self._current
        if self._raising is not None:
            await _cancel(self._raising)
        if self.general.cutover_fence is FenceKind.TRIGGERS:
            await self._release_source()
        self.hold.release_sessions()
        if self.general.cutover_fence is not FenceKind.TRIGGERS:
            # The read-only default binds new sessions only, so those that were held need not wait for its end.
            await self._release_source()
        self.hold.release()
        if held:
            self._hold_figures()
            self.report.pause_ms = (time.monotonic() - (self._all_stopped or self._hold_began)) * 1000.0
        self.report.outcome = RunOutcome.ABORTED
        self.report.error = f"{failed_step}: {getattr(error, 'message', None) or error}"
        self.log.warning("aborted", step=failed_step, error=str(error))
        left = await self._clean_up() if self.record is not None else []
        self.pair.unfinished = bool(left)
        self.report.total_ms = (time.monotonic() - self._began) * 1000.0
        details = [getattr(error, "detail", ""), self._traffic(), *left]
        raise MoveError(
            f"{self.kind.value} aborted at step {failed_step}: {getattr(error, 'message', None) or error}",
            sqlstate=getattr(error, "sqlstate", "55000") or "55000",
            detail=" ".join(_sentence(d) for d in details if d),
            hint=getattr(error, "hint", ""),
            report=self.report,
        )

    async def _release_source(self) -> bool:
        """The source serves again, without its fence. Quick, for clients are waiting; the clean-up repeats it."""
        sessions = self._sessions
        if sessions is None:
            return True
        for session in (sessions.source_reader, sessions.source):
            if not session.closed:
                with contextlib.suppress(ControlUnavailable, StatementFailed):
                    await decision.release_source(session, self.run_id, RELEASE_TIMEOUT_S)
                    return True
        try:
            async with await connect(self.source_endpoint, timeout_s=RELEASE_TIMEOUT_S) as session:
                await decision.release_source(session, self.run_id, RELEASE_TIMEOUT_S)
                return True
        except (ControlUnavailable, StatementFailed):
            return False

    async def _clean_up(self) -> list[str]:
        """Take away what the run made. What cannot be done now is said and left to the next look."""
        return await clean_up_aborted(
            self.record, self.run_id, self.report, self.source_endpoint, self.destination_endpoint, self._stale_pids()
        )

    def _stale_pids(self) -> dict[str, list[int]]:
        if self._sessions is None:
            return {}
        return {
            self.source_name: [self._sessions.source.pid, self._sessions.source_reader.pid],
            self.destination_name: [self._sessions.destination.pid, self._sessions.destination_waiter.pid],
        }

    def _traffic(self) -> str:
        target = self.source_endpoint
        return f'Traffic of "{self.pair.name}" flows on the source, {target.host}:{target.port}.'

    def _waiting_for(self) -> str:
        if self._phase in (Phase.HOLDING,) and self._current == "hold":
            return "; ".join(str(s) for s in self.hold.stragglers()[:5])
        if self._phase is Phase.DECIDING:
            return f'the answer of "{self.destination_name}"'
        return ""


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
