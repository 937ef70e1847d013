"""The three kinds of fence, and strangers: sessions on the source that do not come through the proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from daemon.demo.embedded import EmbeddedPostgres
from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair
from tests.support.runs import Stop, refused, step_row
from tests.support.writers import SCHEMA, Writers


async def direct(server: EmbeddedPostgres, database: str, **settings: str) -> asyncpg.Connection:
    return await asyncpg.connect(server.dsn(database), ssl=False, timeout=10, server_settings=settings)


async def write_as_superuser(server: EmbeddedPostgres, database: str) -> None:
    """What no default stops: a session that asks for a transaction that writes. Nothing stays of it."""
    connection = await direct(server, database)
    try:
        for statement in (
            "INSERT INTO public.entry (client, n) VALUES (0, 0)",
            "UPDATE public.entry SET n = n WHERE client = -1",
            "DELETE FROM public.tally WHERE client = -1",
            "TRUNCATE public.tally",
        ):
            await connection.execute("BEGIN READ WRITE")
            await connection.execute(statement)
            await connection.execute("ROLLBACK")
    finally:
        await connection.close(timeout=5)


@pytest.mark.parametrize("fence", ["triggers", "none", pytest.param("read_only", marks=pytest.mark.soak)])
async def test_there_and_back(pair: Pair, tmp_path: Path, fence: str) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    options = DaemonOptions(general={"cutover_fence": fence})
    async with Daemon(pair, tmp_path / "daemon", options) as daemon:
        async with Writers(daemon, count=4) as writers:
            for _ in range(2):
                await daemon.command("CUTOVER")
                await writers.flowing()
                await writers.verify(pair, on_source=False)
                default = (await pair.source_sql("SHOW default_transaction_read_only"))[0][0]
                assert default == ("off" if fence == "none" else "on")
                if fence == "triggers":
                    with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
                        await write_as_superuser(pair.source_server, pair.database)
                    assert caught.value.sqlstate == "25006"
                    assert "connect through pgcutover" in (caught.value.hint or "")
                await daemon.command("REVERT")
                await writers.flowing()
                await writers.verify(pair, on_source=True)
                assert (await pair.source_sql("SHOW default_transaction_read_only"))[0][0] == "off"
                await write_as_superuser(pair.source_server, pair.database)
            runs = await daemon.command("SHOW CUTOVER_HISTORY")
            assert [run["outcome"] for run in runs] == ["committed"] * 4
            assert [run["sessions_closed"] for run in runs] == [0] * 4
        assert writers.errors == []
        assert writers.lost_connections == 0


async def test_triggers_of_an_aborted_run_stop_nobody(pair: Pair, tmp_path: Path) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    stop = Stop(tmp_path, "arrival")
    options = DaemonOptions(general={"cutover_fence": "triggers", "cutover_max_pause": 1000}, failpoint=stop.failpoint)
    async with Daemon(pair, tmp_path / "daemon", options) as daemon:
        async with Writers(daemon, count=4) as writers:
            stop.shut()
            await refused(daemon, "CUTOVER")
            await writers.flowing()
            await write_as_superuser(pair.source_server, pair.database)
            assert (await pair.source_sql("SHOW default_transaction_read_only"))[0][0] == "off"
            stop.open()
            await daemon.command("CUTOVER")
            await writers.verify(pair, on_source=False)
        assert writers.errors == []
        assert writers.lost_connections == 0


@pytest.mark.parametrize("fence", ["read_only", "triggers"])
async def test_strangers_go(pair: Pair, tmp_path: Path, fence: str) -> None:
    """They are terminated, named, and find a database that refuses their writes when they come back."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    stop = Stop(tmp_path, "hold")
    options = DaemonOptions(general={"cutover_fence": fence}, failpoint=stop.failpoint)
    async with Daemon(pair, tmp_path / "daemon", options) as daemon:
        async with Writers(daemon, count=2) as writers:
            stop.shut()
            run = asyncio.create_task(daemon.command("CUTOVER"))
            await stop.reached(daemon)
            idle = await direct(pair.source_server, pair.database, application_name="reporting tool")
            writing = await direct(pair.source_server, pair.database, application_name="cron job")
            await writing.execute("BEGIN")
            await writing.execute("INSERT INTO public.entry (client, n) VALUES (0, 7)")
            pids = idle.get_server_pid(), writing.get_server_pid()
            stop.open()
            rows = await run
            detail = step_row(rows, "fence")["detail"]
            assert "reporting tool" in detail
            assert "cron job" in detail
            assert all(f"backend {pid}" in detail for pid in pids), detail
            for connection in (idle, writing):
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                    await connection.execute("SELECT 1")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await pair.source_sql("INSERT INTO public.entry (client, n) VALUES (0, 8)")
            for sql in (pair.source_sql, pair.destination_sql):
                assert await sql("SELECT FROM public.entry WHERE client = 0") == []
            await writers.verify(pair, on_source=False)
        assert writers.errors == []
        assert writers.lost_connections == 0


async def test_a_stranger_that_comes_during_the_pause(pair: Pair, tmp_path: Path) -> None:
    """The read-only default is up before anybody is sent away, so one that comes back cannot write."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    stop = Stop(tmp_path, "carry over")
    async with Daemon(pair, tmp_path / "daemon", DaemonOptions(failpoint=stop.failpoint)) as daemon:
        async with Writers(daemon, count=2) as writers:
            stop.shut()
            run = asyncio.create_task(daemon.command("CUTOVER"))
            await stop.reached(daemon)
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await pair.source_sql("INSERT INTO public.entry (client, n) VALUES (0, 9)")
            stop.open()
            await run
            await writers.verify(pair, on_source=False)
        assert writers.errors == []
        assert writers.lost_connections == 0
