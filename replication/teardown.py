"""RESET and COMPLETE: removing what a move made, exactly that, in an order that can stop anywhere.

Subscriptions go before the slots they use, slots before publications, all streams before the schema they
write to, the control schema (which holds the records) last.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import control_schema, schema_copy
from .adoption import release
from .control_schema import Identity, ServingState
from .copied_rows import remove_rows
from .endpoint import Endpoint
from .errors import MoveRefused, SideUnreachable
from .fence_triggers import drop_fence_triggers
from .publications import drop_publication
from .registry import Kind, forget, recorded
from .session import ControlSession, ControlUnavailable, connect
from .slots import drop_slot, drop_sync_slots
from .steps import Notify, SetupStep, StepLog, both_sides, take_lock
from .stream_names import StreamNames
from .streams import drop_stream
from .subscriptions import drop_subscription


async def reset(source: Endpoint, destination: Endpoint, *, notify: Notify) -> list[SetupStep]:
    """Remove everything that REPLICATE and runs that did not commit have made; returns the steps.

    Nothing to remove is no error, and after a crash or an error it can be called again. Raises MoveRefused
    after a committed cutover or while a run is open; SchemaInTheWay; StreamError; SideUnreachable. Where only
    the destination is out of reach, the source is still relieved of slots and publications first.
    """
    log = StepLog(notify)
    try:
        async with both_sides(source, destination) as (here, there):
            await _refuse_reset(here, there)
            await _drop_streams(log, (here, there))
            async with log.step("adopted subscription") as step:
                released = await release(here, there)
                step.detail = f"{', '.join(released)} left as it was found" if released else "none"
            await _drop_publications(log, (here, there))
            async with log.step("data") as step:
                step.detail = await remove_rows(there)
            async with log.step("schema") as step:
                mode = await schema_copy.copy_mode(there)
                removed = await schema_copy.remove_schema(there)
                step.detail = f"{removed} objects removed" if mode == schema_copy.COPIED else "none was copied"
            async with log.step("control schema"):
                await control_schema.drop(there)
                await _leave_move(here)
    except SideUnreachable as error:
        await _relieve_source(log, source, error)
        raise
    return log.steps


async def complete(source: Endpoint, destination: Endpoint, *, notify: Notify) -> list[SetupStep]:
    """End a move after its cutover: no stream is left, the old database stays fenced and marked as moved.

    Either endpoint may be the one that serves by now; the states in the databases say which. Can be called
    again. Raises MoveRefused before a cutover or while a run is open; StreamError; SideUnreachable, but then
    the serving side is relieved of the slot that would keep its WAL.
    """
    log = StepLog(notify)
    try:
        async with both_sides(source, destination) as (one, other):
            serving, old = await _sides_of_committed_move(one, other)
            await _drop_streams(log, (serving, old))
            async with log.step("adopted subscription") as step:
                step.detail = await _drop_adopted((serving, old))
            await _drop_publications(log, (serving, old))
            async with log.step("fence"):
                await old.execute("SELECT pgcutover.set_read_only(true)")
            async with log.step("fence triggers") as step:
                step.detail = await drop_fence_triggers(serving)
            async with log.step("end of the move"):
                for session in (old, serving):
                    await session.execute("UPDATE pgcutover.identity SET completed = true")
                    for kind in Kind:
                        for entry in await recorded(session, kind):
                            await forget(session, kind, entry.name)
    except SideUnreachable as error:
        await _relieve_serving(log, (source, destination), error)
        raise
    return log.steps


async def _leave_move(source: ControlSession) -> None:
    """Drop the source's control schema, but not what an earlier, completed move has left in it."""
    identity = await control_schema.read_identity(source)
    if identity is None:
        return
    moves = await recorded(source, Kind.MOVE)
    before = moves[0].detail["before"] if moves else None
    if before is None and not identity.completed:
        await control_schema.drop(source)
        return
    if before is not None:
        await source.execute(
            "UPDATE pgcutover.identity SET move_origin = $1::text::uuid, move_target = $2::text::uuid, "
            "completed = true",
            *before,
        )
    for entry in moves:
        await forget(source, Kind.MOVE, entry.name)


async def _refuse_reset(source: ControlSession, destination: ControlSession) -> None:
    for session in (source, destination):
        identity = await control_schema.read_identity(session)
        if identity is not None:
            _refuse_open_run(session, identity)
            if identity.state is ServingState.MOVED:
                raise MoveRefused(
                    f'a cutover was committed: "{session.endpoint.name}" has moved',
                    hint="REVERT brings the traffic back; COMPLETE ends the move.",
                )
    here, there = await control_schema.read_identity(source), await control_schema.read_identity(destination)
    if here is not None and there is not None and here.move_target not in (None, there.uuid):
        raise MoveRefused(
            f'"{source.endpoint.name}" is part of a move, but not to "{destination.endpoint.name}"',
            hint="Check where both names of the [[cutover]] entry lead.",
        )
    if there is not None and there.state is ServingState.SERVING:
        raise MoveRefused(
            f'"{destination.endpoint.name}" serves: it is no destination',
            hint="Check the [[cutover]] entry: RESET is for a move whose source serves.",
        )


