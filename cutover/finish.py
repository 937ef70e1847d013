"""What is left to do once a run is decided: forward after a commit, back after an abort.

Every function here can be repeated: a step that is done already does nothing. The run calls them, and so does
whoever finds an unfinished run later: the next run, a restart.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from replication import decision, streams
from replication.control_schema import read_identity
from replication.endpoint import Endpoint
from replication.errors import ReplicationError
from replication.session import ControlSession, ControlUnavailable, StatementFailed, connect

from .api import RunReport
from .pair import CONNECT_TIMEOUT_S
from .report import report_json
from .run_streams import names_from_intent

log = structlog.get_logger("cutover")

CLEAN_UP_TIMEOUT_S = 20.0
RETURN_PROOF_S = 10.0

Step = Callable[[str, Callable[[], Awaitable[str]]], Awaitable[None]]


class NotFinished(Exception):
    """A step of the way forward could not be done yet; it will be tried again."""


async def finish_committed(record: decision.RunRecord, old: Endpoint, new: Endpoint, step: Step) -> None:
    """After the commit point: retire the old side, turn the stream round, prove it, drop the one that drained.

    `step(name, do)` runs and reports one step. Raises ControlUnavailable, ReplicationError or NotFinished from
    the step that did not go through; call it again later.
    """
    inbound = names_from_intent(record.intent["inbound"])
    outbound = names_from_intent(record.intent["outbound"])
    async with await connect(old, timeout_s=CONNECT_TIMEOUT_S) as at_old:
        async with await connect(new, timeout_s=CONNECT_TIMEOUT_S) as at_new:

            async def retire() -> str:
                await decision.retire_source(at_old, record.run_id, record.destination_uuid, record.epoch)
                return f'"{old.host}:{old.port}" is marked as moved'

            async def stop_inbound() -> str:
                if await streams.find_subscription(at_new, inbound.subscription) is None:
                    return "gone already"
                await streams.disable(at_new, inbound.subscription)
                return inbound.subscription

            async def start_outbound() -> str:
                await streams.enable(at_old, outbound.subscription)
                return outbound.subscription

            async def prove() -> str:
                return await _prove_way_back(at_old, at_new)

            async def drop_inbound() -> str:
                await streams.drop_stream(at_new, at_old, inbound)
                return inbound.subscription

            await step("retire source", retire)
            await step("forward stream off", stop_inbound)
            await step("return stream on", start_outbound)
            await step("way back proven", prove)
            await step("forward stream dropped", drop_inbound)


async def _prove_way_back(at_old: ControlSession, at_new: ControlSession) -> str:
    """A marker written on the new side comes back on the old one."""
    identity = await read_identity(at_new)
    if identity is None:
        raise NotFinished("the control schema of the new side is gone")
    token = time.time_ns() // 1000
    began = time.monotonic()
    await decision.write_marker(at_new, "proof", token)
    if not await decision.await_marker(at_old, identity.uuid, "proof", token, RETURN_PROOF_S):
        raise NotFinished(f"a marker did not come back through the return stream within {RETURN_PROOF_S:g} s")
    return f"a marker came back after {(time.monotonic() - began) * 1000.0:.0f} ms"


async def save_outcome(
    run_id: uuid.UUID,
    outcome: decision.Outcome,
    report: RunReport | None,
    sides: Sequence[Endpoint],
    *,
    done: bool,
) -> list[str]:
    """Write the run's last entry on both sides; returns what could not be written."""
    problems = []
    for side in sides:
        try:
            async with await connect(side, timeout_s=CONNECT_TIMEOUT_S) as session:
                raw = report_json(report) if report is not None else None
                if done:
                    await decision.finish_run(session, run_id, outcome, raw)
                elif raw is not None:
                    await decision.save_report(session, run_id, outcome, raw)
        except (ControlUnavailable, StatementFailed) as error:
            problems.append(f'the journal on "{side.name}" could not be written: {error}')
    return problems


async def clean_up_aborted(
    record: decision.RunRecord | None,
    run_id: uuid.UUID,
    report: RunReport | None,
    source: Endpoint,
    destination: Endpoint,
    stale_pids: Mapping[str, Sequence[int]],
) -> list[str]:
    """After an abort: our stuck backends go, the source serves, the return stream goes, both journals say so.

    Returns what could not be done now; an empty list means that nothing is left.
    """
    problems: list[str] = []

    async def at_source(session: ControlSession) -> None:
        await _end_stale(session, stale_pids.get(source.name, ()))
        await decision.release_source(session, run_id)
        if record is not None:
            names = names_from_intent(record.intent["outbound"])
            await streams.drop_subscription(session, names.subscription)

    async def at_destination(session: ControlSession) -> None:
        await _end_stale(session, stale_pids.get(destination.name, ()))
        await decision.abort(session, run_id)
        if record is not None:
            names = names_from_intent(record.intent["outbound"])
            await streams.drop_slot(session, names.slot)
            await streams.drop_publication(session, names.publication)

    for side, do in ((source, at_source), (destination, at_destination)):
        try:
            async with asyncio.timeout(CLEAN_UP_TIMEOUT_S):
                async with await connect(side, timeout_s=CONNECT_TIMEOUT_S) as session:
                    await do(session)
        except (ControlUnavailable, StatementFailed, ReplicationError, TimeoutError) as error:
            problems.append(f'"{side.name}" could not be cleaned up yet ({error or "time-out"}); the next run will')
    problems += await save_outcome(run_id, decision.Outcome.ABORTED, report, (source, destination), done=not problems)
    if problems:
        log.warning("clean_up_incomplete", run=str(run_id), problems=problems)
    return problems


async def _end_stale(session: ControlSession, pids: Sequence[int]) -> None:
    """A control backend that hangs in a call of the run would hold its lock; it is ours, so it goes."""
    await session.fetch(
        """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid = ANY ($1::int[]) AND application_name = 'pgcutover run' AND pid <> pg_backend_pid()
        """,
        list(pids),
    )
