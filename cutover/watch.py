"""What is known about the streams of a pair while nothing runs: heartbeats, SHOW REPLICATION, SHOW TABLE_COPIES."""

from __future__ import annotations

import asyncio

import structlog

from replication import lag, progress
from replication.control_schema import ForeignIdentity, Identity, read_identity
from replication.session import ControlSession, ControlUnavailable, StatementFailed
from replication.streams import find_subscription, stream_health

from .api import MoveError, ReplicationRow, TableCopyRow
from .pair import Pair
from .run_streams import RunStreams

log = structlog.get_logger("cutover")

BEAT_S = 1.0
RETRY_S = 5.0


async def watch_lag(pair: Pair) -> None:
    """Write a heartbeat on the serving side each second and see how long it takes to arrive on the other."""
    while True:
        try:
            async with pair.sessions() as (source, destination):
                identity = await read_identity(source)
                if identity is not None and await read_identity(destination) is not None:
                    await _beat_while_it_lasts(pair, identity, source, destination)
        except (ControlUnavailable, StatementFailed, ForeignIdentity):
            pass
        pair.lag_ms = pair.heartbeat_age_ms = None
        await asyncio.sleep(RETRY_S)


async def _beat_while_it_lasts(
    pair: Pair, identity: Identity, source: ControlSession, destination: ControlSession
) -> None:
    """Until the sides change places, a verb begins, or a connection is lost."""
    sides = (pair.source, pair.destination)
    while (pair.source, pair.destination) == sides and not pair.busy.locked():
        pair.lag_ms = await lag.measure_lag_ms(source, destination, timeout_s=BEAT_S * 3)
        if pair.lag_ms is not None:
            await lag.beat(source)
        pair.heartbeat_age_ms = await lag.heartbeat(destination, identity.uuid, source)
        if source.closed or destination.closed:
            return
        await asyncio.sleep(BEAT_S)


async def replication_rows(pair: Pair) -> list[ReplicationRow]:
    """Both directions, as far as they exist."""
    try:
        async with pair.sessions() as (source, destination):
            identity = await read_identity(source)
            if identity is None:
                return []
            flow = await RunStreams.load(pair.name, identity, pair.source, pair.destination, destination)
            rows = []
            for names, subscriber, publisher, current in (
                (flow.inbound, destination, source, True),
                (flow.outbound, source, destination, False),
            ):
                if await find_subscription(subscriber, names.subscription) is None:
                    continue
                health = await stream_health(subscriber, publisher, names)
                leaves_origin = (identity.uuid == identity.move_origin) is current
                rows.append(
                    ReplicationRow(
                        pair=pair.name,
                        direction="forward" if leaves_origin else "reverse",
                        publication=names.publication,
                        subscription=names.subscription,
                        slot=names.slot,
                        enabled=bool(health.enabled),
                        state=health.state,
                        tables_ready=health.tables_ready or 0,
                        tables_total=health.tables_total or 0,
                        lag_bytes=health.lag_bytes,
                        lag_ms=pair.lag_ms if current else None,
                        heartbeat_age_ms=pair.heartbeat_age_ms if current else None,
                    )
                )
            return rows
    except (ControlUnavailable, StatementFailed, ForeignIdentity) as error:
        raise MoveError(str(error), sqlstate="08006") from error


async def table_copy_rows(pair: Pair) -> list[TableCopyRow]:
    try:
        async with pair.sessions() as (source, destination):
            identity = await read_identity(source)
            if identity is None:
                return []
            flow = await RunStreams.load(pair.name, identity, pair.source, pair.destination, destination)
            copies = await progress.table_copies(source, destination, flow.inbound.subscription)
    except (ControlUnavailable, StatementFailed, ForeignIdentity) as error:
        raise MoveError(str(error), sqlstate="08006") from error
    return [
        TableCopyRow(
            copy.table.schema,
            copy.table.name,
            copy.state.value,
            copy.rows,
            copy.bytes,
            copy.bytes_total or 0,
            copy.percent,
            copy.bytes_per_sec,
            copy.eta_s,
        )
        for copy in copies
    ]
