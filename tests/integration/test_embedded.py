"""The servers that every other integration test stands on."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from daemon.demo.binaries import BinariesMissing, find_bin_dir
from daemon.demo.embedded import EmbeddedError, EmbeddedPostgres
from daemon.demo.processes import children, is_alive
from tests.support.databases import Pair, drop_databases, run_sql
from tests.support.wait import eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(18, tmp_path, settings={"fsync": "off"}, password="it's a%secret")
    made.create()
    made.start()
    yield made
    made.remove()


async def _ask(server: EmbeddedPostgres, sql: str) -> object:
    return (await run_sql(server, "postgres", sql))[0][0]


async def test_versions_are_what_was_asked_for(pg16: EmbeddedPostgres, pg18: EmbeddedPostgres) -> None:
    assert str(await _ask(pg16, "SHOW server_version_num")).startswith("16")
    assert str(await _ask(pg18, "SHOW server_version_num")).startswith("18")
    assert await _ask(pg16, "SHOW wal_level") == "logical"


def test_a_major_that_is_not_installed_is_named() -> None:
    with pytest.raises(BinariesMissing, match="PostgreSQL 99"):
        find_bin_dir(99)


async def test_password_is_asked_for(server: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=server.host,
            port=server.port,
            user="postgres",
            password="wrong",
            database="postgres",
            ssl=False,
        )
    assert await _ask(server, "SELECT 1") == 1


async def test_kill_leaves_nothing_alive_and_start_recovers(server: EmbeddedPostgres) -> None:
    await run_sql(server, "postgres", "CREATE TABLE kept (n int)")
    await run_sql(server, "postgres", "INSERT INTO kept VALUES (1)")
    connection = await asyncpg.connect(server.dsn(), ssl=False)
    pid = server.pid
    assert pid is not None
    everybody = {pid, *children(pid)}
    assert len(everybody) > 3
    server.kill()
    assert not server.running
    assert not [member for member in everybody if is_alive(member)]
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    connection.terminate()
    port = server.port
    server.start()
    assert server.port == port
    assert await _ask(server, "SELECT count(*) FROM kept") == 1


async def test_freeze_stops_answers_and_thaw_brings_them(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.dsn(), ssl=False)
    server.freeze()
    query = asyncio.create_task(connection.fetchval("SELECT 1"))
    _, pending = await asyncio.wait([query], timeout=0.3)
    assert pending == {query}
    server.thaw()
    assert await asyncio.wait_for(query, 10) == 1
    await connection.close()


def test_a_frozen_server_can_be_stopped(server: EmbeddedPostgres) -> None:
    server.freeze()
    server.stop()
    assert not server.running


def test_failure_shows_the_log(tmp_path: Path) -> None:
    broken = EmbeddedPostgres(16, tmp_path, settings={"shared_buffers": "nonsense"})
    broken.create()
    with pytest.raises(EmbeddedError, match="shared_buffers"):
        broken.start()
    assert not broken.running


def test_a_port_taken_meanwhile_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        ports = [taken.getsockname()[1], free.getsockname()[1]]
        free.close()
        answers = iter(ports)
        monkeypatch.setattr("daemon.demo.embedded.free_port", lambda: next(answers))
        server = EmbeddedPostgres(16, tmp_path, settings={"fsync": "off"})
        server.create()
        try:
            server.start()
            assert server.port == ports[1]
        finally:
            server.remove()


async def test_pair_is_fresh_and_speaks_to_both_sides(pair: Pair) -> None:
    source = await pair.source_session()
    destination = await pair.destination_session()
    assert source.major == 16
    assert destination.major == 18
    for session in (source, destination):
        assert await session.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


async def test_databases_go_with_subscriptions_slots_and_sessions(pair: Pair) -> None:
    await pair.both_sql("CREATE TABLE t (id int PRIMARY KEY); SELECT 1")
    await pair.source_sql("CREATE PUBLICATION p FOR ALL TABLES")
    await pair.source_sql("INSERT INTO t VALUES (1)")
    conninfo = pair.source.replication_conninfo().replace("'", "''")
    await pair.destination_sql(f"CREATE SUBSCRIPTION s_{pair.database} CONNECTION '{conninfo}' PUBLICATION p")

    async def arrived() -> bool:
        return bool(await pair.destination_sql("SELECT 1 FROM t"))

    await eventually(arrived, "the row to arrive")
    await pair.both_sql(f"ALTER DATABASE {pair.database} SET default_transaction_read_only = on; SELECT 1")
    await pair.source_session()
    servers = (pair.source_server, pair.destination_server)
    await drop_databases(servers, pair.database)
    for server in servers:
        assert await _ask(server, f"SELECT count(*) FROM pg_database WHERE datname = '{pair.database}'") == 0
        assert await _ask(server, "SELECT count(*) FROM pg_replication_slots") == 0
        assert await _ask(server, "SELECT count(*) FROM pg_subscription") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the work to another account")
def test_binaries_out_of_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a virtual environment in root's home."""
    installed = find_bin_dir(16)
    package, site = installed.parents[1], installed.parents[2]
    hidden = tmp_path / "hidden"
    for folder in (installed.parent, site / f"{package.name}.libs"):
        shutil.copytree(folder, hidden / folder.relative_to(site), symlinks=True)
    hidden.chmod(0o700)
    hidden_bin = hidden / installed.relative_to(site)
    monkeypatch.setattr("daemon.demo.binaries.find_bin_dir", lambda major: hidden_bin)
    monkeypatch.setattr("tempfile.tempdir", str(_open_to_all(tmp_path / "tmp")))
    server = EmbeddedPostgres(16, tmp_path / "server", settings={"fsync": "off"})
    assert hidden not in server.bin_dir.parents
    try:
        server.create()
        server.start()
        assert server.running
    finally:
        server.remove()
    assert EmbeddedPostgres(16, tmp_path / "second").bin_dir == server.bin_dir


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the work to another account")
def test_a_directory_out_of_reach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(_open_to_all(tmp_path / "tmp")))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match="cannot enter"):
        EmbeddedPostgres(16, closed / "server").create()
    assert closed.stat().st_mode & 0o777 == 0o700


def _open_to_all(folder: Path) -> Path:
    """A temporary folder as /tmp is, for a test that has its own."""
    folder.mkdir()
    folder.chmod(0o1777)
    for parent in list(folder.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    return folder


@pytest.mark.skipif(not Path("/usr/lib/postgresql/15/bin/postgres").exists(), reason="PostgreSQL 15 is not here")
async def test_a_major_of_the_system_is_used(tmp_path: Path) -> None:
    with EmbeddedPostgres(15, tmp_path, settings={"fsync": "off"}) as server:
        assert str(await _ask(server, "SHOW server_version_num")).startswith("15")
