"""Verbs at the wrong time: before anything is replicated, out of order, and while a run is under way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair
from tests.support.moves import traces
from tests.support.runs import Stop, refused, told
from tests.support.wait import eventually
from tests.support.writers import SCHEMA, Writers, serving_side


async def test_nothing_is_replicated(pair: Pair, tmp_path: Path) -> None:
    await pair.both_sql(SCHEMA)
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        async with Writers(daemon, count=2) as writers:
            for verb in ("CUTOVER", "REVERT"):
                error = await refused(daemon, verb)
                assert "nothing is replicated" in str(error), told(error)
                assert "REPLICATE" in (error.hint or "")
                assert f"flows on the source, {pair.source.host}:{pair.source.port}" in (error.detail or "")
            error = await refused(daemon, "COMPLETE")
            assert "no committed cutover" in str(error), told(error)
            await daemon.command("RESET")
            assert await daemon.command("SHOW CUTOVER_HISTORY") == []
            [state] = await daemon.command("SHOW CUTOVER")
            assert (state["phase"], state["gate"]) == ("idle", "open")
            await writers.verify(pair, on_source=True)
        assert writers.errors == []
        assert writers.lost_connections == 0
    assert await traces(pair) == {}


async def test_out_of_order(pair: Pair, tmp_path: Path) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        async with Writers(daemon, count=2) as writers:
            error = await refused(daemon, "REVERT")
            assert "nothing to revert" in str(error), told(error)
            assert "CUTOVER" in (error.hint or "")
            error = await refused(daemon, "COMPLETE")
            assert "no committed cutover" in str(error), told(error)
            assert "RESET" in (error.hint or "")
            await daemon.command("CUTOVER")
            error = await refused(daemon, "CUTOVER")
            assert "nothing to cutover" in str(error), told(error)
            assert "REVERT" in (error.hint or "")
            assert f"{pair.destination.host}:{pair.destination.port}" in (error.detail or "")
            error = await refused(daemon, "REPLICATE")
            assert "cutover" in told(error).lower(), told(error)
            error = await refused(daemon, "RESET")
            assert "a cutover was committed" in str(error), told(error)
            assert "REVERT" in (error.hint or "")
            await daemon.command("REVERT")
            error = await refused(daemon, "REVERT")
            assert "nothing to revert" in str(error), told(error)
            await daemon.command("CUTOVER")
            await daemon.command("COMPLETE")
            for verb in ("CUTOVER", "REVERT"):
                error = await refused(daemon, verb)
                assert "completed" in str(error), told(error)
            await writers.verify(pair, on_source=False)
        assert writers.errors == []
        assert writers.lost_connections == 0
        runs = [(run["kind"], run["outcome"]) for run in await daemon.command("SHOW CUTOVER_HISTORY")]
        assert runs == [("cutover", "committed"), ("revert", "committed"), ("cutover", "committed")]


async def test_an_unknown_pair(pair: Pair, tmp_path: Path) -> None:
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        for verb in ("CHECK", "REPLICATE", "CUTOVER", "REVERT", "COMPLETE", "RESET"):
            error = await refused(daemon, f"{verb} nosuch")
            assert error.sqlstate == "42704", told(error)
            assert "nosuch" in str(error)
            assert "app" in (error.hint or "")


@pytest.mark.parametrize("step", ["twins", "hold"])
async def test_while_a_run_is_under_way(pair: Pair, tmp_path: Path, step: str) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    stop = Stop(tmp_path, step)
    stop.shut()
    options = DaemonOptions(general={"cutover_max_pause": 20_000}, failpoint=stop.failpoint)
    async with Daemon(pair, tmp_path / "daemon", options) as daemon:
        async with Writers(daemon, count=2) as writers:
            run = asyncio.create_task(daemon.command("CUTOVER"))
            await stop.reached(daemon)
            for verb in ("CUTOVER", "REVERT", "REPLICATE", "RESET", "COMPLETE"):
                error = await refused(daemon, verb)
                assert error.sqlstate == "55006", told(error)
                assert f'cannot {verb.lower()}: "app" is busy with cutover at step {step}' in str(error)
            error = await refused(daemon, "RELOAD")
            assert "a move is under way" in told(error)
            [state] = await daemon.command("SHOW CUTOVER")
            assert (state["phase"], state["kind"], state["step"]) == ("running", "cutover", step)
            assert state["elapsed_ms"] > 0
            await daemon.command("SHOW REPLICATION")
            await daemon.command("SHOW CUTOVER_HISTORY")
            stop.open()
            rows = await run
            assert [row["step"] for row in rows if row["status"] == "failed"] == []
            await writers.verify(pair, on_source=False)
        assert writers.errors == []
        assert writers.lost_connections == 0


async def test_two_at_the_same_moment(pair: Pair, tmp_path: Path) -> None:
    """Of several CUTOVERs that arrive together one runs, and the others are told so, none is queued behind it."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        consoles = [await daemon.console() for _ in range(5)]
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(c.fetch("CUTOVER") for c in consoles), return_exceptions=True)
        for console in consoles:
            await console.close(timeout=5)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        assert len(errors) == 4
        assert all("is busy with" in str(error) for error in errors), errors
        assert await serving_side(pair) == "destination"


async def _idle_on(daemon: Daemon, phase: str) -> bool:
    [state] = await daemon.command("SHOW CUTOVER")
    return bool(state["phase"] == phase)


async def test_a_console_that_goes_away(pair: Pair, tmp_path: Path) -> None:
    """The run goes on without it, and the history has it."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    stop = Stop(tmp_path, "twins")
    stop.shut()
    async with Daemon(pair, tmp_path / "daemon", DaemonOptions(failpoint=stop.failpoint)) as daemon:
        async with Writers(daemon, count=2) as writers:
            console = await daemon.console()
            run = asyncio.create_task(console.fetch("CUTOVER"))
            await stop.reached(daemon)
            console.terminate()
            await asyncio.wait((run,), timeout=10)
            assert run.done()
            assert run.exception() is not None
            stop.open()
            await eventually(lambda: _idle_on(daemon, "moved"), "the run comes to its end", timeout_s=20)
            await daemon.command("REVERT")
            await writers.verify(pair, on_source=True)
        assert writers.errors == []
        assert writers.lost_connections == 0
