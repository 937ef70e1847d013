"""Whatever hangs inside the pause: traffic is back on the side that serves within cutover_max_pause, the error says
which step and which limit, and the next run goes through at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair
from tests.support.runs import Stop, refused, told
from tests.support.writers import SCHEMA, Writers, serving_side

MAX_PAUSE_MS = 1500
STEPS_IN_THE_PAUSE = ["hold", "fence", "carry over", "arrival", "commit"]


@contextlib.asynccontextmanager
async def under_load(
    pair: Pair, directory: Path, failpoint: str = "", **general: Any
) -> AsyncIterator[tuple[Daemon, Writers]]:
    """A daemon with writers that must see no error at all and lose no connection."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    options = DaemonOptions(
        general={"cutover_max_pause": MAX_PAUSE_MS, "cutover_transaction_timeout": 1000, **general},
        failpoint=failpoint,
    )
    async with Daemon(pair, directory / "daemon", options) as daemon:
        async with Writers(daemon, count=4) as writers:
            yield daemon, writers
        assert writers.errors == []
        assert writers.lost_connections == 0


async def stays_within_the_limit(daemon: Daemon, writers: Writers, verb: str, step: str) -> None:
    """A run that hangs at `step` ends with an error, and nobody was held longer than allowed."""
    await writers.flowing()
    writers.longest_wait_s = 0.0
    error = await refused(daemon, verb)
    await writers.flowing()
    assert writers.longest_wait_s * 1000 < MAX_PAUSE_MS
    assert f"{verb.lower()} aborted at step {step}" in str(error), told(error)
    assert f"{MAX_PAUSE_MS} ms" in told(error)
    assert "cutover_max_pause" in told(error)


@pytest.mark.parametrize("step", STEPS_IN_THE_PAUSE)
async def test_a_step_that_hangs(pair: Pair, tmp_path: Path, step: str) -> None:
    stop = Stop(tmp_path, step)
    async with under_load(pair, tmp_path, stop.failpoint) as (daemon, writers):
        for verb, on_source in (("CUTOVER", True), ("REVERT", False)):
            stop.shut()
            await stays_within_the_limit(daemon, writers, verb, step)
            assert await serving_side(pair) == ("source" if on_source else "destination")
            serving = pair.source if on_source else pair.destination
            history = await daemon.command("SHOW CUTOVER_HISTORY")
            assert history[-1]["outcome"] == "aborted"
            assert step in history[-1]["error"]
            [state] = await daemon.command("SHOW CUTOVER")
            assert state["gate"] == "open"
            assert state["serving"] == f"{serving.host}:{serving.port}/{pair.database}"
            stop.open()
            await daemon.command(verb)
            await writers.verify(pair, on_source=not on_source)


async def fails_then_goes_through(
    pair: Pair, daemon: Daemon, writers: Writers, stop: Stop, obstacle: str, *, on_source: bool, step: str
) -> asyncpg.PostgresError:
    """CUTOVER with an uncommitted statement in the way from `stop` on; then again without it. Returns the error."""
    server = pair.source_server if on_source else pair.destination_server
    stop.shut()
    run = asyncio.create_task(refused(daemon, "CUTOVER"))
    await stop.reached(daemon)
    # A session that asks for it may write under the fence, and one that comes after it is not terminated.
    writable = {"default_transaction_read_only": "off"}
    blocker = await asyncpg.connect(server.dsn(pair.database), ssl=False, timeout=10, server_settings=writable)
    writers.longest_wait_s = 0.0
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute(obstacle)
    stop.open()
    error = await run
    await writers.flowing()
    assert writers.longest_wait_s * 1000 < MAX_PAUSE_MS
    assert f"aborted at step {step}" in str(error), told(error)
    assert f"flows on the source, {pair.source.host}:{pair.source.port}" in told(error)
    await transaction.rollback()
    await blocker.close(timeout=5)
    await daemon.command("CUTOVER")
    await writers.verify(pair, on_source=False)
    return error


async def test_replication_that_stands_still(pair: Pair, tmp_path: Path) -> None:
    stop = Stop(tmp_path, "hold")
    async with under_load(pair, tmp_path, stop.failpoint) as (daemon, writers):
        lock = "LOCK TABLE public.entry IN ACCESS EXCLUSIVE MODE"
        error = await fails_then_goes_through(pair, daemon, writers, stop, lock, on_source=False, step="arrival")
        assert f"{MAX_PAUSE_MS} ms" in told(error)


async def test_a_sequence_that_cannot_be_read(pair: Pair, tmp_path: Path) -> None:
    stop = Stop(tmp_path, "carry over")
    await pair.both_sql("CREATE SEQUENCE public.spare")
    async with under_load(pair, tmp_path, stop.failpoint) as (daemon, writers):
        lock = "ALTER SEQUENCE public.spare RENAME TO other"
        error = await fails_then_goes_through(pair, daemon, writers, stop, lock, on_source=True, step="carry over")
        assert f"{MAX_PAUSE_MS} ms" in told(error)


@pytest.mark.parametrize("fence", ["read_only", "triggers"])
async def test_a_fence_that_cannot_be_raised(pair: Pair, tmp_path: Path, fence: str) -> None:
    stop = Stop(tmp_path, "hold")
    async with under_load(pair, tmp_path, stop.failpoint, cutover_fence=fence) as (daemon, writers):
        lock = "SELECT FROM pgcutover.identity FOR UPDATE"
        await fails_then_goes_through(pair, daemon, writers, stop, lock, on_source=True, step="fence")


async def test_a_transaction_timeout_beyond_the_pause(pair: Pair, tmp_path: Path) -> None:
    """The limit that bites is the one that is named, and so is who was waited for."""
    stop = Stop(tmp_path, "hold")
    slow = {"cutover_transaction_timeout": 10_000}
    async with under_load(pair, tmp_path, stop.failpoint, **slow) as (daemon, writers):
        stop.shut()
        run = asyncio.create_task(refused(daemon, "CUTOVER"))
        await stop.reached(daemon)
        straggler = await daemon.connect(server_settings={"application_name": "slow report"})
        pid = straggler.get_server_pid()
        transaction = straggler.transaction()
        await transaction.start()
        await straggler.execute("INSERT INTO public.entry (client, n) VALUES (0, 0)")
        writers.acknowledged.add((0, 0))
        stop.open()
        error = await run
        assert f"{MAX_PAUSE_MS} ms" in told(error)
        assert "10000 ms" not in told(error)
        assert "slow report" in (error.detail or "")
        assert f"backend {pid}" in (error.detail or "")
        await transaction.commit()
        await straggler.close(timeout=5)
        await writers.flowing()
