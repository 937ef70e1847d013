"""kill -9 of the daemon at every step of a run, forwards and back: after a restart the ledger is whole on the side
that the decision record names, and the next run goes through without any repair."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from tests.support.daemon import Daemon, replicate_directly
from tests.support.databases import Pair
from tests.support.writers import SCHEMA, Writers, serving_side

STEPS = [
    "lock",
    "record",
    "check",
    "return stream",
    "sequences ahead",
    "twins",
    "hold",
    "fence",
    "carry over",
    "arrival",
    "commit",
    "retire source",
    "forward stream off",
    "return stream on",
    "way back proven",
    "forward stream dropped",
]
MOMENTS = [f"before:{step}" for step in STEPS] + ["answer:commit", "after:commit", "after:forward stream dropped"]
AFTER_COMMIT = MOMENTS[MOMENTS.index("before:retire source") :]


async def run_until_killed(daemon: Daemon, verb: str) -> None:
    with pytest.raises((OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        await daemon.command(verb)
    assert await daemon.wait_dead() == -9, daemon.log()


async def direction(pair: Pair, daemon: Daemon, verb: str, moment: str, writers: Writers) -> None:
    """Kill a run at `moment`, start again, check, and bring the run to its end if the crash did not."""
    starts_on = await serving_side(pair)
    daemon.kill()
    await daemon.start(failpoint=f"{moment}=kill")
    await writers.flowing()
    await run_until_killed(daemon, verb)
    await daemon.start(failpoint="")
    await writers.flowing()
    serves = await serving_side(pair)
    assert (serves != starts_on) is (moment in AFTER_COMMIT), f"{serves} serves after a crash at {moment}"
    await writers.verify(pair, on_source=serves == "source")
    if serves == starts_on:
        await daemon.command(verb)
        await writers.flowing()
        serves = await serving_side(pair)
        assert serves != starts_on
    await writers.verify(pair, on_source=serves == "source")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_kill_at(pair: Pair, tmp_path: Path, moment: str) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        async with Writers(daemon, count=4) as writers:
            await direction(pair, daemon, "CUTOVER", moment, writers)
            await asyncio.sleep(0)
            await direction(pair, daemon, "REVERT", moment, writers)
        assert writers.errors == []
