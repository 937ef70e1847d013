"""RESET removes exactly what the move made; COMPLETE ends a move that was committed."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid

import pytest

from replication import decision
from replication.adoption import adopted_names
from replication.control_schema import ServingState, read_identity
from replication.errors import MoveRefused, SchemaInTheWay, SideUnreachable
from replication.setup import complete, reset
from replication.stream_names import Direction, stream_names
from replication.streams import disable, enable, ensure_reverse_stream
from tests.support.databases import Pair
from tests.support.moves import (
    both_schemas,
    held_lock,
    replicated_by_hand,
    run_complete,
    run_replicate,
    run_reset,
    traces,
    wait_for_lock_on_insert,
)
from tests.support.rich_schema import fill, row_hashes
from tests.support.wait import eventually


async def test_both_databases_are_as_before(pair: Pair) -> None:
    await fill(pair)
    await pair.destination_sql("CREATE EXTENSION vector")
    before = await both_schemas(pair)
    rows = await row_hashes(pair, "source")
    await run_replicate(pair)
    await run_reset(pair)
    assert await traces(pair) == {}
    assert await both_schemas(pair) == before
    assert await row_hashes(pair, "source") == rows
    await run_reset(pair)  # nothing to do is no error
    await run_replicate(pair)
    assert await row_hashes(pair, "source") == await row_hashes(pair, "destination")


async def test_what_others_made_survives_or_is_named(pair: Pair) -> None:
    await fill(pair)
    await run_replicate(pair)
    await pair.destination_sql("CREATE TABLE mine (id int PRIMARY KEY); INSERT INTO mine VALUES (1)")
    for make, named, unmake in (
        ("CREATE VIEW mine_v AS SELECT id FROM app.orders", "view mine_v", "DROP VIEW mine_v"),
        ("CREATE TABLE app.mine (id int)", "table app.mine", "DROP TABLE app.mine"),
        ("CREATE TABLE mine_e (m app.mood)", "column m of table mine_e", "DROP TABLE mine_e"),
        (
            "CREATE TABLE mine_fk (c int REFERENCES app.customer)",
            "constraint mine_fk_c_fkey on table mine_fk",
            "DROP TABLE mine_fk",
        ),
        (
            "CREATE TABLE mine_p PARTITION OF app.events FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
            "mine_p is part of",
            "DROP TABLE mine_p",
        ),
        (
            "CREATE TABLE mine_c (c text DEFAULT app.shout('x'))",
            "column c of table mine_c",
            "DROP TABLE mine_c",
        ),
    ):
        await pair.destination_sql(make)
        with pytest.raises(SchemaInTheWay) as caught:
            await run_reset(pair)
        assert named in caught.value.detail.replace("public.", "")
        await pair.destination_sql(unmake)
    assert len(await pair.destination_sql("SELECT FROM app.orders")) == 500
    await pair.destination_sql("CREATE INDEX ON app.orders (customer)")
    await run_reset(pair)
    assert await traces(pair) == {}
    assert len(await pair.destination_sql("SELECT FROM mine")) == 1
    assert await pair.destination_sql("SELECT FROM pg_namespace WHERE nspname = 'app'") == []


async def test_in_the_middle_of_the_copy(pair: Pair) -> None:
    """Table copies leave slots of their own on the source."""
    await pair.both_sql("CREATE TABLE t (id int PRIMARY KEY)")
    await pair.source_sql("INSERT INTO t SELECT generate_series(1, 10)")
    await pair.destination_sql(wait_for_lock_on_insert("t", 8))
    async with held_lock(pair, 8):
        task = asyncio.create_task(run_replicate(pair))

        async def copying() -> bool:
            slots = (await traces(pair)).get("source slots", [])
            return any("_sync_" in slot for slot in slots)

        await eventually(copying, "the copy's own slot")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await run_reset(pair)
        assert await traces(pair) == {}
    assert await pair.destination_sql("SELECT FROM t") == []


def nowhere(pair: Pair) -> Pair:
    """The pair with a destination that does not answer."""
    return dataclasses.replace(pair, destination=dataclasses.replace(pair.destination, port=1), _sessions=[])


async def test_an_unreachable_destination_relieves_the_source_and_can_be_repeated(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY)")
    await run_replicate(pair)
    # The destination is gone altogether, so nothing of it comes back to the slot.
    with pytest.raises(SideUnreachable, match='"destination"') as caught:
        await run_reset(nowhere(pair))
    assert 'on "source" were removed' in caught.value.detail
    found = await traces(pair)
    assert "source slots" not in found
    assert "source publications" not in found
    assert "source schemas" in found
    await run_reset(pair)
    assert await traces(pair) == {}


async def test_an_unreachable_source_changes_nothing(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY)")
    await run_replicate(pair)
    found = await traces(pair)
    with pytest.raises(SideUnreachable, match='"source"'):
        await reset(dataclasses.replace(pair.source, port=1), pair.destination, notify=lambda line: None)
    assert await traces(pair) == found


async def cut_over(pair: Pair) -> uuid.UUID:
    """The run's statements, without a run: what the databases look like after a committed cutover."""
    source, destination = await pair.source_session(), await pair.destination_session()
    names = stream_names(pair.database, Direction.REVERSE)
    await ensure_reverse_stream(source, destination, pair.destination, names, wait_s=20)
    run_id = uuid.uuid4()
    here, there = await read_identity(source), await read_identity(destination)
    assert here is not None
    assert there is not None
    assert await decision.open_source(source, run_id)
    await decision.open_decision(destination, run_id, here.epoch + 1)
    await decision.raise_fence(source, run_id, read_only=True, timeout_s=5)
    fence = await decision.still(source, run_id, terminate=False, keep_pids=[], quiet_pids=[], marker=1, timeout_s=5)
    assert fence.clear
    assert await decision.await_marker(destination, here.uuid, "drain", 1, 10)
    assert await decision.commit(destination, run_id, [], 5) is decision.Outcome.COMMITTED
    assert await decision.retire_source(source, run_id, there.uuid, here.epoch + 1)
    forward = await adopted_names(destination) or stream_names(pair.database, Direction.FORWARD)
    await disable(destination, forward.subscription)
    await enable(source, names.subscription)
    return run_id


