"""Slots and subscriptions on real servers: deadlines, cancellations, peers that are gone."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from replication import control_schema, registry
from replication.control_schema import ServingState
from replication.errors import SlotBlocked, StreamError
from replication.registry import Kind
from replication.session import ControlSession
from replication.stream_health import stream_health
from replication.stream_names import Direction, stream_names
from replication.streams import (
    advance_slot,
    create_slot,
    create_subscription,
    disable,
    drop_slot,
    drop_stream,
    drop_subscription,
    drop_sync_slots,
    enable,
    ensure_publication,
    ensure_reverse_stream,
    find_subscription,
    slot_state,
    worker_pids,
)
from tests.support.cable import Cable
from tests.support.databases import Pair
from tests.support.moves import held_lock, traces, wait_for_lock_on_insert
from tests.support.wait import eventually


async def prepared(
    pair: Pair, ddl: str = "CREATE TABLE t (id int PRIMARY KEY)"
) -> tuple[ControlSession, ControlSession]:
    await pair.both_sql(ddl)
    source, destination = await pair.source_session(), await pair.destination_session()
    await control_schema.install(source, ServingState.SERVING)
    await control_schema.install(destination, ServingState.REPLICA)
    return source, destination


async def slots(pair: Pair) -> list[str]:
    return (await traces(pair)).get("source slots", [])


async def test_a_slot_that_has_to_wait_names_who_it_waits_for(pair: Pair) -> None:
    source, _ = await prepared(pair)
    slot = stream_names(pair.database, Direction.FORWARD).slot
    old = await pair.source_session()
    await old.execute("BEGIN; INSERT INTO public.t VALUES (1)")
    told: list[str] = []
    started = asyncio.get_running_loop().time()
    with pytest.raises(SlotBlocked, match=f"backend {old.pid} .*idle in transaction") as caught:
        await create_slot(pair.source, slot, wait_s=1.5, notify=told.append)
    assert asyncio.get_running_loop().time() - started < 5
    assert caught.value.sqlstate == "55P03"
    assert len(told) == 1
    assert str(old.pid) in told[0]
    await old.execute("COMMIT")
    assert await slots(pair) == []
    assert await registry.recorded(source, Kind.SLOT) == []
    await create_slot(pair.source, slot, wait_s=10)
    assert await slots(pair) == [slot]


async def test_a_cancelled_wait_leaves_no_slot_behind(pair: Pair) -> None:
    await prepared(pair)
    slot = stream_names(pair.database, Direction.FORWARD).slot
    old = await pair.source_session()
    await old.execute("BEGIN; INSERT INTO public.t VALUES (1)")
    task = asyncio.create_task(create_slot(pair.source, slot, wait_s=30))

    async def in_the_making() -> bool:
        return slot in await slots(pair)

    await eventually(in_the_making, "the slot to be in the making")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await slots(pair) == []
    await old.execute("COMMIT")
    assert await slots(pair) == []


async def test_a_taken_slot_name_is_not_touched(pair: Pair) -> None:
    await prepared(pair)
    slot = stream_names(pair.database, Direction.FORWARD).slot
    await pair.source_sql("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    with pytest.raises(StreamError, match="exists already"):
        await create_slot(pair.source, slot)
    assert await slots(pair) == [slot]


async def test_a_publication_of_somebody_else_is_not_touched(pair: Pair) -> None:
    source, _ = await prepared(pair)
    await pair.source_sql("CREATE PUBLICATION pub FOR TABLE t")
    with pytest.raises(StreamError, match="was not made by pgcutover"):
        await ensure_publication(source, "pub")


async def test_the_publication_lists_what_can_be_published(pair: Pair) -> None:
    source, _ = await prepared(
        pair,
        """
        CREATE TABLE t (id int PRIMARY KEY); CREATE UNLOGGED TABLE u (id int);
        CREATE VIEW v AS SELECT 1 AS one;
        CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        CREATE TABLE q (id int) PARTITION BY RANGE (id);
        CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10);
        CREATE UNLOGGED TABLE q2 PARTITION OF q FOR VALUES FROM (10) TO (20)
        """,
    )
    await source.execute("CREATE TEMP TABLE temporary (id int)")
    added = await ensure_publication(source, "pub")
    assert sorted(str(t) for t in added) == [
        "pgcutover.marker",
        "public.p",
        "public.p1",
        "public.q1",
        "public.t",
    ]
    rows = await source.fetch("SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication")
    assert [tuple(row) for row in rows] == [(True, True, True, True, False)]
    rows = await source.fetch("SELECT tablename FROM pg_publication_tables ORDER BY 1")
    assert [row[0] for row in rows] == ["marker", "p1", "q1", "t"]
    assert await ensure_publication(source, "pub") == []


async def stream(pair: Pair, source: ControlSession, destination: ControlSession, *, copy: bool = True) -> None:
    names = stream_names(pair.database, Direction.FORWARD)
    await ensure_publication(source, names.publication)
    await create_slot(pair.source, names.slot, wait_s=20)
    await create_subscription(destination, pair.source, names, enabled=True, copy_data=copy)


async def test_disable_waits_for_the_workers_and_enable_brings_them_back(pair: Pair) -> None:
    source, destination = await prepared(pair)
    names = stream_names(pair.database, Direction.FORWARD)
    await stream(pair, source, destination)

    async def streaming() -> bool:
        return (await stream_health(destination, source, names)).state == "streaming"

    await eventually(streaming, "the stream to run")
    await disable(destination, names.subscription)
    assert await worker_pids(destination, names.subscription) == []
    state = await slot_state(source, names.slot)
    assert state is not None
    assert not state.active
    before = state.confirmed_lsn
    await pair.source_sql("INSERT INTO t SELECT generate_series(1, 10)")
    assert await advance_slot(source, names.slot) != before
    await enable(destination, names.subscription)
    await eventually(streaming, "the stream to run again")
    assert await pair.destination_sql("SELECT FROM t") == []  # advanced over them
    await pair.source_sql("INSERT INTO t VALUES (11)")

    async def arrived() -> bool:
        return len(await pair.destination_sql("SELECT FROM t")) == 1

    await eventually(arrived, "what was written after the advance")
    with pytest.raises(StreamError, match="could not be advanced"):
        await advance_slot(source, names.slot)
    await drop_stream(destination, source, names)
    assert await traces(pair) == {"source schemas": ["pgcutover"], "destination schemas": ["pgcutover"]}
    await drop_stream(destination, source, names)  # gone already
    assert await registry.recorded(source) == []
    assert await registry.recorded(destination) == []


async def test_drop_slot_ends_the_walsender(pair: Pair) -> None:
    source, destination = await prepared(pair)
    names = stream_names(pair.database, Direction.FORWARD)
    await stream(pair, source, destination, copy=False)

    async def active() -> bool:
        state = await slot_state(source, names.slot)
        return state is not None and state.active

    await eventually(active, "the slot to be in use")
    await destination.execute(f"ALTER SUBSCRIPTION {names.subscription} DISABLE")
    await drop_slot(source, names.slot)
    assert await slots(pair) == []


async def test_a_subscription_is_dropped_while_it_copies_and_its_publisher_is_silent(pair: Pair) -> None:
    source, destination = await prepared(pair)
    await pair.source_sql("INSERT INTO t VALUES (1)")
    await pair.destination_sql(wait_for_lock_on_insert("t", 5))
    names = stream_names(pair.database, Direction.FORWARD)
    with Cable(pair.source.host, pair.source.port) as cable:
        through = dataclasses.replace(pair.source, port=cable.port)
        async with held_lock(pair, 5):
            await ensure_publication(source, names.publication)
            await create_slot(pair.source, names.slot, wait_s=20)
            await create_subscription(destination, through, names, enabled=True, copy_data=True)

            async def copying() -> bool:
                return any("_sync_" in slot for slot in await slots(pair))

            await eventually(copying, "the copy's own slot")
            cable.stall()
            started = asyncio.get_running_loop().time()
            pattern = await drop_subscription(destination, names.subscription)
            assert asyncio.get_running_loop().time() - started < 8
            assert pattern is not None
            assert await find_subscription(destination, names.subscription) is None
            # A crash here forgets nothing: the pattern is on record until the slots are gone.
            assert await drop_subscription(destination, names.subscription) == pattern
            dropped = await drop_sync_slots(source, pattern)
            assert len(dropped) == 1
            await drop_slot(source, names.slot)
    assert await slots(pair) == []


async def test_a_subscriber_that_cannot_reach_the_publisher_says_so(pair: Pair) -> None:
    source, destination = await prepared(pair)
    names = stream_names(pair.database, Direction.FORWARD)
    await ensure_publication(source, names.publication)
    await create_slot(pair.source, names.slot, wait_s=20)
    wrong = dataclasses.replace(pair.source, replication_port=1)
    with pytest.raises(StreamError, match="cannot connect to") as caught:
        await create_subscription(destination, wrong, names, enabled=True, copy_data=True)
    assert "source_replication_host" in caught.value.hint
    assert "super-secret" not in str(caught.value)


async def test_the_password_is_not_logged(pair: Pair) -> None:
    source, destination = await prepared(pair)
    await pair.destination_sql(f"ALTER DATABASE {pair.database} SET log_statement = 'all'")
    destination = await pair.destination_session()
    secret = "zz-not-in-the-log"
    names = stream_names(pair.database, Direction.FORWARD)
    await ensure_publication(source, names.publication)
    await create_slot(pair.source, names.slot, wait_s=20)
    with_password = dataclasses.replace(pair.source, password=secret)
    await create_subscription(destination, with_password, names, enabled=False, copy_data=False)
    assert secret not in pair.destination_server.log_text()
    assert await destination.fetchval("SHOW log_statement") == "all"


async def test_the_reverse_stream_starts_disabled_and_carries_only_what_comes_after(pair: Pair) -> None:
    source, destination = await prepared(pair)
    names = stream_names(pair.database, Direction.REVERSE)
    await pair.destination_sql("INSERT INTO t VALUES (1)")
    await ensure_reverse_stream(source, destination, pair.destination, names, wait_s=20)
    await ensure_reverse_stream(source, destination, pair.destination, names, wait_s=20)
    assert (await stream_health(source, destination, names)).state == "disabled"
    await pair.both_sql("CREATE TABLE later (id int PRIMARY KEY)")
    await ensure_reverse_stream(source, destination, pair.destination, names, wait_s=20)
    await enable(source, names.subscription)
    await pair.destination_sql("INSERT INTO t VALUES (2); INSERT INTO later VALUES (3)")

    async def arrived() -> bool:
        return len(await pair.source_sql("SELECT FROM later")) == 1

    await eventually(arrived, "the row of the new table")
    assert [row[0] for row in await pair.source_sql("SELECT id FROM t")] == [2]
    await drop_stream(source, destination, names)


async def test_the_registry_keeps_what_it_is_told(pair: Pair) -> None:
    source, _ = await prepared(pair)
    await registry.record(source, "thing", "a", {"n": [1, "é"]})
    await registry.record(source, "thing", "a", {"n": 2})
    await registry.record(source, "other", "b")
    assert [(e.name, e.detail) for e in await registry.recorded(source, "thing")] == [("a", {"n": 2})]
    assert len(await registry.recorded(source)) == 2
    await registry.forget(source, "thing", "a")
    await registry.forget(source, "thing", "a")
    assert await registry.recorded(source, "thing") == []
    await control_schema.drop(source)
    assert await registry.recorded(source) == []
    await registry.forget(source, "thing", "a")
