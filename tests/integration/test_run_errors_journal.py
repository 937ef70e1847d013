"""The journal of a run cannot be written (disk full): before the commit point the run gives up before it touches
traffic, or goes back; after it, it stays committed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair
from tests.support.runs import go_through, refused, told
from tests.support.wait import eventually
from tests.support.writers import SCHEMA, Writers, serving_side

MAX_PAUSE_MS = 2000
UNTOUCHED_S = 0.3

# SQLSTATE and text as mdextend() has them (PostgreSQL: src/backend/storage/smgr/md.c).
NO_SPACE = """
CREATE FUNCTION public.no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file "base/5/16384": No space left on device'
        USING ERRCODE = '53100', HINT = 'Check free disk space.';
END $$;
CREATE TRIGGER no_space BEFORE {event} ON pgcutover.{table} FOR EACH ROW {when}
    EXECUTE FUNCTION public.no_space();
"""
SPACE_AGAIN = "DROP FUNCTION public.no_space() CASCADE"


async def fill_disk(pair: Pair, side: str, event: str, table: str, when: str = "") -> None:
    await on(pair, side, NO_SPACE.format(event=event, table=table, when=when))


async def on(pair: Pair, side: str, sql: str) -> None:
    """As a client that may write to a fenced side."""
    await (pair.source_sql if side == "source" else pair.destination_sql)(f"BEGIN READ WRITE; {sql}; COMMIT")


@contextlib.asynccontextmanager
async def under_load(pair: Pair, directory: Path) -> AsyncIterator[tuple[Daemon, Writers]]:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    options = DaemonOptions(general={"cutover_max_pause": MAX_PAUSE_MS, "cutover_transaction_timeout": 1000})
    async with Daemon(pair, directory / "daemon", options) as daemon:
        async with Writers(daemon, count=4) as writers:
            yield daemon, writers
        assert writers.errors == []
        assert writers.lost_connections == 0


@pytest.mark.parametrize(
    ("side", "table"),
    [("source", "run"), pytest.param("destination", "run", marks=pytest.mark.soak), ("destination", "decision")],
)
async def test_the_first_entry(pair: Pair, tmp_path: Path, side: str, table: str) -> None:
    async with under_load(pair, tmp_path) as (daemon, writers):
        await fill_disk(pair, side, "INSERT", table)
        writers.longest_wait_s = 0.0
        error = await refused(daemon, "CUTOVER")
        assert error.sqlstate == "53100"
        assert "aborted at step record" in str(error)
        assert "No space left on device" in str(error)
        assert {"source": '"app"', "destination": '"app_next"'}[side] in str(error), str(error)
        assert f"flows on the source, {pair.source.host}:{pair.source.port}" in told(error)
        assert writers.longest_wait_s < UNTOUCHED_S
        again = await refused(daemon, "CUTOVER")
        assert "No space left on device" in told(again), told(again)
        assert await serving_side(pair) == "source"
        await on(pair, side, SPACE_AGAIN)
        await daemon.command("CUTOVER")
        await writers.verify(pair, on_source=False)
        await every_run_is_finished(pair)
        await daemon.command("REVERT")
        await writers.verify(pair, on_source=True)


async def every_run_is_finished(pair: Pair) -> None:
    async def finished() -> bool:
        sql = "SELECT FROM pgcutover.run WHERE finished_at IS NULL"
        return not await pair.source_sql(sql) and not await pair.destination_sql(sql)

    await eventually(finished, "no run is left open in either journal", timeout_s=20, poll_s=0.2)


async def test_the_commit_itself(pair: Pair, tmp_path: Path) -> None:
    """A commit that the server refused has not happened, and nobody waits for an answer that is there."""
    async with under_load(pair, tmp_path) as (daemon, writers):
        await fill_disk(pair, "destination", "UPDATE", "decision")
        writers.longest_wait_s = 0.0
        error = await refused(daemon, "CUTOVER")
        await writers.flowing()
        assert writers.longest_wait_s < MAX_PAUSE_MS / 1000
        assert error.sqlstate == "53100"
        assert "aborted at step commit" in str(error), told(error)
        assert "No space left on device" in str(error), told(error)
        assert await serving_side(pair) == "source"
        await on(pair, "destination", SPACE_AGAIN)
        await go_through(daemon, "CUTOVER")
        await writers.verify(pair, on_source=False)
        await every_run_is_finished(pair)


@pytest.mark.soak
@pytest.mark.parametrize("side", ["source", pytest.param("destination", marks=pytest.mark.soak)])
async def test_the_last_entry(pair: Pair, tmp_path: Path, side: str) -> None:
    async with under_load(pair, tmp_path) as (daemon, writers):
        await fill_disk(pair, side, "UPDATE", "run", "WHEN (new.finished_at IS NOT NULL)")
        rows = await daemon.command("CUTOVER")
        assert [row["step"] for row in rows if row["status"] == "failed"] == []
        assert await serving_side(pair) == "destination"
        await writers.verify(pair, on_source=False)
        [run] = await daemon.command("SHOW CUTOVER_HISTORY")
        assert run["outcome"] == "committed"
        daemon.kill()  # nor does a restart change its mind
        await daemon.start()
        await writers.flowing()
        assert await serving_side(pair) == "destination"
        await on(pair, side, SPACE_AGAIN)
        await every_run_is_finished(pair)
        [run] = await daemon.command("SHOW CUTOVER_HISTORY")
        assert run["outcome"] == "committed"
        assert run["clients_held"] > 0
        await daemon.command("REVERT")
        await writers.verify(pair, on_source=True)
        writers.lost_connections = 0  # the kill
