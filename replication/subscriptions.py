"""The subscriber's half of a stream."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import asyncpg

from .endpoint import Endpoint
from .errors import StreamError
from .registry import Kind, Recorded, find, forget, record
from .session import ControlSession, ControlUnavailable
from .sqltext import identifier, literal
from .stream_names import StreamNames

_POLL_S = 0.05
_STATEMENT_TIMEOUT_S = 60.0

# Makes a server connect to nowhere, at once: DROP SUBSCRIPTION asks the publisher to drop the slots of
# unfinished copies and would wait for one that does not answer. We drop these slots ourselves.
_NOWHERE = "host=/nonexistent dbname=nowhere user=nobody password=none"

_CREATE_LOGS_NOTHING = (
    "log_statement = 'none'",
    "log_min_duration_statement = -1",
    "log_min_error_statement = 'panic'",
)
"""The statement holds a password."""


@dataclass(frozen=True, slots=True)
class Subscription:
    oid: int
    name: str
    enabled: bool
    slot: str | None
    publications: tuple[str, ...]


async def find_subscription(session: ControlSession, name: str) -> Subscription | None:
    return next((s for s in await subscriptions(session) if s.name == name), None)


async def subscriptions(session: ControlSession) -> list[Subscription]:
    """The subscriptions of this database."""
    rows = await session.fetch(
        """
        SELECT s.oid::bigint AS oid, subname, subenabled, subslotname, subpublications
        FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
        WHERE d.datname = current_database() ORDER BY subname
        """
    )
    return [
        Subscription(row["oid"], row["subname"], row["subenabled"], row["subslotname"], tuple(row["subpublications"]))
        for row in rows
    ]


async def create_subscription(
    subscriber: ControlSession, publisher: Endpoint, names: StreamNames, *, enabled: bool, copy_data: bool
) -> None:
    """Subscribe to a publication through a slot that exists; recorded before it is made.

    The slot is made separately: CREATE SUBSCRIPTION that makes it cannot run in a transaction, and waits for
    itself where both databases belong to one cluster (PostgreSQL: CREATE SUBSCRIPTION, notes).
    Raises StreamError, also where the subscriber cannot reach the publisher.
    """
    options = [
        "create_slot = false",
        f"slot_name = {literal(names.slot)}",
        f"copy_data = {str(copy_data).lower()}",
        f"enabled = {str(enabled).lower()}",
        "synchronous_commit = 'off'",
    ]
    if subscriber.major >= 14:
        # As text, which the destination's types may read differently; and large transactions while they run.
        options += ["binary = false", "streaming = on"]
    if subscriber.major >= 16:
        # Only changes made on the publisher itself, not those it received: no echo of the other direction.
        options.append("origin = none")
    quiet = "".join(f"SET {setting}; " for setting in _CREATE_LOGS_NOTHING)
    restore = "".join(f"RESET {setting.split(' ')[0]}; " for setting in _CREATE_LOGS_NOTHING)
    if await subscriber.fetchval("SELECT current_setting('is_superuser') = 'off'"):
        quiet = restore = ""
    await record(
        subscriber,
        Kind.SUBSCRIPTION,
        names.subscription,
        {"slot": names.slot, "publication": names.publication},
    )
    if quiet:
        await subscriber.execute(quiet)
    try:
        await subscriber.execute(
            f"CREATE SUBSCRIPTION {identifier(names.subscription)} "
            f"CONNECTION {literal(publisher.replication_conninfo())} "
            f"PUBLICATION {identifier(names.publication)} WITH ({', '.join(options)})",
            timeout_s=_STATEMENT_TIMEOUT_S,
        )
    except ControlUnavailable as error:
        if isinstance(error.__cause__, asyncpg.ConnectionFailureError):
            raise StreamError(
                f'"{subscriber.endpoint.name}" cannot connect to "{publisher.name}"',
                detail=str(error.__cause__),
                hint="Give the address as that server sees it: source_replication_host, "
                "destination_replication_host (and ..._port) of the [[cutover]] entry.",
            ) from error
        raise
    except asyncpg.PostgresError as error:
        raise StreamError(
            f'subscription "{names.subscription}" could not be made on "{subscriber.endpoint.name}": {error}'
        ) from error
    finally:
        if restore and not subscriber.closed:
            await subscriber.execute(restore)


async def enable(subscriber: ControlSession, subscription: str) -> None:
    """Let the subscription run; its worker starts a moment later."""
    await _alter(subscriber, subscription, "ENABLE")


async def disable(subscriber: ControlSession, subscription: str, *, timeout_s: float = 15.0) -> None:
    """Stop the subscription and wait until none of its workers is left.

    Raises StreamError where one is still there after `timeout_s`: it may be applying a long transaction.
    """
    await _alter(subscriber, subscription, "DISABLE")
    if pids := await _workers_after(subscriber, subscription, timeout_s):
        raise StreamError(
            f'subscription "{subscription}" on "{subscriber.endpoint.name}" still has workers '
            f"{timeout_s:g} s after it was disabled: {', '.join(map(str, pids))}"
        )


async def refresh(subscriber: ControlSession, subscription: str, *, copy_data: bool) -> None:
    """Take over tables that the publication gained or lost."""
    await _alter(subscriber, subscription, f"REFRESH PUBLICATION WITH (copy_data = {str(copy_data).lower()})")


async def worker_pids(subscriber: ControlSession, subscription: str) -> list[int]:
    """Apply and table copy workers of a subscription."""
    rows = await subscriber.fetch(
        """
        SELECT w.pid FROM pg_stat_subscription w JOIN pg_subscription s ON s.oid = w.subid
        JOIN pg_database d ON d.oid = s.subdbid
        WHERE d.datname = current_database() AND s.subname = $1 AND w.pid IS NOT NULL
        """,
        subscription,
    )
    return [row["pid"] for row in rows]


async def sync_slot_pattern(subscriber: ControlSession, subscription: Subscription) -> str:
    """What the slots of its unfinished copies are called on the publisher, as a regular expression.

    PostgreSQL: ReplicationSlotNameForTablesync.
    """
    system = await subscriber.fetchval("SELECT system_identifier::text FROM pg_control_system()")
    return f"^pg_{subscription.oid}_sync_[0-9]+_{re.escape(system)}$"


async def drop_subscription(subscriber: ControlSession, subscription: str, *, timeout_s: float = 15.0) -> str | None:
    """Drop a subscription of ours without asking its publisher, who may be out of reach; gone is no error.

    Its slot stays: see `slots.drop_slot`. Where table copies were not finished they left slots too; then
    the record stays as well, with the pattern of their names as `sync_slots`, until whoever has dropped them
    (`slots.drop_sync_slots`) forgets it, and that pattern is returned. Workers are terminated, with the
    transaction that they may be applying. Raises StreamError.
    """
    found = await find_subscription(subscriber, subscription)
    entry = await find(subscriber, Kind.SUBSCRIPTION, subscription)
    if found is None:
        return _leftovers(entry)
    await _alter(subscriber, subscription, "DISABLE")
    for pid in await worker_pids(subscriber, subscription):
        # As DROP SUBSCRIPTION does itself (PostgreSQL: logicalrep_worker_stop): a copy would not stop alone.
        await subscriber.fetchval("SELECT pg_terminate_backend($1)", pid)
    if pids := await _workers_after(subscriber, subscription, timeout_s):
        raise StreamError(
            f'workers of subscription "{subscription}" on "{subscriber.endpoint.name}" do not stop: '
            f"{', '.join(map(str, pids))}"
        )
    copying = await subscriber.fetchval(
        "SELECT EXISTS (SELECT FROM pg_subscription_rel WHERE srsubid = $1::bigint::oid AND srsubstate <> 'r')",
        found.oid,
    )
    if copying:
        pattern = await sync_slot_pattern(subscriber, found)
        detail = {**(entry.detail if entry else {}), "sync_slots": pattern}
        await record(subscriber, Kind.SUBSCRIPTION, subscription, detail)
        entry = Recorded(Kind.SUBSCRIPTION, subscription, detail)
    await _alter(subscriber, subscription, "SET (slot_name = NONE)")
    await _alter(subscriber, subscription, f"CONNECTION {literal(_NOWHERE)}")
    await subscriber.execute(f"DROP SUBSCRIPTION {identifier(subscription)}", timeout_s=_STATEMENT_TIMEOUT_S)
    pattern_left = _leftovers(entry)
    if pattern_left is None:
        await forget(subscriber, Kind.SUBSCRIPTION, subscription)
    return pattern_left


def _leftovers(entry: Recorded | None) -> str | None:
    return str(entry.detail["sync_slots"]) if entry is not None and "sync_slots" in entry.detail else None


async def _alter(subscriber: ControlSession, subscription: str, change: str) -> None:
    try:
        await subscriber.execute(
            f"ALTER SUBSCRIPTION {identifier(subscription)} {change}", timeout_s=_STATEMENT_TIMEOUT_S
        )
    except ControlUnavailable as error:
        if isinstance(error.__cause__, asyncpg.ConnectionFailureError):
            raise StreamError(
                f'subscription "{subscription}" on "{subscriber.endpoint.name}" cannot reach its publisher',
                detail=str(error.__cause__),
            ) from error
        raise
    except asyncpg.PostgresError as error:
        raise StreamError(
            f'subscription "{subscription}" on "{subscriber.endpoint.name}" could not be changed: {error}'
        ) from error


async def _workers_after(subscriber: ControlSession, subscription: str, timeout_s: float) -> list[int]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        pids = await worker_pids(subscriber, subscription)
        if not pids or loop.time() >= deadline:
            return pids
        await asyncio.sleep(_POLL_S)
