"""REPLICATE with a subscription that is there already."""

from __future__ import annotations

import asyncio

import pytest

from replication import control_schema
from replication.control_schema import ServingState
from replication.errors import StreamError
from replication.publications import add_marker
from tests.support.databases import Pair
from tests.support.moves import arrived, replicated_by_hand, run_replicate, run_reset, traces
from tests.support.wait import eventually


@pytest.mark.parametrize("configured", [None, "byhand"])
async def test_it_is_adopted_and_reset_leaves_it_at_work(pair: Pair, configured: str | None) -> None:
    await replicated_by_hand(pair)
    found = await traces(pair)
    steps = await run_replicate(pair, adopt=configured)
    assert "adopted byhand" in next(s.detail for s in steps if s.step == "subscription")
    await run_replicate(pair, adopt=configured)
    started = asyncio.get_running_loop().time()
    await run_reset(pair)
    assert asyncio.get_running_loop().time() - started < 15
    assert await traces(pair) == found
    rows = await pair.source_sql("SELECT tablename FROM pg_publication_tables WHERE pubname = 'byhand'")
    assert [row[0] for row in rows] == ["t"]
    await pair.source_sql("INSERT INTO t VALUES (2)")
    await arrived(pair, 2)


async def test_for_all_tables_is_refused_before_anything_is_made(pair: Pair) -> None:
    """Its subscriber would be sent the rows of a control schema that it does not have, and stop for good."""
    await replicated_by_hand(pair, "FOR ALL TABLES")
    found = await traces(pair)
    with pytest.raises(StreamError, match=rf"is for all tables.*byhand_{pair.database}"):
        await run_replicate(pair)
    assert await traces(pair) == found
    await pair.source_sql("INSERT INTO t VALUES (2)")
    await arrived(pair, 2)


async def test_for_all_tables_made_later_is_not_adopted(pair: Pair) -> None:
    await replicated_by_hand(pair)
    await pair.source_sql("CREATE PUBLICATION everything FOR ALL TABLES")
    session = await pair.source_session()
    await control_schema.install(session, ServingState.SERVING)
    with pytest.raises(StreamError, match=r'"everything".*is for all tables'):
        await add_marker(session, ["byhand", "everything"])


async def test_for_all_tables_that_nobody_reads_is_no_obstacle(pair: Pair) -> None:
    await pair.source_sql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION everything FOR ALL TABLES")
    await run_replicate(pair)


async def test_several_need_a_name(pair: Pair) -> None:
    await replicated_by_hand(pair)
    await pair.both_sql("CREATE TABLE u (id int PRIMARY KEY)")
    await pair.source_sql("CREATE PUBLICATION other FOR TABLE u")
    slot = f"other_{pair.database}"
    await pair.source_sql("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    await pair.destination_sql(
        f"CREATE SUBSCRIPTION other CONNECTION $${pair.source.replication_conninfo()}$$ PUBLICATION other "
        f"WITH (create_slot = false, slot_name = '{slot}')"
    )

    async def fed() -> bool:
        rows = await pair.source_sql("SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active", slot)
        return bool(rows)

    await eventually(fed, "the second subscription to run")
    with pytest.raises(StreamError, match=r"several subscriptions.*byhand, other"):
        await run_replicate(pair)
    await run_replicate(pair, adopt="byhand")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ALTER SUBSCRIPTION byhand DISABLE", "is disabled"),
        ("ALTER SUBSCRIPTION byhand RENAME TO renamed", "does not exist"),
    ],
)
async def test_a_configured_one_that_cannot_be_used(pair: Pair, change: str, message: str) -> None:
    await replicated_by_hand(pair)
    await pair.destination_sql(change)
    with pytest.raises(StreamError, match=message):
        await run_replicate(pair, adopt="byhand")


async def test_reset_waits_for_a_disabled_one(pair: Pair) -> None:
    await replicated_by_hand(pair)
    await run_replicate(pair)
    await pair.destination_sql("ALTER SUBSCRIPTION byhand DISABLE")
    with pytest.raises(StreamError, match="disabled"):
        await run_reset(pair)
    await pair.destination_sql("ALTER SUBSCRIPTION byhand ENABLE")
    await run_reset(pair)
    await pair.source_sql("INSERT INTO t VALUES (2)")
    await arrived(pair, 2)
