"""After a cutover no file sends traffic back: neither a restart nor RELOAD nor SIGHUP believes one that is stale."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.cable import Cable
from tests.support.daemon import Address, Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair, create_database, drop_databases
from tests.support.runs import refused, told, with_notices
from tests.support.wait import eventually
from tests.support.writers import SCHEMA, Writers

COMMENT = "# the word of the people who look after this file\n"


@contextlib.asynccontextmanager
async def moving(pair: Pair, directory: Path, **general: Any) -> AsyncIterator[Daemon]:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    daemon = Daemon(pair, directory / "daemon", DaemonOptions(general=general))
    for path in (daemon.config_path, daemon.users_path):
        path.write_text(COMMENT + path.read_text())
    async with daemon:
        yield daemon


async def server_behind(daemon: Daemon) -> int:
    """The major version of the server that a new client of "app" gets."""
    client = await daemon.connect()
    try:
        return int(await client.fetchval("SHOW server_version_num")) // 10000
    finally:
        await client.close(timeout=5)


async def may_not_write(pair: Pair) -> None:
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await pair.source_sql("INSERT INTO public.entry (client, n) VALUES (0, 0)")


def log_of(daemon: Daemon, since: int) -> str:
    return daemon.log_path.read_text()[since:]


async def test_a_stale_file_is_not_believed(pair: Pair, tmp_path: Path) -> None:
    async with moving(pair, tmp_path) as daemon:
        before = daemon.config_path.read_text()
        new_address = f"{pair.destination.host}:{pair.destination.port}"
        async with Writers(daemon, count=4) as writers:
            await daemon.command("CUTOVER")
            assert daemon.config_path.read_text() == before
            [*stale, _] = [*await with_notices(daemon, "RELOAD"), ""]
            assert any("stale" in line and new_address in line for line in stale), stale
            assert await server_behind(daemon) == 18
            mark = daemon.log_path.stat().st_size
            daemon.send_signal(signal.SIGHUP)
            await eventually(
                lambda: "stale" in log_of(daemon, mark) and new_address in log_of(daemon, mark),
                "the log says why the file is not followed",
            )
            await writers.flowing()
            assert await server_behind(daemon) == 18
            assert writers.lost_connections == 0
            await may_not_write(pair)
            await daemon.stop()
            mark = daemon.log_path.stat().st_size
            await daemon.start()
            await writers.flowing()
            assert await server_behind(daemon) == 18
            assert "stale_configuration" in log_of(daemon, mark)
            assert "says that it serves at epoch 2" in log_of(daemon, mark)
            await writers.verify(pair, on_source=False)
            await daemon.command("REVERT")
            assert not [line for line in await with_notices(daemon, "RELOAD") if "stale" in line]
            assert await server_behind(daemon) == 16
            await writers.flowing()
            await writers.verify(pair, on_source=True)
        assert writers.errors == []


async def test_other_changes_of_a_stale_file_are_taken(pair: Pair, tmp_path: Path) -> None:
    """A RELOAD for another reason does its work, and turns nothing round by the way."""
    async with moving(pair, tmp_path) as daemon:
        await daemon.command("CUTOVER")
        daemon.config_path.write_text(
            daemon.config_path.read_text().replace("[general]", "[general]\nquery_wait_timeout = 4321")
        )
        notices = await with_notices(daemon, "RELOAD")
        assert any("query_wait_timeout" in line for line in notices), notices
        assert [row["query_wait_timeout"] for row in await daemon.command("SHOW query_wait_timeout")] == ["4321"]
        assert await server_behind(daemon) == 18


async def test_saved_files(pair: Pair, tmp_path: Path) -> None:
    async with moving(pair, tmp_path, cutover_save_config=True) as daemon:
        before = {path: path.read_text() for path in (daemon.config_path, daemon.users_path)}
        old = tomllib.loads(before[daemon.config_path])
        async with Writers(daemon, count=4) as writers:
            notices = await with_notices(daemon, "CUTOVER")
            assert any(line.startswith("configuration saved") for line in notices), notices
            for path, text in before.items():
                assert path.read_text().startswith(COMMENT)
                assert path.with_name(f"{path.stem}.bak.toml").read_text() == text
            new = tomllib.loads(daemon.config_path.read_text())
            ports = {entry["name"]: entry["port"] for entry in new["databases"]}
            assert ports == {"app": pair.destination.port, "app_next": pair.source.port}
            assert new["cutover"][0]["source_replication_port"] == old["cutover"][0]["destination_replication_port"]
            mark = daemon.log_path.stat().st_size
            assert not [line for line in await with_notices(daemon, "RELOAD") if "stale" in line]
            await writers.flowing()
            assert writers.lost_connections == 0
            await daemon.stop()
            await daemon.start()
            await writers.flowing()
            assert await server_behind(daemon) == 18
            assert "stale" not in log_of(daemon, mark)
            await daemon.command("REVERT")
            assert tomllib.loads(daemon.config_path.read_text())["databases"][0]["name"] == "app"
            assert {e["name"]: e["port"] for e in tomllib.loads(daemon.config_path.read_text())["databases"]} == {
                "app": pair.source.port,
                "app_next": pair.destination.port,
            }
            await writers.flowing()
            await writers.verify(pair, on_source=True)
        assert writers.errors == []


async def test_files_that_cannot_be_saved(pair: Pair, tmp_path: Path) -> None:
    """A folder stands where the backup goes, which stops root too. The run succeeds, and says so."""
    async with moving(pair, tmp_path, cutover_save_config=True) as daemon:
        (daemon.directory / "users.bak.toml" / "something").mkdir(parents=True)
        before = daemon.config_path.read_text(), daemon.users_path.read_text()
        notices = await with_notices(daemon, "CUTOVER")
        [warning] = [line for line in notices if line.startswith("warning")]
        assert "users.bak.toml" in warning
        assert "exchange the names" in warning
        assert (daemon.config_path.read_text(), daemon.users_path.read_text()) == before
        assert "configuration_not_saved" in daemon.log()
        assert [run["outcome"] for run in await daemon.command("SHOW CUTOVER_HISTORY")] == ["committed"]
        assert await server_behind(daemon) == 18
        daemon.kill()
        await daemon.start()
        assert await server_behind(daemon) == 18


async def test_a_destination_that_is_not_the_successor(pair: Pair, tmp_path: Path) -> None:
    """The configuration names the moved database with another destination: nothing starts, and both are named."""
    other = f"{pair.database}_other"
    await create_database(pair.destination_server, other)
    try:
        async with moving(pair, tmp_path) as daemon:
            await daemon.command("CUTOVER")
            text = daemon.config_path.read_text()
            wrong = tomllib.loads(text)
            [stale] = [entry for entry in wrong["databases"] if entry["name"] == "app_next"]
            daemon.config_path.write_text(
                text.replace(
                    f'port = {stale["port"]}\ndatabase_name = "{pair.database}"',
                    f'port = {stale["port"]}\ndatabase_name = "{other}"',
                )
            )
            assert other in daemon.config_path.read_text()
            error = await refused(daemon, "RELOAD")
            assert "app_next" in told(error)
            assert "has moved" in told(error)
            assert await server_behind(daemon) == 18
            await daemon.stop()
            mark = daemon.log_path.stat().st_size
            await daemon.start(expect_exit=True)
            assert daemon.process is not None
            assert daemon.process.returncode == 1
            reason = log_of(daemon, mark)
            assert "cannot_start" in reason
            for side in (pair.source, pair.destination):
                assert f"{side.host}:{side.port}/{side.database}" in reason, reason
            daemon.config_path.write_text(text)
            await daemon.start()
            assert await server_behind(daemon) == 18
    finally:
        await drop_databases((pair.destination_server,), other)


async def test_a_stale_file_while_the_new_side_is_away(pair: Pair, tmp_path: Path) -> None:
    """Who serves cannot be asked: the reload is refused as a whole, and a restart lets clients wait."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    with Cable(pair.destination.host, pair.destination.port) as cable:
        options = DaemonOptions(destination=Address(cable.host, cable.port), general={"query_wait_timeout": 500})
        async with Daemon(pair, tmp_path / "daemon", options) as daemon:
            await daemon.command("CUTOVER")
            cable.cut()
            error = await refused(daemon, "RELOAD")
            assert "cannot be reached" in told(error), told(error)
            daemon.kill()
            await daemon.start()
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await server_behind(daemon)
            await may_not_write(pair)
            cable.restore()
            await eventually(lambda: _serves(daemon), "clients are let in again", timeout_s=20)
            assert await server_behind(daemon) == 18


