"""The relay under TLS: bulk both ways, whoever does not read, and ends of every kind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from daemon.demo.embedded import EmbeddedPostgres
from proxy.wire.messages import query
from tests.support.certificates import make_authority
from tests.support.databases import run_sql
from tests.support.plain_proxy import PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import Wire, close_all, split, startup_packet

MIB = 1024 * 1024
SLACK_BYTES = 24 * MIB


@pytest.fixture(autouse=True)
async def nothing_left_open(proxy: PlainProxy) -> AsyncIterator[None]:
    yield
    await close_all()
    await proxy.nobody_left()


@pytest.fixture(scope="module")
def proxy(pg18: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    authority = make_authority(tmp_path_factory.mktemp("ca"))
    authority.issue("server", hosts=("localhost", "127.0.0.1"))
    general = {
        "client_tls_sslmode": "allow",
        "tls_certificate": str(authority.folder / "server.crt"),
        "tls_private_key": str(authority.folder / "server.key"),
    }
    daemon = PlainProxy({"app": leads_to(pg18)}, tmp_path_factory.mktemp("proxy"), general)
    daemon.start_now()
    yield daemon
    daemon.stop_now()


async def client(proxy: PlainProxy) -> Wire:
    """Logged in under TLS from the first byte on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    wire = Wire(*await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context))
    wire.send(startup_packet("postgres", "app"))
    for message in await wire.until_ready():
        if message.kind == ord("K"):
            wire.pid = int.from_bytes(message.body[:4], "big")
    return wire


async def is_gone(server: EmbeddedPostgres, pid: int) -> bool:
    return not await run_sql(server, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid)


async def waits_for_its_client(server: EmbeddedPostgres, pid: int) -> bool:
    sql = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ClientWrite'"
    return bool(await run_sql(server, "postgres", sql, pid))


async def test_bulk_both_ways(proxy: PlainProxy) -> None:
    size = 30 * MIB
    before = proxy.resident_bytes()
    proxy.forget_peak()
    dsn = f"host=127.0.0.1 port={proxy.port} user=postgres dbname=app sslmode=require"
    async with await psycopg.AsyncConnection.connect(dsn) as connection, asyncio.timeout(60):
        cursor = await connection.execute("SELECT length(%b), repeat('x', %s)", [b"y" * size, size])
        row = await cursor.fetchone()
        assert row is not None
        assert (row[0], len(row[1])) == (size, size)
        assert [found["tls"][:4] for found in await proxy.clients()] == ["TLSv"]
    assert proxy.peak_bytes() - before < SLACK_BYTES


async def test_a_client_that_does_not_read(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    before = proxy.resident_bytes()
    proxy.forget_peak()
    wire = await client(proxy)
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    wire.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 300000)"))
    await eventually(lambda: waits_for_its_client(pg18, wire.pid), "the server to wait for its client")
    assert proxy.peak_bytes() - before < SLACK_BYTES
    wire.reset()
    await eventually(lambda: is_gone(pg18, wire.pid), "the backend to leave", timeout_s=5)


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_client_dies_in_a_query(how: str, proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    wire = await client(proxy)
    wire.send(query("SELECT pg_sleep(60)"))
    await eventually(lambda: _active(proxy), "the query to run")
    if how == "resets":
        wire.reset()
    await wire.close()
    await eventually(lambda: is_gone(pg18, wire.pid), "the backend to leave", timeout_s=5)


async def _active(proxy: PlainProxy) -> bool:
    return [found["state"] for found in await proxy.clients()] == ["active"]


async def test_last_words_arrive(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    killed, terminated = await client(proxy), await client(proxy)
    await run_sql(pg18, "postgres", "SELECT pg_terminate_backend($1, 5000)", terminated.pid)
    (error,) = split(await terminated.until_closed())
    assert error.fields["C"] == "57P01"
    await proxy.command("KILL app")
    await proxy.command("RESUME app")
    (error,) = split(await killed.until_closed())
    assert error.fields["C"] == "57P01"
    assert "R" not in error.fields, "these are the proxy's words, not the server's"
