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
