"""REPLICATE on real servers: everything arrives, under load, and can be looked at meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from replication.copy_wait import wait_until_copied
from replication.errors import CopyStalled, SchemaRefused, ToolsMissing
from replication.lag import beat, heartbeat, lag_bytes, measure_lag_ms
from replication.progress import CopyState, table_copies
from replication.setup import prove_stream, replicate
from replication.stream_health import stream_health
from replication.stream_names import Direction, stream_names
from replication.subscriptions import disable, enable
from tests.support.databases import Pair, drop_databases, run_sql
from tests.support.moves import (
    both_schemas,
    held_lock,
    run_replicate,
    run_reset,
    wait_for_lock_on_insert,
)
from tests.support.rich_schema import LONG, fill, row_hashes, sequence_values
from tests.support.wait import eventually

WRITES = f"""
INSERT INTO app.customer (mail, m) VALUES (gen_random_uuid() || '@w', 'sad');
UPDATE app.customer SET m = 'happy' WHERE id % 7 = 0;
INSERT INTO app.orders (customer) SELECT id FROM app.customer ORDER BY id LIMIT 3;
DELETE FROM app.orders WHERE id % 11 = 0;
INSERT INTO app.events SELECT nextval('app.free') + 10000, date '2025-06-01', '[]';
UPDATE app.events SET body = '[2]' WHERE id % 13 = 0;
UPDATE app.events SET day = date '2025-03-03' WHERE id % 97 = 0 AND day < date '2025-01-01';
UPDATE app.full_identity SET b = b || '.' WHERE a % 5 = 0;
UPDATE app.by_index SET b = b || ';' WHERE a % 5 = 0;
DELETE FROM app.by_index WHERE a % 17 = 0;
TRUNCATE public.{LONG};
INSERT INTO public.{LONG} SELECT g, 'after' FROM generate_series(1, 50) g;
"""


@contextlib.asynccontextmanager
async def writer(pair: Pair) -> AsyncIterator[list[int]]:
    """Transactions on the source, one after the other, until the end of the block."""
    done = [0]

    async def write() -> None:
        session = await pair.source_session()
        while True:
            await session.execute(WRITES)
            done[0] += 1

    task = asyncio.create_task(write())
    try:
        yield done
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_all_of_a_rich_schema_arrives_while_a_writer_runs(pair: Pair) -> None:
    await fill(pair)
    told: list[str] = []
    async with writer(pair) as done:
        await run_replicate(pair, notify=told.append)
        during = done[0]
        await eventually(lambda: done[0] > during + 3, "writes after REPLICATE")
    await run_replicate(pair)  # brings the sequences up to date; the marker at its end has everything before it
    assert during > 3
    assert await row_hashes(pair, "source") == await row_hashes(pair, "destination")
    assert await sequence_values(pair, "source") == await sequence_values(pair, "destination")
    source, destination = await both_schemas(pair)
    assert source == destination
    assert any("tables ready" in line for line in told)


async def test_a_quiet_source_gives_filled_views_statistics_and_sequences(pair: Pair) -> None:
    await fill(pair)
    await pair.source_sql("SELECT setval('app.never', 77, false)")
    steps = await run_replicate(pair)
    assert await row_hashes(pair, "source", views=True) == await row_hashes(pair, "destination", views=True)
    assert await sequence_values(pair, "source") == await sequence_values(pair, "destination")
    assert (await sequence_values(pair, "destination"))["app.never"] == (77, False)
    rows = await pair.destination_sql("SELECT reltuples FROM pg_class WHERE oid = 'app.orders'::regclass")
    assert rows[0]["reltuples"] == 500
    assert {s.step for s in steps} >= {"schema", "copy", "indexes and constraints", "sequences", "marker"}


async def test_the_copy_can_be_watched(pair: Pair) -> None:
    ddl = "CREATE TABLE t (id int PRIMARY KEY, x text)"
    await pair.both_sql(ddl)
    await pair.source_sql("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g; ANALYZE t")
    await pair.destination_sql(wait_for_lock_on_insert("t", 7))
    source, destination = await pair.source_session(), await pair.destination_session()
    names = stream_names(pair.database, Direction.FORWARD)
    async with held_lock(pair, 7):
        task = asyncio.create_task(run_replicate(pair))

        async def copying() -> bool:
            copies = await table_copies(source, destination, names.subscription)
            return [c.state for c in copies] == [CopyState.COPYING] and copies[0].bytes_per_sec is not None

        await eventually(copying, "the copy to begin")
        [copy] = await table_copies(source, destination, names.subscription)
        assert copy.rows_total == 5000
        assert copy.percent is not None
        assert copy.percent < 100
        assert copy.bytes_total is not None
        assert copy.bytes_total > 400_000
        health = await stream_health(destination, source, names)
        assert health.state == "copying"
        assert health.not_ready == ("public.t",)
        with pytest.raises(CopyStalled, match=r"nothing has moved for 0\.6 s"):
            await wait_until_copied(source, destination, names, lambda line: None, silence_s=0.6)
    await asyncio.wait_for(task, 20)
    [copy] = await table_copies(source, destination, names.subscription)
    assert (copy.state, copy.percent) == (CopyState.READY, 100.0)


async def test_lag_and_health_are_known_or_none(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY, x text)")
    await run_replicate(pair)
    source, destination = await pair.source_session(), await pair.destination_session()
    names = stream_names(pair.database, Direction.FORWARD)
    health = await stream_health(destination, source, names)
    assert (health.state, health.tables_ready, health.tables_total) == ("streaming", 2, 2)
    assert (health.apply_errors, health.sync_errors, health.conflicts) == (0, 0, 0)
    assert await measure_lag_ms(source, destination) is not None
    first = await beat(source)

    async def arrived() -> bool:
        return await heartbeat(destination, first.writer, source) is not None

    await eventually(arrived, "the heartbeat")
    await disable(destination, names.subscription)
    await pair.source_sql("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g")
    behind = await lag_bytes(source, names.slot)
    assert behind is not None
    assert behind > 500_000
    assert await measure_lag_ms(source, destination, timeout_s=0.2) is None
    assert (await stream_health(destination, source, names)).state == "disabled"
    assert await lag_bytes(source, "no_such_slot") is None
    await enable(destination, names.subscription)
    identity = await source.fetchval("SELECT uuid FROM pgcutover.identity")
    assert "arrived" in await prove_stream(source, destination, identity, names)
    source.abort()
    health = await stream_health(destination, source, names)
    assert health.state.startswith("unknown")
    assert (health.lag_bytes, health.slot_active, health.enabled) == (None, None, True)
    assert await lag_bytes(source, names.slot) is None


async def test_a_table_the_subscription_lacks_is_noticed_and_taken_in_by_the_next_run(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY)")
    await run_replicate(pair)
    await pair.source_sql("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)")
    with pytest.raises(SchemaRefused, match=r"table public.late is missing"):
        await run_replicate(pair)
    await pair.destination_sql("CREATE TABLE late (id int PRIMARY KEY)")
    await pair.source_sql(
        f"ALTER PUBLICATION {stream_names(pair.database, Direction.FORWARD).publication} ADD TABLE late"
    )
    source, destination = await pair.source_session(), await pair.destination_session()
    health = await stream_health(destination, source, stream_names(pair.database, Direction.FORWARD))
    assert health.state == "broken: published but not subscribed: public.late"
    await run_replicate(pair)
    assert len(await pair.destination_sql("SELECT FROM late")) == 1


async def test_a_new_partition_is_published_with_its_parent(pair: Pair) -> None:
    parent = "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)"
    await pair.source_sql(parent + "; CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    await run_replicate(pair)
    await pair.both_sql("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)")
    await pair.source_sql("INSERT INTO p VALUES (1), (11)")
    await run_replicate(pair)
    assert [r[0] for r in await pair.destination_sql("SELECT id FROM p ORDER BY 1")] == [1, 11]


async def test_what_the_servers_lack_is_said_all_at_once_before_anything_is_made(pair: Pair) -> None:
    role = f"trust_{pair.database}"
    await pair.source_sql(f"CREATE ROLE {role}; CREATE EXTENSION vector; CREATE TABLE t (id int PRIMARY KEY)")
    await pair.source_sql(f"GRANT SELECT ON t TO {role}")
    try:
        with pytest.raises(SchemaRefused, match=f"roles.*: {role}"):
            await run_replicate(pair)
        assert await pair.destination_sql("SELECT FROM pg_class WHERE relname = 't'") == []
    finally:
        await pair.source_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_no_tools_that_are_new_enough(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY)")
    with pytest.raises(ToolsMissing, match=r"PostgreSQL 18 or newer.*\(16\)"):
        await replicate_with(pair, pair.source_server.bin_dir)


async def test_a_copy_that_keeps_failing_ends_with_an_error_and_goes_on_when_it_is_mended(pair: Pair) -> None:
    await pair.both_sql("CREATE TABLE t (id int PRIMARY KEY, x text)")
    await pair.source_sql("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 10) g")
    await pair.destination_sql("ALTER TABLE t ADD CONSTRAINT never CHECK (x <> 'x')")
    with pytest.raises(CopyStalled, match="copying failed 3 times"):
        await asyncio.wait_for(run_replicate(pair), 30)
    await pair.destination_sql("ALTER TABLE t DROP CONSTRAINT never")
    await asyncio.wait_for(run_replicate(pair), 30)
    assert await row_hashes(pair, "source") == await row_hashes(pair, "destination")


async def test_two_databases_of_one_server(pair: Pair) -> None:
    """CREATE SUBSCRIPTION that makes its own slot would wait for itself here."""
    await fill(pair)
    other = f"{pair.database}_next"
    server = pair.source_server
    await run_sql(server, "postgres", f"CREATE DATABASE {other} TEMPLATE template0")
    same = dataclasses.replace(
        pair,
        destination=dataclasses.replace(pair.source, name="destination", database=other),
        _sessions=[],
    )
    try:
        await replicate_with(same, server.bin_dir)
        rows = await run_sql(server, other, "SELECT count(*) FROM app.orders")
        assert rows[0][0] == 500
        await run_reset(same)
        assert await run_sql(server, other, "SELECT FROM pg_namespace WHERE nspname IN ('app', 'pgcutover')") == []
    finally:
        await drop_databases([server], other)


async def test_an_older_destination_gets_no_schema_of_a_newer_one(pair: Pair) -> None:
    await pair.both_sql("CREATE SCHEMA app")
    await pair.destination_sql("CREATE TABLE app.t (id int PRIMARY KEY); INSERT INTO app.t VALUES (1)")
    back = Pair(
        pair.destination_server,
        pair.source_server,
        pair.database,
        dataclasses.replace(pair.destination, name="source"),
        dataclasses.replace(pair.source, name="destination"),
    )
    with pytest.raises(SchemaRefused, match=r"older version \(16\)"):
        await replicate_with(back, pair.destination_server.bin_dir)
    await pair.source_sql("CREATE TABLE app.t (id int PRIMARY KEY)")
    await replicate_with(back, pair.destination_server.bin_dir)
    assert len(await pair.source_sql("SELECT FROM app.t")) == 1


async def replicate_with(pair: Pair, bin_dir: Path) -> None:
    await replicate(
        pair.source,
        pair.destination,
        pair.database,
        pg_bin_dir=str(bin_dir),
        copy_jobs=1,
        adopt_subscription=None,
        notify=lambda line: None,
    )
