"""REPLICATE: from two databases to a stream in sync; can be cancelled and run again at any point.

Every step looks at what is there before it makes anything, and records what it makes before it makes it.
RESET and COMPLETE are in `teardown`; this module is the door to all three.
"""

from __future__ import annotations

import asyncio
import uuid

from . import control_schema, decision, schema_copy, streams
from .adoption import adopt, adopted_names, find_adoptable
from .control_schema import Identity, ServingState
from .copied_rows import forget_tables, record_empty_tables, tables_with_rows
from .copy_wait import wait_until_copied
from .endpoint import Endpoint
from .errors import CopyStalled, MoveRefused, SchemaRefused, StreamError, listed
from .finish import analyze_tables, refresh_materialized_views
from .lag import lag_bytes, new_token
from .publications import TableName, publishable_tables, refuse_published_control_schema
from .registry import Kind, find, record, recorded
from .sequences import SequencesMissing, sequence_sync
from .session import ControlSession, connect
from .steps import Notify, SetupStep, StepLog, both_sides
from .stream_names import Direction, StreamNames, stream_names
from .teardown import complete, reset
from .tools import find_tools

__all__ = ["SetupStep", "complete", "prove_stream", "replicate", "reset"]

MARKER_KIND = "setup"

_SLOT_WAIT_S = 120.0
_PROOF_SILENCE_S = 120.0
_PROOF_SLICE_S = 1.0


async def replicate(
    source: Endpoint,
    destination: Endpoint,
    pair: str,
    *,
    pg_bin_dir: str | None,
    copy_jobs: int,
    adopt_subscription: str | None,
    notify: Notify,
    slot_wait_s: float = _SLOT_WAIT_S,
) -> list[SetupStep]:
    """Replicate `source` to `destination` until a marker has come through; returns the steps.

    May be cancelled and called again at any point; a copy that runs goes on meanwhile on the servers.
    Raises a ReplicationError that says what is in the way: MoveRefused, SchemaRefused, ToolsMissing,
    ToolFailed, StreamError (SlotBlocked, CopyStalled), SideUnreachable; ForeignIdentity for a clone.
    """
    log = StepLog(notify)
    async with both_sides(source, destination) as (here, there):
        async with log.step("control schema"):
            writer = await _install(here, there, pair)
        adoptable = await _adoptable(here, there, adopt_subscription)
        if adoptable is not None:
            names = await _adopt(log, here, there, adoptable)
            await _wait(log, here, there, names)
        else:
            names = stream_names(pair, Direction.FORWARD)
            tools = await find_tools(max(here.major, there.major), pg_bin_dir)
            async with log.step("schema") as step:
                step.detail = await schema_copy.ensure_base(here, there, tools, notify)
                await schema_copy.refuse_misfit(here, there)
            await _stream(log, here, there, names, slot_wait_s)
            await _wait(log, here, there, names)
            async with log.step("indexes and constraints") as step:
                step.detail = await schema_copy.ensure_rest(there, tools, copy_jobs, notify)
        async with log.step("statistics") as step:
            step.detail = await analyze_tables(there, copy_jobs)
        async with log.step("sequences") as step:
            step.detail = await _sequences(here, there)
        async with log.step("marker") as step:
            step.detail = await prove_stream(here, there, writer, names)
        async with log.step("materialized views") as step:
            step.detail = await refresh_materialized_views(here, there)
    return log.steps