async def test_complete_after_a_cutover(pair: Pair) -> None:
    await fill(pair)
    await run_replicate(pair)
    with pytest.raises(MoveRefused, match="no committed cutover"):
        await run_complete(pair)
    await cut_over(pair)
    await pair.destination_sql("INSERT INTO app.customer (mail) VALUES ('back@x')")

    async def came_back() -> bool:
        return bool(await pair.source_sql("SELECT FROM app.customer WHERE mail = 'back@x'"))

    await eventually(came_back, "a row through the reverse stream")
    with pytest.raises(MoveRefused, match=r"has moved|serves"):
        await run_reset(pair)
    with pytest.raises(MoveRefused, match="does not serve"):
        await run_replicate(pair)
    await run_complete(pair)
    assert await traces(pair) == {"source schemas": ["pgcutover"], "destination schemas": ["pgcutover"]}
    old = await read_identity(await pair.source_session())
    new = await read_identity(await pair.destination_session())
    assert old is not None
    assert new is not None
    assert (old.state, old.completed, old.fenced) == (ServingState.MOVED, True, True)
    assert (new.state, new.completed, new.fenced) == (ServingState.SERVING, True, False)
    await complete(pair.destination, pair.source, notify=lambda line: None)  # either way round, again
    with pytest.raises(Exception, match="read-only"):
        await pair.source_sql("INSERT INTO app.customer (mail) VALUES ('late@x')")


async def test_complete_ends_an_adopted_stream_but_for_its_publication(pair: Pair) -> None:
    await replicated_by_hand(pair)
    await run_replicate(pair)
    await cut_over(pair)
    await run_complete(pair)
    assert await traces(pair) == {
        "source publications": ["byhand"],
        "source schemas": ["pgcutover"],
        "destination schemas": ["pgcutover"],
    }
    rows = await pair.source_sql("SELECT tablename FROM pg_publication_tables WHERE pubname = 'byhand'")
    assert [row[0] for row in rows] == ["t"]


async def test_complete_without_the_old_side_drops_the_slot_that_would_keep_wal(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY)")
    await run_replicate(pair)
    await cut_over(pair)
    with pytest.raises(SideUnreachable) as caught:
        await complete(dataclasses.replace(pair.source, port=1), pair.destination, notify=lambda line: None)
    assert 'on "destination" were removed' in caught.value.detail
    assert "destination slots" not in await traces(pair)
    await run_complete(pair)


async def test_reset_refuses_an_open_run(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY)")
    await run_replicate(pair)
    source = await pair.source_session()
    run_id = uuid.uuid4()
    assert await decision.open_source(source, run_id)
    with pytest.raises(MoveRefused, match=f"run {run_id} is open"):
        await run_reset(pair)
    await decision.release_source(source, run_id)
    await run_reset(pair)


async def test_reset_of_a_second_move_keeps_the_first_ones_end(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY)")
    await run_replicate(pair)
    await pair.source_sql("UPDATE pgcutover.identity SET completed = true, epoch = 5")
    await pair.source_sql("DELETE FROM pgcutover.object WHERE kind = 'move'")
    before = await pair.source_sql("SELECT move_origin, move_target, completed, epoch FROM pgcutover.identity")
    await pair.destination_sql("UPDATE pgcutover.identity SET move_origin = NULL, move_target = NULL")
    await run_replicate(pair)
    await run_reset(pair)
    after = await pair.source_sql("SELECT move_origin, move_target, completed, epoch FROM pgcutover.identity")
    assert [tuple(r) for r in after] == [tuple(r) for r in before]


async def test_one_database_is_no_pair(pair: Pair) -> None:
    same = dataclasses.replace(pair, destination=dataclasses.replace(pair.source, name="other"), _sessions=[])
    with pytest.raises(MoveRefused, match="one and the same database"):
        await run_replicate(same)
    assert await traces(pair) == {}
