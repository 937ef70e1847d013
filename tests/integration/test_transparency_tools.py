"""PostgreSQL's own programs work through the proxy as they do without it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.demo.embedded import EmbeddedPostgres
from tests.support.databases import create_database, drop_databases, run_sql
from tests.support.plain_proxy import PlainProxy, leads_to
from tests.support.wait import eventually

DATABASE = "tools"
# A random key against injected psql commands, new in every dump (pg_dump of 2025-08).
_DUMP_KEY = re.compile(rb"^\\(?:un)?restrict .*$", re.MULTILINE)

# An Insert of pgoutput: table, "N", one column as text ("Logical Replication Message Formats").
_INSERT = re.compile(rb"I....N\x00\x01t", re.DOTALL)


@pytest.fixture(scope="module")
def proxy(pg18: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    # Replication programs of older versions always ask for the database "replication".
    leads = {DATABASE: leads_to(pg18, DATABASE), "replication": leads_to(pg18, "postgres")}
    daemon = PlainProxy(leads, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


@pytest.fixture
async def database(proxy: PlainProxy, pg18: EmbeddedPostgres) -> AsyncIterator[None]:
    await create_database(pg18, DATABASE)
    yield
    await proxy.nobody_left()
    await drop_databases([pg18], DATABASE)


async def run(server: EmbeddedPostgres, port: int, folder: Path, program: str, *arguments: str) -> bytes:
    """What the program writes to stdout; an assertion with its stderr where it fails."""

    def call() -> bytes:
        done = subprocess.run(
            [str(server.bin_dir / program), *arguments],
            cwd=folder,
            env=_environment(port),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return await asyncio.to_thread(call)


def _environment(port: int) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": "postgres",
        "PGSSLMODE": "disable",
    }


@pytest.mark.usefixtures("database")
async def test_pgbench(proxy: PlainProxy, pg18: EmbeddedPostgres, tmp_path: Path) -> None:
    """It loads with COPY FREEZE, and runs simple, extended, prepared and pipelined."""
    await run(pg18, proxy.port, tmp_path, "pgbench", "-i", "-q", "-s", "1", DATABASE)
    pipeline = tmp_path / "pipeline.sql"
    pipeline.write_text(
        "\\set aid random(1, 100000)\n\\startpipeline\n"
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"
        "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
        "SELECT 1;\n\\endpipeline\n"
    )
    for extra in (
        ["-M", "simple"],
        ["-M", "extended"],
        ["-M", "prepared"],
        ["-M", "prepared", "-S", "-C"],
        ["-M", "extended", "-f", "pipeline.sql", "-n"],
        ["-M", "prepared", "-f", "pipeline.sql", "-n"],
    ):
        report = await run(pg18, proxy.port, tmp_path, "pgbench", "-c", "4", "-t", "50", *extra, DATABASE)
        assert b"number of transactions actually processed: 200/200" in report, extra
        assert b"number of failed transactions: 0 " in report, extra


@pytest.mark.usefixtures("database")
async def test_dump_and_restore(proxy: PlainProxy, pg18: EmbeddedPostgres, tmp_path: Path) -> None:
    """A dump through the proxy is the dump without it, in parallel too, and can be restored through it."""
    await run_sql(
        pg18,
        DATABASE,
        "CREATE TABLE t AS SELECT g AS id, repeat(md5(g::text), 10) AS text, ARRAY[g, NULL] AS list"
        " FROM generate_series(1, 5000) g; ALTER TABLE t ADD PRIMARY KEY (id);"
        " CREATE SEQUENCE s START 5; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';"
        " SELECT lo_from_bytea(991, '\\x00ff'); COMMENT ON TABLE t IS 'ä';",
    )
    direct = await run(pg18, pg18.port, tmp_path, "pg_dump", "--large-objects", DATABASE)
    through = await run(pg18, proxy.port, tmp_path, "pg_dump", "--large-objects", DATABASE)
    assert _DUMP_KEY.sub(b"", through) == _DUMP_KEY.sub(b"", direct)
    assert len(through) > 1_000_000
    await run(pg18, proxy.port, tmp_path, "pg_dump", "-Fd", "-j", "3", "-f", "dump", DATABASE)
    await run_sql(pg18, DATABASE, "DROP TABLE t; DROP SEQUENCE s; DROP FUNCTION f(); SELECT lo_unlink(991);")
    await run(pg18, proxy.port, tmp_path, "pg_restore", "-j", "3", "-d", DATABASE, "dump")
    again = await run(pg18, pg18.port, tmp_path, "pg_dump", "--large-objects", DATABASE)
    assert _DUMP_KEY.sub(b"", again) == _DUMP_KEY.sub(b"", direct)


@pytest.mark.usefixtures("database")
async def test_a_logical_replication_stream(proxy: PlainProxy, pg18: EmbeddedPostgres, tmp_path: Path) -> None:
    """COPY in both directions, until the client ends it."""
    program = ["pg_recvlogical", "-d", DATABASE, "--slot", "through_the_proxy"]
    await run_sql(pg18, DATABASE, "CREATE TABLE t (i int); CREATE PUBLICATION p FOR ALL TABLES;")
    await run(pg18, proxy.port, tmp_path, *program, "--create-slot", "-P", "pgoutput")
    start = ["--start", "-f", "stream", "--no-loop", "-F", "0", "-o", "proto_version=1", "-o", "publication_names=p"]
    receiver = subprocess.Popen(
        [str(pg18.bin_dir / program[0]), *program[1:], *start],
        cwd=tmp_path,
        env=_environment(proxy.port),
        stderr=subprocess.PIPE,
    )
    try:
        await run_sql(pg18, DATABASE, "INSERT INTO t SELECT generate_series(1, 1000)")
        stream = tmp_path / "stream"
        await eventually(lambda: stream.exists() and len(_INSERT.findall(stream.read_bytes())) == 1000, "all rows")
        (client,) = await proxy.clients()
        assert client["replication"] == "logical"
        # However long it streams, that is not a query that takes too long.
        await proxy.command("SET query_timeout = 50")
        await run_sql(pg18, DATABASE, "SELECT pg_sleep(0.7)")
        await proxy.command("RELOAD")
        assert [found["id"] for found in await proxy.clients()] == [client["id"]]
        # The end is sent by pg_recvlogical as CopyDone, which the server answers.
        receiver.terminate()
        _, complaint = await asyncio.to_thread(receiver.communicate, None, 10)
        assert receiver.returncode == 0, complaint
    finally:
        receiver.kill()
        receiver.communicate()
    await proxy.nobody_left()
    await run(pg18, proxy.port, tmp_path, *program, "--drop-slot")


async def test_a_base_backup(proxy: PlainProxy, pg18: EmbeddedPostgres, tmp_path: Path) -> None:
    """Physical replication: a second connection streams WAL meanwhile."""
    options = ["-c", "fast", "-X", "stream", "--no-sync", "--manifest-checksums=SHA256"]
    await run(pg18, proxy.port, tmp_path, "pg_basebackup", "-D", "backup", *options)
    manifest = json.loads((tmp_path / "backup" / "backup_manifest").read_text())
    files = [file for file in manifest["Files"] if "Path" in file]
    assert len(files) > 500
    for file in files:
        contents = (tmp_path / "backup" / file["Path"]).read_bytes()
        assert hashlib.sha256(contents).hexdigest() == file["Checksum"], file["Path"]
    assert list((tmp_path / "backup" / "pg_wal").glob("0000*"))
    await proxy.nobody_left()
