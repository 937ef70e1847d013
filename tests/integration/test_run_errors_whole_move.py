"""A move from its beginning to its end through the console, from an empty destination, with clients that never stop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.daemon import Daemon, DaemonOptions
from tests.support.databases import Pair, run_sql
from tests.support.moves import both_schemas, traces
from tests.support.rich_schema import fill, row_hashes, sequence_values
from tests.support.runs import refused, told
from tests.support.wait import eventually
from tests.support.writers import SCHEMA, Writers, serving_side

pytestmark = pytest.mark.soak

HISTORY = ["id", "kind", "source", "destination", "outcome", "epoch", "started_at", "total_ms", "pause_ms"]
HISTORY += ["clients_held", "hold_p50_ms", "hold_p99_ms", "hold_max_ms", "transactions_waited", "sessions_closed"]
HISTORY += ["error"]


@contextlib.asynccontextmanager
async def rich_pair(pair: Pair, directory: Path, **general: Any) -> AsyncIterator[tuple[Daemon, Writers]]:
    await fill(pair)
    await pair.source_sql("TRUNCATE app.scratch")  # an unlogged table with rows blocks a move
    await pair.source_sql(SCHEMA)
    async with Daemon(pair, directory / "daemon", DaemonOptions(general=general)) as daemon:
        async with Writers(daemon, count=3) as writers:
            yield daemon, writers
        assert writers.errors == []
        assert writers.lost_connections == 0


async def states(pair: Pair) -> dict[str, str]:
    sql = "SELECT state FROM pgcutover.identity"
    return {"source": (await pair.source_sql(sql))[0][0], "destination": (await pair.destination_sql(sql))[0][0]}


async def both_sides_agree(pair: Pair) -> None:
    """Once the stream has caught up; writers may go on with tables of their own."""

    async def agree() -> bool:
        hashes = [await row_hashes(pair, side) for side in ("source", "destination")]
        return all(hashes[0][table] == hashes[1][table] for table in hashes[0] if not table.startswith("public."))

    await eventually(agree, "every row is on both sides", timeout_s=20, poll_s=0.2)


@pytest.mark.parametrize("fence", [pytest.param("read_only", marks=pytest.mark.soak), "triggers"])
async def test_a_whole_move(pair: Pair, tmp_path: Path, fence: str) -> None:
    async with rich_pair(pair, tmp_path, cutover_fence=fence) as (daemon, writers):
        copied = {row["step"]: row["status"] for row in await daemon.command("REPLICATE", 120)}
        assert set(copied.values()) == {"done"}
        [stream] = await daemon.command("SHOW REPLICATION")
        assert (stream["direction"], stream["state"]) == ("forward", "streaming")
        for verb, on_source in (("CUTOVER", False), ("REVERT", True), ("CUTOVER", False)):
            await daemon.command(verb)
            await writers.flowing()
            await writers.verify(pair, on_source=on_source)
            await both_sides_agree(pair)
        probe = await daemon.connect()
        number = await probe.fetchval("INSERT INTO app.orders (customer, note) VALUES (1, 'after') RETURNING id")
        assert number > 500
        await probe.close(timeout=5)
        done = await daemon.command("COMPLETE")
        assert {row["status"] for row in done} == {"done"}
        await writers.flowing()
        await writers.verify(pair, on_source=False)
        left = await traces(pair)
        assert set(left) == {"source schemas", "destination schemas"}, left
        assert await states(pair) == {"source": "moved", "destination": "serving"}
        assert (await pair.source_sql("SHOW default_transaction_read_only"))[0][0] == "on"
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await pair.source_sql("INSERT INTO public.entry (client, n) VALUES (0, 0)")
        assert (await pair.destination_sql("SHOW default_transaction_read_only"))[0][0] == "off"
        triggers = "SELECT FROM pg_trigger WHERE tgname = 'pgcutover_fence'"
        assert bool(await pair.source_sql(triggers)) is (fence == "triggers")
        assert await pair.destination_sql(triggers) == []
        for server in (pair.source_server, pair.destination_server):
            workers = "SELECT FROM pg_stat_subscription s JOIN pg_subscription p ON p.oid = s.subid "
            workers += "JOIN pg_database d ON d.oid = p.subdbid WHERE d.datname = $1 AND s.pid IS NOT NULL"
            assert await run_sql(server, "postgres", workers, pair.database) == []
        await restart_knows_the_past(daemon)
        await writers.flowing()
        writers.lost_connections = 0
        assert await serving_side(pair) == "destination"
        error = await refused(daemon, "CUTOVER")
        assert "completed" in told(error)


async def restart_knows_the_past(daemon: Daemon) -> None:
    before = await daemon.command("SHOW CUTOVER_HISTORY")
    await daemon.stop()
    await daemon.start()
    after = await daemon.command("SHOW CUTOVER_HISTORY")
    assert after == before
    assert list(after[0]) == HISTORY
    assert [(run["kind"], run["outcome"], run["epoch"]) for run in after] == [
        ("cutover", "committed", 2),
        ("revert", "committed", 3),
        ("cutover", "committed", 4),
    ]
    for run in after:
        assert run["error"] in (None, "")
        assert 0 < run["pause_ms"] < run["total_ms"]
        assert 0 < run["hold_p50_ms"] <= run["hold_p99_ms"] <= run["hold_max_ms"]
        assert run["clients_held"] > 0
        assert run["sessions_closed"] == 0
    [state] = await daemon.command("SHOW CUTOVER")
    assert (state["phase"], state["epoch"]) == ("completed", 4)


async def test_reset_before_a_cutover(pair: Pair, tmp_path: Path) -> None:
    """Also after a run that was given up; both databases are as they were, and a new beginning is possible."""
    async with rich_pair(pair, tmp_path) as (daemon, writers):
        before = await both_schemas(pair)
        sequences = await sequence_values(pair, "source")
        await daemon.command("REPLICATE", 120)
        daemon.kill()
        await daemon.start(failpoint="before:arrival=error")
        await writers.flowing()
        error = await refused(daemon, "CUTOVER")
        assert "aborted at step arrival" in str(error)
        assert {row["status"] for row in await daemon.command("RESET")} == {"done"}
        writers.lost_connections = 0
        await writers.flowing()
        assert await traces(pair) == {}
        assert await both_schemas(pair) == before
        after = await sequence_values(pair, "source")
        assert {name: after[name] for name in after if not name.startswith("public.")} == {
            name: sequences[name] for name in sequences if not name.startswith("public.")
        }
        assert (await pair.source_sql("SHOW default_transaction_read_only"))[0][0] == "off"
        assert await daemon.command("SHOW CUTOVER_HISTORY") == []
        await daemon.command("REPLICATE", 120)
        await daemon.command("CUTOVER")
        await writers.verify(pair, on_source=False)
