"""Using a subscription that somebody else made, instead of copying everything again.

Ours in it is only the marker, added to one of its publications. A publication FOR ALL TABLES cannot be
adopted (see publications.add_marker).
"""

from __future__ import annotations

import asyncio

from .errors import StreamError, listed
from .publications import MARKER, TableName, add_marker, remove_marker
from .registry import Kind, forget, record, recorded
from .session import ControlSession
from .slots import slot_state
from .stream_names import StreamNames
from .subscriptions import Subscription, find_subscription, refresh, subscriptions

_POLL_S = 0.1
_CATCH_UP_TIMEOUT_S = 60.0


async def find_adoptable(
    source: ControlSession, destination: ControlSession, configured: str | None
) -> Subscription | None:
    """The subscription to adopt: the configured one, or the only enabled one that the source feeds.

    That this very source feeds it is seen from its slot being in use there under the subscription's name (its
    default application_name); the marker that has to come through proves it later. Raises StreamError where
    the configured one cannot be used, or several could be.
    """
    ours = {entry.name for entry in await recorded(destination, Kind.SUBSCRIPTION)}
    if configured is not None:
        found = await find_subscription(destination, configured)
        if found is None:
            raise StreamError(f'subscription "{configured}" does not exist on "{destination.endpoint.name}"')
        if not found.enabled or found.slot is None:
            raise StreamError(
                f'subscription "{configured}" on "{destination.endpoint.name}" is disabled or has no slot',
                hint="Enable it and let it catch up, then run REPLICATE again.",
            )
        if not await _is_fed_here(source, found.slot):
            raise StreamError(
                f'subscription "{configured}" is not fed by "{source.endpoint.name}": no walsender there '
                f'uses the slot "{found.slot}" for it',
                hint="See the logs of both servers if it should be.",
            )
        return found
    candidates = [
        found
        for found in await subscriptions(destination)
        if found.enabled
        and found.name not in ours
        and found.slot is not None
        and await _is_fed_here(source, found.slot, found.name)
    ]
    if len(candidates) > 1:
        raise StreamError(
            f'"{destination.endpoint.name}" has several subscriptions to "{source.endpoint.name}": '
            + listed([c.name for c in candidates]),
            hint="Say which one to use: subscription of the [[cutover]] entry.",
        )
    return candidates[0] if candidates else None


async def _is_fed_here(source: ControlSession, slot: str, application_name: str | None = None) -> bool:
    return bool(
        await source.fetchval(
            """
            SELECT EXISTS (SELECT FROM pg_replication_slots k
                JOIN pg_stat_replication w ON w.pid = k.active_pid
                WHERE k.slot_name = $1 AND k.database = current_database() AND k.plugin = 'pgoutput'
                  AND ($2::text IS NULL OR w.application_name = $2))
            """,
            slot,
            application_name,
        )
    )


async def adopt(source: ControlSession, destination: ControlSession, found: Subscription) -> StreamNames:
    """Add the marker to what the subscription carries. Can be repeated. Raises StreamError."""
    if found.slot is None:
        raise AssertionError("a subscription without a slot is never offered for adoption")
    publication = await add_marker(source, list(found.publications))
    names = StreamNames(publication=publication, slot=found.slot, subscription=found.name)
    await record(
        destination,
        Kind.ADOPTED_SUBSCRIPTION,
        found.name,
        {"publication": publication, "publications": list(found.publications), "slot": found.slot},
    )
    if not await _carries_marker(destination, found.name):
        await refresh(destination, found.name, copy_data=True)
    return names


async def adopted_names(destination: ControlSession) -> StreamNames | None:
    """The stream that was adopted on this side, or None."""
    for entry in await recorded(destination, Kind.ADOPTED_SUBSCRIPTION):
        return StreamNames(entry.detail["publication"], entry.detail["slot"], entry.name)
    return None


async def release(source: ControlSession, destination: ControlSession) -> list[str]:
    """Take the marker out of adopted subscriptions and leave them as they were; returns their names.

    Changes of the marker that are under way still need its table, so this waits until the subscription has
    confirmed a position after its removal. Raises StreamError where that takes too long.
    """
    released = []
    for entry in await recorded(source, Kind.MARKER_PUBLICATION):
        await remove_marker(source, entry.name)
    for entry in await recorded(destination, Kind.ADOPTED_SUBSCRIPTION):
        found = await find_subscription(destination, entry.name)
        if found is not None:
            if not found.enabled:
                raise StreamError(
                    f'subscription "{found.name}" on "{destination.endpoint.name}" is disabled: it cannot '
                    "take note that the marker is gone, and would fail on it later",
                    hint="Enable it, or drop it if nobody needs it; then run the command again.",
                )
            await refresh(destination, found.name, copy_data=False)
            await _await_confirmed(source, entry.detail["slot"], found.name)
        await forget(destination, Kind.ADOPTED_SUBSCRIPTION, entry.name)
        released.append(entry.name)
    for entry in await recorded(source, Kind.MARKER_PUBLICATION):
        await forget(source, Kind.MARKER_PUBLICATION, entry.name)
    return released


async def _carries_marker(destination: ControlSession, subscription: str) -> bool:
    return bool(
        await destination.fetchval(
            "SELECT EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid "
            "WHERE s.subname = $1 AND r.srrelid = $2::text::regclass)",
            subscription,
            TableName(*MARKER).sql,
        )
    )


async def _await_confirmed(source: ControlSession, slot: str, subscription: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _CATCH_UP_TIMEOUT_S
    target = await source.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    while not await source.fetchval(
        "SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $1",
        slot,
        target,
    ):
        if await slot_state(source, slot) is None:
            return
        if loop.time() >= deadline:
            raise StreamError(
                f'subscription "{subscription}" has not confirmed the removal of the marker within '
                f"{_CATCH_UP_TIMEOUT_S:g} s",
                hint="Let it catch up, then run RESET again.",
            )
        await asyncio.sleep(_POLL_S)