async def _install(source: ControlSession, destination: ControlSession, pair: str) -> uuid.UUID:
    """Have the control schema on both sides, marked as one move; returns the source's uuid."""
    for session in (source, destination):
        if await control_schema.read_identity(session) is None:
            await refuse_published_control_schema(session)
    origin = await control_schema.install(source, ServingState.SERVING)
    target = await control_schema.install(destination, ServingState.REPLICA)
    _refuse_wrong_states(source, origin, destination, target)
    for session, identity in ((source, origin), (destination, target)):
        planned = (identity.move_origin, identity.move_target)
        if planned not in ((None, None), (origin.uuid, target.uuid)) and not identity.completed:
            raise MoveRefused(
                f'"{session.endpoint.name}" belongs to another move that is not completed',
                hint="COMPLETE or RESET that move first.",
            )
        if await find(session, Kind.MOVE, pair) is None:
            before = [str(identity.move_origin), str(identity.move_target)] if identity.completed else None
            await record(session, Kind.MOVE, pair, {"epoch": identity.epoch, "before": before})
        await session.execute(
            "UPDATE pgcutover.identity SET move_origin = $1, move_target = $2, completed = false",
            origin.uuid,
            target.uuid,
        )
    return origin.uuid


def _refuse_wrong_states(
    source: ControlSession, origin: Identity, destination: ControlSession, target: Identity
) -> None:
    if origin.uuid == target.uuid:
        raise MoveRefused(
            f'"{destination.endpoint.name}" carries the control schema of "{source.endpoint.name}"',
            hint="Drop the schema pgcutover there, then run REPLICATE again.",
        )
    if origin.state is not ServingState.SERVING or origin.run_id is not None:
        raise MoveRefused(
            f'"{source.endpoint.name}" does not serve at present, its state is {origin.state.value}'
            + (", and a run is open on it" if origin.run_id is not None else ""),
            hint="SHOW CUTOVER says where the traffic goes.",
        )
    if target.state is not ServingState.REPLICA:
        raise MoveRefused(
            f'"{destination.endpoint.name}" was part of another move, its state is {target.state.value}',
            hint="If nothing uses it any more, drop the schema pgcutover there, take back its "
            "default_transaction_read_only, and empty it.",
        )


async def _adoptable(
    source: ControlSession, destination: ControlSession, configured: str | None
) -> streams.Subscription | None:
    """What to adopt, but not once a stream of our own was begun; and what was adopted once stays so."""
    if configured is None:
        adopted = await adopted_names(destination)
        if adopted is not None:
            configured = adopted.subscription
        elif (
            await recorded(destination, Kind.SUBSCRIPTION)
            or await schema_copy.copy_mode(destination) == schema_copy.COPIED
        ):
            return None
    return await find_adoptable(source, destination, configured)


async def _adopt(
    log: StepLog, source: ControlSession, destination: ControlSession, found: streams.Subscription
) -> StreamNames:
    async with log.step("subscription") as step:
        subscribed = {
            TableName(row["nspname"], row["relname"])
            for row in await destination.fetch(
                "SELECT n.nspname, c.relname FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid "
                "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.srsubid = $1::bigint::oid",
                found.oid,
            )
        }
        await schema_copy.refuse_misfit(source, destination, only=subscribed)
        names = await adopt(source, destination, found)
        step.detail = f"adopted {found.name}; the marker is part of publication {names.publication}"
    return names


async def _stream(
    log: StepLog, source: ControlSession, destination: ControlSession, names: StreamNames, slot_wait_s: float
) -> None:
    """Publication, slot and subscription with copy, or what is missing of them."""
    subscription = await streams.find_subscription(destination, names.subscription)
    if subscription is None:
        await _refuse_rows(source, destination)
    async with log.step("publication") as step:
        added = await streams.ensure_publication(source, names.publication)
        step.detail = f"{len(added)} tables added" if added else "was there already"
    async with log.step("replication slot") as step:
        step.detail = await _slot(log, source, names, subscription, slot_wait_s)
    async with log.step("subscription") as step:
        if subscription is None:
            step.detail = await _subscribe(source, destination, names)
            return
        if await find(destination, Kind.SUBSCRIPTION, names.subscription) is None:
            raise StreamError(
                f'subscription "{names.subscription}" exists on "{destination.endpoint.name}" '
                "and was not made by pgcutover"
            )
        if not subscription.enabled:
            await streams.enable(destination, names.subscription)
        await streams.refresh(destination, names.subscription, copy_data=True)
        step.detail = "was there already"


