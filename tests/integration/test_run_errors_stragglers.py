"""A transaction that does not end: by policy the run gives way to it, or it gives way to the run."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair
from tests.support.runs import Stop, figures, refused, told
from tests.support.writers import SCHEMA, Writers, serving_side

MAX_PAUSE_MS = 2000
TRANSACTION_TIMEOUT_MS = 600
SHORT_S = 0.3
"""What the others may wait at most while one old transaction is waited for."""


class Straggler:
    """A client with an open transaction that wrote a row."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.pid: int = connection.get_server_pid()
        self.transaction = connection.transaction()

    @classmethod
    async def begin(cls, daemon: Daemon) -> Straggler:
        straggler = cls(await daemon.connect(server_settings={"application_name": "old report"}))
        await straggler.transaction.start()
        await straggler.connection.execute("INSERT INTO public.entry (client, n) VALUES (0, 1)")
        return straggler


async def rows_of_straggler(pair: Pair, *, on_source: bool) -> int:
    sql = pair.source_sql if on_source else pair.destination_sql
    return len(await sql("SELECT FROM public.entry WHERE client = 0"))


def options(stop: Stop, **general: Any) -> DaemonOptions:
    return DaemonOptions(
        general={
            "cutover_max_pause": MAX_PAUSE_MS,
            "cutover_transaction_timeout": TRANSACTION_TIMEOUT_MS,
            **general,
        },
        failpoint=stop.failpoint,
    )


async def test_the_run_gives_way(pair: Pair, tmp_path: Path) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    stop = Stop(tmp_path, "hold")
    async with Daemon(pair, tmp_path / "daemon", options(stop)) as daemon:
        async with Writers(daemon, count=4) as writers:
            stop.shut()
            run = asyncio.create_task(refused(daemon, "CUTOVER"))
            await stop.reached(daemon)
            straggler = await Straggler.begin(daemon)
            writers.longest_wait_s = 0.0
            stop.open()
            error = await run
            assert writers.longest_wait_s < SHORT_S
            await writers.flowing()
            assert "aborted at step hold: 1 transactions did not end within 600 ms" in str(error), told(error)
            assert error.detail is not None
            named = re.search(r"postgres \(old report\) from 127.0.0.1:\d+, backend (\d+): (.*?) for (\d+) ms", error.detail)
            assert named is not None, error.detail
            assert int(named[1]) == straggler.pid
            assert named[2] == "in transaction"
            assert TRANSACTION_TIMEOUT_MS <= int(named[3]) < 10_000
            assert f"flows on the source, {pair.source.host}:{pair.source.port}" in error.detail
            assert "cutover_transaction_action" in (error.hint or "")
            assert await straggler.connection.fetchval("SELECT 1") == 1
            await straggler.transaction.commit()
            writers.acknowledged.add((0, 1))
            assert straggler.connection.get_server_pid() == straggler.pid
            await daemon.command("CUTOVER")
            assert await straggler.connection.fetchval("SELECT count(*) FROM public.entry WHERE client = 0") == 1
            await straggler.connection.close(timeout=5)
            await writers.verify(pair, on_source=False)
            assert await serving_side(pair) == "destination"
        assert writers.errors == []
        assert writers.lost_connections == 0


async def test_an_old_transaction_is_seen_before_anybody_is_held(pair: Pair, tmp_path: Path) -> None:
    """One that is older than the time-out already cannot be waited for: the check says so."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    stop = Stop(tmp_path, "check")
    async with Daemon(pair, tmp_path / "daemon", options(stop)) as daemon:
        straggler = await Straggler.begin(daemon)
        await asyncio.sleep(TRANSACTION_TIMEOUT_MS / 1000 + 0.1)
        error = await refused(daemon, "CUTOVER")
        assert "aborted at step check" in str(error)
        assert "old report" in told(error)
        assert f"{straggler.pid}" in told(error)
        await straggler.transaction.commit()
        await daemon.command("CUTOVER")
        assert await rows_of_straggler(pair, on_source=False) == 1
        await straggler.connection.close(timeout=5)


@pytest.mark.parametrize("doing", ["idle in transaction", "in a long statement"])
async def test_the_straggler_gives_way(pair: Pair, tmp_path: Path, doing: str) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    stop = Stop(tmp_path, "hold")
    async with Daemon(pair, tmp_path / "daemon", options(stop, cutover_transaction_action="terminate")) as daemon:
        async with Writers(daemon, count=4) as writers:
            stop.shut()
            run = asyncio.create_task(daemon.command("CUTOVER"))
            await stop.reached(daemon)
            straggler = await Straggler.begin(daemon)
            working = asyncio.create_task(
                straggler.connection.execute("SELECT pg_sleep(60)" if doing == "in a long statement" else "SELECT 1")
            )
            if doing == "idle in transaction":
                await working
            writers.longest_wait_s = 0.0
            stop.open()
            rows = await run
            await writers.flowing()
            assert writers.longest_wait_s < MAX_PAUSE_MS / 1000
            with pytest.raises((asyncpg.AdminShutdownError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)) as caught:
                await (working if not working.done() else straggler.connection.fetchval("SELECT 1"))
            if doing == "in a long statement":  # one that is idle when it is closed may be told by the driver alone
                assert isinstance(caught.value.__cause__, asyncpg.AdminShutdownError)
                assert "did not end in time for a cutover" in (caught.value.__cause__.detail or "")
            assert figures(rows)["sessions closed"] == "1"
            assert await rows_of_straggler(pair, on_source=True) == 0
            assert await rows_of_straggler(pair, on_source=False) == 0
            [run_row] = await daemon.command("SHOW CUTOVER_HISTORY")
            assert (run_row["outcome"], run_row["sessions_closed"]) == ("committed", 1)
            await writers.verify(pair, on_source=False)
        assert writers.errors == []
        assert writers.lost_connections == 0
