"""The steps of a run before the pause. None of them touches traffic; each can be undone (finish.clean_up_aborted)."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

from config.model import FenceKind
from proxy.control import TypeMap
from replication import decision
from replication.control_schema import Identity, ServingState, read_identity
from replication.fence_triggers import ensure_fence_triggers
from replication.sequences import SequenceSync, sequence_sync
from replication.session import StatementFailed, own_pids
from replication.session_facts import CodeFacts, advisory_locks, code_facts, type_maps

from .api import RunKind, Severity
from .checks import run_pair_checks
from .readiness import Facts, not_ready
from .run_context import RESERVE_SHARE, RunContext, Sessions, StepFailed
from .run_streams import RunStreams

TWIN_TIMEOUT_S = 5.0
PROOF_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Prepared:
    """What the steps before the pause found out and made."""

    source_identity: Identity
    destination_identity: Identity
    streams: RunStreams
    sequences: SequenceSync
    types: TypeMap
    code: CodeFacts
    counters: dict[str, int] = field(default_factory=dict)


class Preparation:
    """`prepare` runs the steps. Raises StepFailed, and what the calls to the servers raise."""

    def __init__(self, run: RunContext) -> None:
        self.run = run

    async def prepare(self, sessions: Sessions) -> Prepared:
        async with self.run.step("lock"):
            for session, name in (
                (sessions.source, self.run.source_name),
                (sessions.destination, self.run.destination_name),
            ):
                if not await decision.try_lock(session):
                    raise StepFailed(
                        f'another run holds the lock on "{name}"', hint="SHOW CUTOVER tells what is running."
                    )
        async with self.run.step("record"):
            here, there = await self._identities(sessions)
            flow = await RunStreams.load(
                self.run.pair.name,
                here,
                self.run.source_endpoint,
                self.run.destination_endpoint,
                sessions.destination,
            )
            await self._record_run(sessions, here, there, flow)
        async with self.run.step("check") as detail:
            counters = await self._go_or_no_go(sessions, here, flow, detail)
        async with self.run.step("return stream") as detail:
            detail.append(await flow.make_outbound(sessions.source, sessions.destination))
        async with self.run.step("sequences ahead") as detail:
            sequences = await sequence_sync(sessions.source_reader, sessions.destination)
            moved = await sequences.set_all(sessions.source_reader, sessions.destination)
            detail.append(f"{len(sequences.names)} sequences, {moved} set")
        if self.run.general.cutover_fence is FenceKind.TRIGGERS:
            async with self.run.step("fence triggers") as detail:
                detail.append(f"{await ensure_fence_triggers(sessions.source)} made")
        async with self.run.step("twins") as detail:
            await warm_up(self.run, sessions)
            types, code = await self._make_twins(sessions, there)
            detail.append(f"{self.run.pair.control.client_count(self.run.source_name)} clients")
            self.run.judge_sessions()
        await flow.skip_what_came(sessions.destination, sessions.source.major)
        return Prepared(here, there, flow, sequences, types, code, counters)

    async def _identities(self, sessions: Sessions) -> tuple[Identity, Identity]:
        here = await read_identity(sessions.source)
        there = await read_identity(sessions.destination)
        if here is None or there is None:
            missing = self.run.source_name if here is None else self.run.destination_name
            raise StepFailed(f'nothing is replicated: "{missing}" has no control schema', hint="Run REPLICATE; first.")
        if here.state is not ServingState.SERVING or here.run_id is not None:
            raise StepFailed(
                f'"{self.run.source_name}" does not serve (it is {here.state}, run {here.run_id})',
                hint="SHOW CUTOVER; tells what is known; RELOAD; looks again.",
            )
        if {here.uuid, there.uuid} != {here.move_origin, here.move_target}:
            raise StepFailed(
                f'"{self.run.destination_name}" is not the database that "{self.run.source_name}" is to move to',
                hint="Check the [[cutover]] entry; RESET; and REPLICATE; begin a new move.",
            )
        if here.completed:
            raise StepFailed("this move is completed", hint="REPLICATE; begins a new one.")
        expected = RunKind.CUTOVER if here.uuid == here.move_origin else RunKind.REVERT
        if expected is not self.run.kind:
            other = "REVERT; goes back" if expected is RunKind.REVERT else "CUTOVER; moves it"
            raise StepFailed(
                f'there is nothing to {self.run.kind.value}: traffic of "{self.run.pair.name}" is on '
                + ("the destination already" if expected is RunKind.REVERT else "the original source"),
                hint=f"{other}.",
            )
        return here, there

    async def _record_run(self, sessions: Sessions, here: Identity, there: Identity, flow: RunStreams) -> None:
        self.run.report.epoch = here.epoch + 1
        self.run.record = record = decision.RunRecord(
            self.run.run_id,
            self.run.kind.value,
            self.run.pair.name,
            here.epoch + 1,
            here.uuid,
            there.uuid,
            {
                **flow.intent(),
                "fence": self.run.general.cutover_fence.value,
                "node": self.run.node,
                "destination_name": self.run.destination_name,
                "destination_place": self.run.destination_endpoint.place,
            },
            self.run.report.started_at,
            None,
            None,
            None,
        )
        try:
            writing_to = self.run.destination_name
            await decision.record_run(sessions.destination, record)
            writing_to = self.run.source_name
            await decision.record_run(sessions.source, record)
            writing_to = self.run.destination_name
            await decision.open_decision(sessions.destination, self.run.run_id, here.epoch + 1)
        except StatementFailed as error:
            raise StepFailed(
                f'the journal on "{writing_to}" could not be written: {error.message}',
                hint=error.hint or "",
                sqlstate=error.sqlstate,
            ) from error
        if not await decision.open_source(sessions.source, self.run.run_id):
            raise StepFailed(f'"{self.run.source_name}" has another run open', hint="Try again in a moment.")

    async def _go_or_no_go(
        self, sessions: Sessions, here: Identity, flow: RunStreams, detail: list[str]
    ) -> dict[str, int]:
        findings = await run_pair_checks(
            self.run.pair,
            sessions.source_reader,
            sessions.destination_waiter,
            here,
        )
        health = await flow.inbound_health(sessions.source_reader, sessions.destination)
        began = time.monotonic()
        await decision.write_marker(sessions.source, "proof", self.run.marker)
        seen = await decision.await_marker(
            sessions.destination_waiter, here.uuid, "proof", self.run.marker, PROOF_TIMEOUT_S
        )
        took_ms = (time.monotonic() - began) * 1000.0
        arrival = await decision.arrived(sessions.destination_waiter, here.uuid, -1, flow.inbound.subscription, 0.001)
        facts = Facts(
            blocking=tuple(f"{f.id} {f.object}: {f.finding}" for f in findings if f.severity is Severity.BLOCK),
            subscription_enabled=health.enabled,
            worker_running=health.worker_running,
            tables_not_ready=len(health.not_ready) if health.not_ready is not None else None,
            lag_bytes=health.lag_bytes,
            lag_threshold_bytes=self.run.general.cutover_traffic_stop_threshold,
            marker_ms=took_ms if seen else None,
            marker_limit_ms=self.run.general.cutover_max_pause * (1 - RESERVE_SHARE) / 2,
            sessions_on_destination=self.run.hold.sessions_on_destination(),
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

    async def _make_twins(self, sessions: Sessions, there: Identity) -> tuple[TypeMap, CodeFacts]:
        if there.fenced:
            self.run.hold.destination_is_fenced()
        types = TypeMap(*await type_maps(sessions.source_reader, sessions.destination))
        code = await code_facts(sessions.source_reader)
        await self.run.hold.prepare_twins(types, set(code.options), set(code.functions), TWIN_TIMEOUT_S)
        return types, code


async def still(run: RunContext, sessions: Sessions, *, dry: bool, timeout_s: float) -> decision.FenceResult:
    """The fence's second half (replication.decision.still), with this run's links and connections."""
    return await decision.still(
        sessions.source,
        run.run_id,
        terminate=run.general.cutover_fence is not FenceKind.NONE,
        keep_pids=run.hold.backend_pids() + own_pids(run.source_endpoint),
        quiet_pids=run.hold.still_pids(),
        marker=run.marker,
        timeout_s=timeout_s,
        dry=dry,
    )


async def warm_up(run: RunContext, sessions: Sessions) -> None:
    """What is compiled, planned or prepared once is so before the pause."""
    await still(run, sessions, dry=True, timeout_s=5.0)
    await decision.commit(sessions.destination, uuid.UUID(int=0), [], 5.0)
    await advisory_locks(sessions.source_reader, [], 5.0)
