"""The pause: from the first stopped client to the answer of the commit point (docs/CUTOVER.md).

What does not depend on each other overlaps: the fence's first half goes up while the last requests still run, the
wait for the marker begins before the marker is written, sessions and sequences are carried over meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import time

from config.model import FenceKind, TransactionAction
from proxy.control import AdvisoryLock, Drained
from replication import decision
from replication.session import ControlUnavailable
from replication.session_facts import advisory_locks

from .machine import Event
from .run_context import RunContext, Sessions, StepFailed
from .run_prepare import TWIN_TIMEOUT_S, Prepared, still

FENCE_TIMEOUT_S = 1.0


class Pause:
    """`run_through` ends with the run committed, or raises; what a failure means depends on the run's phase."""

    def __init__(self, run: RunContext, sessions: Sessions, prepared: Prepared) -> None:
        self.run = run
        self.sessions = sessions
        self.prepared = prepared

    async def run_through(self) -> None:
        """Whatever hangs in here, the limit ends it, up to the moment when the commit is sent."""
        self.run.advance(Event.HOLD_BEGINS)
        self.run.hold_began = time.monotonic()
        gc.disable()  # a full collection may take as long as all the rest
        try:
            async with asyncio.timeout(self.run.left_s(3600.0)) as self._limit:
                trips_before = self.sessions.round_trips()
                async with self.run.step("hold") as detail:
                    drained = await self._drain()
                    detail.append(f"{drained.transactions_waited} transactions waited for")
                moved = await self._still_and_arrived()
                async with self.run.step("commit") as detail:
                    await self._commit(moved, detail)
                self.run.report.round_trips = self.sessions.round_trips() - trips_before
        except TimeoutError as error:
            raise self.run.limit_reached() from error
        finally:
            gc.enable()

    async def _still_and_arrived(self) -> list[tuple[int, int, bool]]:
        """The source is still, the destination has everything, sessions and sequences are carried over."""
        async with asyncio.TaskGroup() as group:
            arriving = group.create_task(self._arrive(), name="arrival")
            refreshing = group.create_task(self.run.hold.refresh(self.run.left_s(2.0)), name="refresh")
            async with self.run.step("fence") as detail:
                await self._raised()
                detail.append(await self._fence())
            async with self.run.step("carry over") as detail:
                values = await self.prepared.sequences.read(self.sessions.source_reader, self.run.left_s(2.0))
                moved = self.prepared.sequences.moved(values)
                await self._carry_locks()
                asked = await refreshing
                self.run.judge_sessions()
                detail.append(f"{len(moved)} sequences moved, {asked} sessions asked again")
            async with self.run.step("arrival") as detail:
                detail.append(await arriving)
        return moved

    async def _drain(self) -> Drained:
        if not await self.run.hold.close_logins(self.run.left_s(self.run.general.connect_timeout / 1000.0)):
            raise StepFailed("logins that were under way did not end", hint="Try again.")
        if self.run.hold.without_twin():
            code = self.prepared.code
            await self.run.hold.prepare_twins(
                self.prepared.types,
                set(code.options),
                set(code.functions),
                self.run.left_s(TWIN_TIMEOUT_S),
                wait_for_quiet=False,
            )
            self.run.judge_sessions()
        self.run.hold.begin()
        drained = await self._quiet()
        self.run.report.transactions_waited = drained.transactions_waited
        while not drained.complete:
            if self.run.general.cutover_transaction_action is TransactionAction.ABORT:
                raise StepFailed(
                    f"{len(drained.stragglers) or 'some'} transactions did not end within "
                    f"{self.run.general.cutover_transaction_timeout} ms (cutover_transaction_timeout)",
                    detail="waited for " + "; ".join(str(s) for s in drained.stragglers[:10]),
                    hint='Let them end, raise the time-out, or set cutover_transaction_action = "terminate".',
                )
            self.run.report.sessions_closed += self.run.hold.terminate_stragglers()
            drained = await self._quiet()  # the others may go on for as long as any transaction may
        if self.run.hold.without_twin():
            raise StepFailed("links to the destination were lost", hint="Try again.")
        self.run.all_stopped = self.run.hold.all_stopped_at or self.run.hold_began
        self.run.hold.expect_lost_links()
        return drained

    async def _quiet(self) -> Drained:
        """Stop everybody. Raises StepFailed where the pause ends before cutover_transaction_timeout does."""
        timeout_s = self.run.general.cutover_transaction_timeout / 1000.0
        most_s = self.run.left_s(timeout_s)
        drained = await self.run.hold.drain(most_s, self._begin_raising)
        if not drained.complete and most_s < timeout_s:
            raise self.run.limit_reached()
        return drained

    def _begin_raising(self) -> None:
        """The read-only default binds new sessions only, so it goes up while the last requests still run. Fence
        triggers would stop transactions that are open, so with them the record changes when all are quiet."""
        if self.run.raising is None and self.run.general.cutover_fence is not FenceKind.TRIGGERS:
            self.run.raising = asyncio.create_task(self._raise(), name="raise-fence")

    async def _raise(self) -> None:
        await decision.raise_fence(
            self.sessions.source,
            self.run.run_id,
            read_only=self.run.general.cutover_fence is not FenceKind.NONE,
            timeout_s=self.run.left_s(FENCE_TIMEOUT_S),
        )

    async def _raised(self) -> None:
        if self.run.raising is None:
            self.run.raising = asyncio.create_task(self._raise(), name="raise-fence")
        await self.run.raising

    async def _fence(self) -> str:
        found = await still(self.run, self.sessions, dry=False, timeout_s=self.run.left_s(FENCE_TIMEOUT_S))
        if not found.clear:
            raise StepFailed(
                f'"{self.run.source_name}" is not still: {found.obstacle}',
                hint="COMMIT PREPARED or ROLLBACK PREPARED what is prepared; keep other clients away.",
            )
        return f"{len(found.terminated)} strangers terminated" + (
            ": " + ", ".join(found.terminated[:5]) if found.terminated else ""
        )

    async def _arrive(self) -> str:
        """Everything committed on the source has been applied, and nothing went wrong since the check."""
        began = time.monotonic()
        arrival = await decision.arrived(
            self.sessions.destination_waiter,
            self.prepared.source_identity.uuid,
            self.run.marker,
            self.prepared.streams.inbound.subscription,
            self.run.left_s(60.0),
        )
        if not arrival.seen:
            raise StepFailed("the drain marker did not arrive in time", hint="SHOW REPLICATION; tells the lag.")
        if arrival.tables_not_ready:
            raise StepFailed(f"{arrival.tables_not_ready} tables are not in sync")
        risen = arrival.risen(self.prepared.counters)
        if risen:
            raise StepFailed("errors or conflicts since the check", detail="; ".join(risen))
        await self.prepared.streams.skip_what_came(self.sessions.destination_waiter, self.sessions.source.major)
        return f"marker after {(time.monotonic() - began) * 1000.0:.1f} ms"

    async def _carry_locks(self) -> None:
        held = await advisory_locks(self.sessions.source_reader, self.run.hold.backend_pids(), self.run.left_s(2.0))
        if held:
            locks = {pid: [AdvisoryLock(*row) for row in rows] for pid, rows in held.items()}
            await self.run.hold.take_locks(locks, self.run.left_s(2.0))

    async def _commit(self, moved: list[tuple[int, int, bool]], detail: list[str]) -> None:
        timeout_s = self.run.left_s(2.0)
        if self.sessions.destination.closed:
            raise ControlUnavailable(
                f'"{self.run.destination_name}": the connection was lost before the commit was sent'
            )
        self._limit.reschedule(None)
        self.run.advance(Event.COMMIT_SENT)
        # From here on whatever goes wrong, even a statement that the server refused, is settled by asking.
        outcome = await decision.commit(self.sessions.destination, self.run.run_id, moved, timeout_s)
        await self.run.failpoints.reach("answer:commit")
        detail.append(f"epoch {self.run.report.epoch}")
        self._decided(outcome)

    def _decided(self, outcome: decision.Outcome) -> None:
        if outcome is decision.Outcome.COMMITTED:
            self.run.advance(Event.ANSWER_COMMITTED)
        else:
            self.run.advance(Event.ANSWER_ABORTED)
            raise StepFailed("the run was aborted by somebody who recovered it", hint="Try again.")
