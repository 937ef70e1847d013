"""A transaction that does not end: by policy the run gives way to it, or it gives way to the run."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair
from tests.support.runs import Stop, figures, refused, told
from tests.support.writers import SCHEMA, Writers, serving_side

MAX_PAUSE_MS = 2000
TRANSACTION_TIMEOUT_MS = 600
SHORT_S = 0.3
"""What the others may wait at most while one old transaction is waited for."""


Connection = psycopg.AsyncConnection[Any]


async def begin(daemon: Daemon) -> Connection:
    """A client with an open transaction that wrote a row."""
    connection = await psycopg.AsyncConnection.connect(
        host="127.0.0.1",
        port=daemon.port,
        user="postgres",
        dbname="app",
        application_name="old report",
        connect_timeout=15,
    )
    await connection.execute("INSERT INTO public.entry (client, n) VALUES (0, 1)")
    return connection


async def value(connection: Connection, sql: LiteralString) -> Any:
    row = await (await connection.execute(sql)).fetchone()
    return row[0] if row else None


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
            straggler = await begin(daemon)
            writers.longest_wait_s = 0.0
            stop.open()
            error = await run
            assert writers.longest_wait_s < SHORT_S
            await writers.flowing()
            assert "aborted at step hold: 1 transactions did not end within 600 ms" in str(error), told(error)
            assert error.detail is not None
            named = re.search(
                r"postgres \(old report\) from 127.0.0.1:\d+, backend (\d+): (.*?) for (\d+) ms", error.detail
            )
            assert named is not None, error.detail
            assert int(named[1]) == straggler.info.backend_pid
            assert named[2] == "in transaction"
            assert TRANSACTION_TIMEOUT_MS <= int(named[3]) < 10_000
            assert f"flows on the source, {pair.source.host}:{pair.source.port}" in error.detail
            assert "cutover_transaction_action" in (error.hint or "")
            assert await value(straggler, "SELECT 1") == 1
            backend_pid = straggler.info.backend_pid
            await straggler.commit()
            writers.acknowledged.add((0, 1))
            assert straggler.info.backend_pid == backend_pid
            await daemon.command("CUTOVER")
            assert await value(straggler, "SELECT count(*) FROM public.entry WHERE client = 0") == 1
            await straggler.close()
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
        straggler = await begin(daemon)
        await asyncio.sleep(TRANSACTION_TIMEOUT_MS / 1000 + 0.1)
        error = await refused(daemon, "CUTOVER")
        assert "aborted at step check" in str(error)
        assert "old report" in told(error)
        assert f"{straggler.info.backend_pid}" in told(error)
        await straggler.commit()
        await daemon.command("CUTOVER")
        assert await rows_of_straggler(pair, on_source=False) == 1
        await straggler.close()


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
            straggler = await begin(daemon)
            working = None
            if doing == "in a long statement":
                working = asyncio.create_task(straggler.execute("SELECT pg_sleep(60)"))
            writers.longest_wait_s = 0.0
            stop.open()
            rows = await run
            await writers.flowing()
            assert writers.longest_wait_s < MAX_PAUSE_MS / 1000
            with pytest.raises(psycopg.errors.AdminShutdown) as caught:
                await (working or straggler.execute("SELECT 1"))
            assert caught.value.sqlstate == "57P01"
            assert "did not end in time for a cutover" in (caught.value.diag.message_detail or "")
            assert figures(rows)["sessions closed"] == "1"
            assert await rows_of_straggler(pair, on_source=True) == 0
            assert await rows_of_straggler(pair, on_source=False) == 0
            [run_row] = await daemon.command("SHOW CUTOVER_HISTORY")
            assert (run_row["outcome"], run_row["sessions_closed"]) == ("committed", 1)
            await writers.verify(pair, on_source=False)
        assert writers.errors == []
        assert writers.lost_connections == 0