async def _subscribe(source: ControlSession, destination: ControlSession, names: StreamNames) -> str:
    """Begin the copy. What RESET has to empty is recorded just before, and only where tables were there."""
    existing = await schema_copy.copy_mode(destination) == schema_copy.EXISTING
    if existing:
        await _refuse_rows(source, destination)
        await record_empty_tables(destination, await publishable_tables(source, leaves_only=True))
    try:
        await streams.create_subscription(destination, source.endpoint, names, enabled=True, copy_data=True)
    except StreamError:
        if existing:
            async with await connect(destination.endpoint) as session:
                await forget_tables(session)
        raise
    return "made; the copy begins"


async def _slot(
    log: StepLog,
    source: ControlSession,
    names: StreamNames,
    subscription: streams.Subscription | None,
    wait_s: float,
) -> str:
    state = await streams.slot_state(source, names.slot)
    usable = state is not None and state.status != "lost" and state.confirmed_lsn is not None
    if subscription is not None:
        if not usable:
            raise StreamError(
                f'the replication slot "{names.slot}" of a copy that was begun is gone or was lost',
                hint="RESET, then REPLICATE again. Check max_slot_wal_keep_size and "
                f'idle_replication_slot_timeout on "{source.endpoint.name}".',
            )
        return "was there already"
    if state is not None:
        if await find(source, Kind.SLOT, names.slot) is None:
            raise StreamError(
                f'replication slot "{names.slot}" exists on "{source.endpoint.name}" and was not made by pgcutover'
            )
        await streams.drop_slot(source, names.slot)
    lsn = await streams.create_slot(source.endpoint, names.slot, wait_s=wait_s, notify=log.notify)
    return f"made at {lsn}"


async def _refuse_rows(source: ControlSession, destination: ControlSession) -> None:
    """Rows that are there before the copy would be there twice."""
    filled = await tables_with_rows(destination, await publishable_tables(source, leaves_only=True))
    if filled:
        raise SchemaRefused(
            f'tables on "{destination.endpoint.name}" hold rows already: the copy would be a mixture',
            detail=listed(filled),
            hint="TRUNCATE them there, or name the subscription that filled them in the [[cutover]] entry.",
        )


async def _wait(log: StepLog, source: ControlSession, destination: ControlSession, names: StreamNames) -> None:
    async with log.step("copy") as step:
        step.detail = await wait_until_copied(source, destination, names, log.notify)


async def _sequences(source: ControlSession, destination: ControlSession) -> str:
    try:
        sync = await sequence_sync(source, destination)
    except SequencesMissing as error:
        raise SchemaRefused(str(error), hint="Create them there, then run REPLICATE again.") from error
    moved = await sync.set_all(source, destination)
    return f"{moved} of {len(sync.names)} set"


async def prove_stream(
    source: ControlSession,
    destination: ControlSession,
    writer: uuid.UUID,
    names: StreamNames,
    *,
    silence_s: float = _PROOF_SILENCE_S,
) -> str:
    """Write a marker and wait until it has arrived: the stream works. Returns how long it took, in words.

    A backlog may take its time as long as it gets smaller. Raises CopyStalled after `silence_s` without that.
    """
    loop = asyncio.get_running_loop()
    token = new_token()
    await decision.write_marker(source, MARKER_KIND, token)
    started = moved = loop.time()
    least: int | None = None
    while not await decision.await_marker(destination, writer, MARKER_KIND, token, _PROOF_SLICE_S):
        behind = await lag_bytes(source, names.slot)
        if behind is not None and (least is None or behind < least):
            least, moved = behind, loop.time()
        if loop.time() - moved > silence_s:
            health = await streams.stream_health(destination, source, names)
            raise CopyStalled(
                f'a marker did not arrive on "{destination.endpoint.name}"; no progress for {silence_s:g} s',
                detail=f"The stream is {health.state}; lag: "
                + (f"{behind} bytes" if behind is not None else "unknown"),
                hint=f'See the log of "{destination.endpoint.name}"; then run REPLICATE again.',
            )
    return f"arrived after {(loop.time() - started) * 1000:.0f} ms"