def _refuse_open_run(session: ControlSession, identity: Identity) -> None:
    if identity.run_id is not None or identity.state is ServingState.DRAINING:
        raise MoveRefused(
            f'run {identity.run_id} is open on "{session.endpoint.name}"',
            hint="Wait until it has ended, or let a node recover it.",
        )


async def _sides_of_committed_move(one: ControlSession, other: ControlSession) -> tuple[ControlSession, ControlSession]:
    """The serving and the moved side."""
    identities = [(session, await control_schema.read_identity(session)) for session in (one, other)]
    for session, identity in identities:
        if identity is not None:
            _refuse_open_run(session, identity)
    serving = [s for s, identity in identities if identity is not None and identity.state is ServingState.SERVING]
    moved = [s for s, identity in identities if identity is not None and identity.state is ServingState.MOVED]
    successors = {identity.successor for _, identity in identities if identity is not None} - {None}
    uuids = {identity.uuid for _, identity in identities if identity is not None}
    if len(serving) != 1 or len(moved) != 1 or not successors <= uuids:
        raise MoveRefused(
            "there is no committed cutover to complete: "
            + ", ".join(
                f'"{s.endpoint.name}" is {identity.state.value if identity else "no part of a move"}'
                for s, identity in identities
            ),
            hint="RESET removes a move that has not been cut over.",
        )
    return serving[0], moved[0]


async def _drop_streams(log: StepLog, sides: Sequence[ControlSession]) -> None:
    """Subscriptions and slots that are recorded on either side; the other side is where their slots are."""
    async with log.step("subscriptions") as step:
        dropped = []
        for session, peer in (tuple(sides), tuple(reversed(sides))):
            for entry in await recorded(session, Kind.SUBSCRIPTION):
                pattern = await drop_subscription(session, entry.name)
                if pattern is not None:
                    await drop_sync_slots(peer, pattern)
                dropped.append(entry.name)
                await forget(session, Kind.SUBSCRIPTION, entry.name)
        step.detail = ", ".join(dropped) or "none"
    async with log.step("replication slots") as step:
        step.detail = ", ".join([name for session in sides for name in await _drop_slots(session)]) or "none"


async def _drop_slots(session: ControlSession) -> list[str]:
    names = [entry.name for entry in await recorded(session, Kind.SLOT)]
    for name in names:
        await drop_slot(session, name)
    return names


async def _drop_publications(log: StepLog, sides: Sequence[ControlSession]) -> None:
    async with log.step("publications") as step:
        dropped = []
        for session in sides:
            for entry in await recorded(session, Kind.PUBLICATION):
                await drop_publication(session, entry.name)
                dropped.append(entry.name)
        step.detail = ", ".join(dropped) or "none"


async def _drop_adopted(sides: Sequence[ControlSession]) -> str:
    dropped = []
    for session, peer in (tuple(sides), tuple(reversed(sides))):
        for entry in await recorded(session, Kind.ADOPTED_SUBSCRIPTION):
            names = StreamNames(entry.detail["publication"], entry.detail["slot"], entry.name)
            await drop_stream(session, peer, names)
            dropped.append(entry.name)
    return f"dropped: {', '.join(dropped)}; the publication is left" if dropped else "none"


async def _relieve_source(log: StepLog, source: Endpoint, error: SideUnreachable) -> None:
    """A slot whose subscriber is gone keeps WAL until the disk is full: drop it where that is surely right.

    Surely: the source serves, no run is open on it, and its epoch is still the one of REPLICATE.
    """
    try:
        async with await connect(source) as session:
            await take_lock(session)
            identity = await control_schema.read_identity(session)
            moves = await recorded(session, Kind.MOVE)
            if (
                identity is None
                or identity.state is not ServingState.SERVING
                or identity.run_id is not None
                or any(entry.detail.get("epoch") != identity.epoch for entry in moves)
            ):
                return
            await _relieve(log, session)
    except ControlUnavailable:
        return
    error.detail = f'Slots and publications on "{source.name}" were removed; {error.detail}'


async def _relieve_serving(log: StepLog, endpoints: Sequence[Endpoint], error: SideUnreachable) -> None:
    for endpoint in endpoints:
        try:
            async with await connect(endpoint) as session:
                identity = await control_schema.read_identity(session)
                # A serving database with a successor-less past: it was the destination of a committed run.
                if (
                    identity is None
                    or identity.state is not ServingState.SERVING
                    or identity.run_id is not None
                    or identity.move_target != identity.uuid
                ):
                    continue
                await take_lock(session)
                await _relieve(log, session)
        except ControlUnavailable:
            continue
        error.detail = f'Slots and publications on "{endpoint.name}" were removed; {error.detail}'


async def _relieve(log: StepLog, session: ControlSession) -> None:
    async with log.step("replication slots") as step:
        step.detail = ", ".join(await _drop_slots(session)) or "none"
    await _drop_publications(log, (session,))
