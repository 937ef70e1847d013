"""Streams of logical replication: one publication, one slot and one subscription per direction.

The door to the parts: `publications`, `slots`, `subscriptions` and `stream_health`. Everything made here is
recorded before it is made (`registry`), and removing what is gone already is no error.

Order: publication, then slot, then subscription. The slot's position must be later than the publication:
pgoutput looks the publication up as it was at the time of each change, and fails where it was not there yet.
"""

from __future__ import annotations

from collections.abc import Callable

from .endpoint import Endpoint
from .publications import (
    TableName,
    add_marker,
    drop_publication,
    ensure_publication,
    publishable_tables,
    published_tables,
    remove_marker,
)
from .registry import Kind, find, forget
from .session import ControlSession
from .slots import SlotState, advance_slot, create_slot, drop_slot, drop_sync_slots, slot_state
from .stream_health import StreamHealth, stream_health
from .stream_names import Direction, StreamNames, stream_names
from .subscriptions import (
    Subscription,
    create_subscription,
    disable,
    drop_subscription,
    enable,
    find_subscription,
    refresh,
    subscriptions,
    worker_pids,
)

__all__ = [
    "Direction",
    "SlotState",
    "StreamHealth",
    "StreamNames",
    "Subscription",
    "TableName",
    "add_marker",
    "advance_slot",
    "create_slot",
    "create_subscription",
    "disable",
    "drop_publication",
    "drop_slot",
    "drop_stream",
    "drop_subscription",
    "drop_sync_slots",
    "enable",
    "ensure_publication",
    "ensure_reverse_stream",
    "find_subscription",
    "publishable_tables",
    "published_tables",
    "refresh",
    "remove_marker",
    "slot_state",
    "stream_health",
    "stream_names",
    "subscriptions",
    "worker_pids",
]


async def ensure_reverse_stream(
    subscriber: ControlSession,
    publisher: ControlSession,
    publisher_endpoint: Endpoint,
    names: StreamNames,
    *,
    wait_s: float,
    notify: Callable[[str], None] | None = None,
) -> None:
    """Make a stream that starts now, without a copy and disabled; parts that are there already are kept.

    `subscriber` is the database that will be left, `publisher` the one that will serve.
    Raises StreamError (SlotBlocked where the slot has to wait longer than `wait_s`).
    """
    added = await ensure_publication(publisher, names.publication)
    existing = await slot_state(publisher, names.slot)
    if existing is not None and existing.status == "lost":
        await drop_slot(publisher, names.slot)
        existing = None
    if existing is None:
        await create_slot(publisher_endpoint, names.slot, wait_s=wait_s, notify=notify)
    if await find_subscription(subscriber, names.subscription) is None:
        await create_subscription(subscriber, publisher_endpoint, names, enabled=False, copy_data=False)
    elif added:
        # REFRESH PUBLICATION is refused while a subscription is disabled, so it is made anew.
        await drop_subscription(subscriber, names.subscription)
        await create_subscription(subscriber, publisher_endpoint, names, enabled=False, copy_data=False)


async def drop_stream(subscriber: ControlSession, publisher: ControlSession, names: StreamNames) -> None:
    """Remove a stream: subscription, slots, publication. Gone already is no error; it can be repeated.

    An adopted stream ends here too, since what it came from no longer serves: left in place its slot would
    keep WAL for ever, and enabled by mistake it would apply old changes. Only its publication stays, without
    the marker.
    """
    adopted = await find(subscriber, Kind.ADOPTED_SUBSCRIPTION, names.subscription)
    pattern = await drop_subscription(subscriber, names.subscription)
    if pattern is not None:
        await drop_sync_slots(publisher, pattern)
    await forget(subscriber, Kind.SUBSCRIPTION, names.subscription)
    await drop_slot(publisher, names.slot)
    if adopted is None:
        await drop_publication(publisher, names.publication)
        return
    await remove_marker(publisher, names.publication)
    await forget(publisher, Kind.MARKER_PUBLICATION, names.publication)
    await forget(subscriber, Kind.ADOPTED_SUBSCRIPTION, names.subscription)
