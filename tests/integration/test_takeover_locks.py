"""Session advisory locks are held on the destination before anybody is let go; cancelling works after a swap."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.databases import Pair
from tests.support.runs import Stop, figures, refused
from tests.support.takeover import DEADLINE_S, stage
from tests.support.wait import eventually

SMALLEST, LARGEST = -(2**63), 2**63 - 1
SMALL, LARGE = -(2**31), 2**31 - 1

LOCKS = (
    "pg_advisory_lock(42)",
    "pg_advisory_lock(-1)",
    f"pg_advisory_lock({SMALLEST})",
    f"pg_advisory_lock({LARGEST})",
    "pg_advisory_lock(4294967296)",
    "pg_advisory_lock(42, -7)",
    f"pg_advisory_lock({SMALL}, {LARGE})",
    "pg_advisory_lock_shared(43)",
    "pg_advisory_lock_shared(-43, 43)",
)
HELD = """
SELECT classid::bigint, objid::bigint, objsubid, mode FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1, 2, 3, 4
"""


async def test_every_kind_of_lock(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path) as on:
        holder, sharer, bystander = await on.asyncpg(), await on.asyncpg(), await on.asyncpg()
        for lock in LOCKS:
            await holder.execute(f"SELECT {lock}")
        await sharer.execute("SELECT pg_advisory_lock_shared(43)")
        await sharer.execute("SELECT pg_advisory_lock(44), pg_advisory_lock_shared(44)")  # both modes of one key
        before = [await client.fetch(HELD) for client in (holder, sharer, bystander)]
        assert [len(rows) for rows in before] == [len(LOCKS), 3, 0]
        for move in (on.cutover, on.revert):
            assert (await move())["sessions closed"] == "0"
            assert [await client.fetch(HELD) for client in (holder, sharer, bystander)] == before
            assert not await bystander.fetchval("SELECT pg_try_advisory_lock(-1)")
            assert not await bystander.fetchval("SELECT pg_try_advisory_lock(43)")
            assert await bystander.fetchval("SELECT pg_try_advisory_lock_shared(43)")
            assert await bystander.fetchval("SELECT pg_advisory_unlock_shared(43)")
        for lock in LOCKS:
            assert await holder.fetchval("SELECT " + lock.replace("_lock", "_unlock")), lock
        assert await holder.fetch(HELD) == []


async def test_a_waiter_gets_the_lock_only_after_the_unlock(pair: Pair, tmp_path: Path) -> None:
    """It asks while everybody is held, so its request is among the first to run on the destination."""
    stop = Stop(tmp_path, "commit")
    async with stage(pair, tmp_path, failpoint=stop.failpoint, cutover_max_pause=20000) as on:
        holder = await on.asyncpg()
        await holder.execute("SELECT pg_advisory_lock(42)")
        waiters = [await on.asyncpg() for _ in range(5)]
        order: list[str] = []

        async def take(client: Any) -> None:
            await client.execute("SELECT pg_advisory_lock(42)")
            order.append("waiter")
            await client.execute("SELECT pg_advisory_unlock(42)")

        for move in ("CUTOVER", "REVERT"):
            run = await on.until(stop, move)
            waiting = [asyncio.create_task(take(client)) for client in waiters]
            await eventually(lambda: on.waiting(5), "the waiters are held")
            stop.open()
            assert figures(await run)["sessions closed"] == "0"
            blocked = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
            )
            await eventually(lambda: holder.fetchval(f"SELECT ({blocked}) = 5"), "the waiters wait for the lock")
            assert order == []
            order.append("unlock")
            await holder.execute("SELECT pg_advisory_unlock(42)")
            await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE_S)
            assert order == ["unlock"] + ["waiter"] * 5
            order.clear()
            await holder.execute("SELECT pg_advisory_lock(42)")


async def test_locks_taken_between_the_twin_and_the_pause(pair: Pair, tmp_path: Path) -> None:
    stop = Stop(tmp_path, "hold")
    async with stage(pair, tmp_path, failpoint=stop.failpoint) as on:
        client = await on.asyncpg()
        await client.execute("SELECT pg_advisory_lock(1)")
        run = await on.until(stop, "CUTOVER")
        await client.execute("SELECT pg_advisory_unlock(1), pg_advisory_lock(2)")
        stop.open()
        await run
        assert [row["objid"] for row in await client.fetch(HELD)] == [2]


async def test_a_lock_that_is_taken_on_the_destination(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path) as on:
        holder, other = await on.psycopg(), await on.asyncpg()
        await holder.execute("SELECT pg_advisory_lock(5)")
        async with await pair.destination_session() as stranger:
            await stranger.fetchval("SELECT pg_advisory_lock(5)")
            assert (await on.cutover())["sessions closed"] == "1"
        with pytest.raises(psycopg.errors.AdminShutdown) as raised:
            await holder.execute("SELECT 1")
        assert "an advisory lock that is taken on the destination" in str(raised.value.diag.message_detail)
        assert await other.fetchval("SELECT 1") == 1


async def test_an_aborted_run_leaves_no_locks_behind(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path, failpoint="before:commit=error") as on:
        holder = await on.asyncpg()
        await holder.execute("SELECT pg_advisory_lock(77)")
        await refused(on.daemon, "CUTOVER")
        count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77"

        async def none_left() -> bool:
            return bool((await pair.destination_sql(count))[0][0] == 0)

        await eventually(none_left, "the twin's lock is gone")
        assert len(await holder.fetch(HELD)) == 1
        await on.cutover()
        assert len(await holder.fetch(HELD)) == 1


# -- cancel ----------------------------------------------------------------------------------------------------------


async def test_cancel_after_a_swap(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path) as on:
        by_timeout, by_hand = await on.asyncpg(), await on.psycopg()
        for move in (on.cutover, on.revert):
            await move()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await by_timeout.execute("SELECT pg_sleep(60)", timeout=0.2)
            assert await by_timeout.fetchval("SELECT 1") == 1
            sleeping = asyncio.create_task(by_hand.execute("SELECT pg_sleep(60)"))
            count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%' AND state = 'active'"
            await eventually(lambda: by_timeout.fetchval(f"SELECT ({count}) = 1"), "the statement runs")
            await by_hand.cancel_safe(timeout=DEADLINE_S)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await sleeping
            assert time.monotonic() - began < DEADLINE_S
            assert (await (await by_hand.execute("SELECT 1")).fetchone()) == (1,)


async def test_cancel_of_a_held_request(pair: Pair, tmp_path: Path) -> None:
    """It is dropped: answered with 57014 at once, and not run later. In simple and extended protocol."""
    stop = Stop(tmp_path, "commit")
    async with stage(pair, tmp_path, failpoint=stop.failpoint, cutover_max_pause=20000) as on:
        clients = [await on.psycopg() for _ in range(2)]
        other = await on.asyncpg()
        run = await on.until(stop, "CUTOVER")
        inserts: list[tuple[str, list[Any] | None]] = [
            ("INSERT INTO note VALUES (1, 'simple')", None),
            ("INSERT INTO note VALUES (%s, %s)", [2, "extended"]),
        ]
        held = [
            asyncio.create_task(client.execute(sql, arguments))
            for client, (sql, arguments) in zip(clients, inserts, strict=True)
        ]
        late = asyncio.create_task(other.execute("INSERT INTO note VALUES (3, 'timeout')", timeout=0.3))
        await eventually(lambda: on.waiting(3), "all are held")
        for client, request in zip(clients, held, strict=True):
            await client.cancel_safe(timeout=DEADLINE_S)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await asyncio.wait_for(request, DEADLINE_S)
        with pytest.raises(TimeoutError):
            await late
        stop.open()
        assert figures(await run)["sessions closed"] == "0"
        for client in clients:
            assert await (await client.execute("SELECT count(*) FROM note")).fetchone() == (0,)
        assert await other.fetchval("SELECT count(*) FROM note") == 0