async def _serves(daemon: Daemon) -> bool:
    try:
        return await server_behind(daemon) > 0
    except (asyncpg.PostgresError, OSError):
        return False


async def test_a_reload_that_meets_a_run(pair: Pair, tmp_path: Path) -> None:
    """A RELOAD that is still asking who serves when a run begins must not apply what it found out before it."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    with Cable(pair.destination.host, pair.destination.port) as cable:
        options = DaemonOptions(destination=Address(cable.host, cable.port))
        async with Daemon(pair, tmp_path / "daemon", options) as daemon:
            async with Writers(daemon, count=4) as writers:
                daemon.config_path.write_text(
                    daemon.config_path.read_text().replace("[general]", "[general]\nquery_wait_timeout = 4321")
                )
                cable.delay(100)
                seen = cable.accepted
                reloading = asyncio.create_task(refused(daemon, "RELOAD"))
                await eventually(lambda: cable.accepted > seen, "RELOAD asks the destination")
                running = asyncio.create_task(daemon.command("CUTOVER"))
                error = await reloading
                assert "a move is under way" in told(error)
                cable.delay(0)
                await running
                await writers.flowing()
                assert await server_behind(daemon) == 18
                [row] = await daemon.command("SHOW query_wait_timeout")
                assert row["query_wait_timeout"] != "4321"
                await daemon.command("RELOAD")
                assert await server_behind(daemon) == 18
            assert writers.errors == []
            assert writers.lost_connections == 0
