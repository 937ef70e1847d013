"""What comes unasked: notifications, changed parameters, cancel requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import asyncpg
import psycopg
import pytest

from daemon.demo.embedded import EmbeddedPostgres
from proxy.wire import messages
from tests.support.databases import run_sql
from tests.support.plain_proxy import PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import Wire

MAJORS = (16, 18)


@pytest.fixture(scope="module")
def servers(pg16: EmbeddedPostgres, pg18: EmbeddedPostgres) -> dict[int, EmbeddedPostgres]:
    return {16: pg16, 18: pg18}


@pytest.fixture(scope="module")
def proxy(servers: dict[int, EmbeddedPostgres], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    leads = {f"on{major}": leads_to(server) for major, server in servers.items()}
    daemon = PlainProxy(leads, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


async def test_the_backend_is_the_servers_own(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    async with await Wire.login("127.0.0.1", proxy.port, "on18", parameters={"application_name": "me"}) as wire:
        assert await wire.value("SELECT pg_backend_pid()") == str(wire.pid)
        found = await run_sql(
            pg18, "postgres", "SELECT application_name FROM pg_stat_activity WHERE pid = $1", wire.pid
        )
        assert [row["application_name"] for row in found] == ["me"]


async def test_notifications_reach_an_idle_client(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    async with await Wire.login("127.0.0.1", proxy.port, "on18") as wire:
        await wire.query("LISTEN news")
        await run_sql(pg18, "postgres", "SELECT pg_notify('news', 'n' || g) FROM generate_series(1, 3) g")
        for number in (1, 2, 3):
            message = await wire.message()
            assert message.kind == ord("A")
            assert message.body[4:] == f"news\0n{number}\0".encode()
        # Notifications do not make the session look busy.
        assert [client["state"] for client in await proxy.clients()] == ["idle"]


async def test_notifications_reach_asyncpg(proxy: PlainProxy, pg16: EmbeddedPostgres) -> None:
    heard: asyncio.Queue[tuple[int, str, str]] = asyncio.Queue()
    connection = await proxy.connect("on16")
    try:
        await connection.add_listener("news", lambda _c, pid, channel, text: heard.put_nowait((pid, channel, text)))
        async with await Wire.login("127.0.0.1", proxy.port, "on16") as other:
            await other.query("NOTIFY news, 'hello'")
            async with asyncio.timeout(10):
                assert await heard.get() == (other.pid, "news", "hello")
    finally:
        await connection.close(timeout=5)


@pytest.mark.parametrize("major", MAJORS)
async def test_a_changed_parameter_is_told_as_on_a_direct_connection(
    major: int, servers: dict[int, EmbeddedPostgres], proxy: PlainProxy
) -> None:
    server = servers[major]
    async with (
        await Wire.login("127.0.0.1", proxy.port, f"on{major}") as through,
        await Wire.login(server.host, server.port, "postgres") as direct,
    ):
        try:
            await run_sql(server, "postgres", "ALTER SYSTEM SET TimeZone = 'Asia/Kathmandu'")
            await run_sql(server, "postgres", "SELECT pg_reload_conf()")
            for wire in (through, direct):

                async def told(wire: Wire = wire) -> bool:
                    """Every backend reads the file in its own time."""
                    return any(
                        message.kind == ord("S") and message.body == b"TimeZone\0Asia/Kathmandu\0"
                        for message in await wire.query("SELECT 1")
                    )

                await eventually(told, "the new time zone")
        finally:
            await run_sql(server, "postgres", "ALTER SYSTEM RESET TimeZone")
            await run_sql(server, "postgres", "SELECT pg_reload_conf()")


# -- cancel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("protocol", ["3.0", "latest"])
async def test_cancel_by_psycopg(protocol: str, major: int, proxy: PlainProxy) -> None:
    """libpq of 18 asks for protocol 3.2 if told to, which has longer keys."""
    connection = await psycopg.AsyncConnection.connect(
        f"host=127.0.0.1 port={proxy.port} user=postgres dbname=on{major} sslmode=disable"
        f" max_protocol_version={protocol}",
        autocommit=True,
    )
    async with connection:
        sleeping = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await eventually(lambda: _active(proxy), "the query to run")
        await connection.cancel_safe(timeout=5)
        with pytest.raises(psycopg.errors.QueryCanceled, match="canceling statement due to user request"):
            async with asyncio.timeout(10):
                await sleeping
        cursor = await connection.execute("SELECT 'goes on'")
        assert await cursor.fetchone() == ("goes on",)
        # With nothing to cancel nothing happens, neither now nor to the next query.
        await connection.cancel_safe(timeout=5)
        cursor = await connection.execute("SELECT pg_sleep(0.05), 'still here'")
        assert (await cursor.fetchone() or ())[1] == "still here"


async def test_cancel_by_a_timeout_of_asyncpg(proxy: PlainProxy) -> None:
    connection = await proxy.connect("on18")
    try:
        with pytest.raises(TimeoutError):
            await connection.fetch("SELECT pg_sleep(60)", timeout=0.2)
        assert await connection.fetchval("SELECT 'goes on'") == "goes on"
        with pytest.raises(TimeoutError):
            async with connection.transaction():
                await connection.fetch("SELECT pg_sleep(60)", timeout=0.2)
        assert await connection.fetchval("SELECT 'goes on'") == "goes on"
    finally:
        await connection.close(timeout=5)


async def test_a_cancel_request_with_a_wrong_key(proxy: PlainProxy) -> None:
    async with await Wire.login("127.0.0.1", proxy.port, "on18") as wire:
        wire.send(messages.query("SELECT pg_sleep(0.5), 'undisturbed'"))
        wrong = bytes(byte ^ 255 for byte in wire.key)
        for pid, key in ((wire.pid, wrong), (wire.pid + 1, wire.key), (-1, b"none")):
            async with await Wire.open("127.0.0.1", proxy.port) as other:
                other.send(messages.cancel_request(pid, key))
                assert await other.until_closed() == b""
        heard = await wire.until_ready()
        assert [chr(message.kind) for message in heard] == ["T", "D", "C", "Z"]


async def test_cancel_of_a_request_that_is_held(proxy: PlainProxy) -> None:
    """It is answered by the proxy; the server never sees it."""
    async with await Wire.login("127.0.0.1", proxy.port, "on18") as wire:
        await proxy.command("PAUSE on18")
        try:
            wire.send(messages.query("SELECT 1 / 0") + messages.query("SELECT 'second'"))
            await eventually(lambda: _waiting(proxy), "the request to be held")
            async with await Wire.open("127.0.0.1", proxy.port) as other:
                other.send(messages.cancel_request(wire.pid, wire.key))
                assert await other.until_closed() == b""
            error, ready = await wire.until_ready()
            assert (error.fields["C"], error.fields["V"]) == ("57014", "ERROR")
            assert ready.body == b"I"
        finally:
            await proxy.command("RESUME on18")
        heard = await wire.until_ready()
        assert [chr(message.kind) for message in heard] == ["T", "D", "C", "Z"]


async def test_cancel_from_a_connection_that_dies(proxy: PlainProxy) -> None:
    """Half a cancel request is none."""
    async with await Wire.login("127.0.0.1", proxy.port, "on18") as wire:
        wire.send(messages.query("SELECT pg_sleep(0.3)"))
        for length in (4, 8, 12, 15):
            async with await Wire.open("127.0.0.1", proxy.port) as other:
                other.send(messages.cancel_request(wire.pid, wire.key)[:length])
                other.writer.write_eof()
                assert await other.until_closed() == b""
        assert [chr(message.kind) for message in await wire.until_ready()] == ["T", "D", "C", "Z"]


async def _active(proxy: PlainProxy) -> bool:
    return [client["state"] for client in await proxy.clients()] == ["active"]


async def _waiting(proxy: PlainProxy) -> bool:
    return [client["state"] for client in await proxy.clients()] == ["waiting"]


async def test_asyncpg_and_psycopg_side_by_side(proxy: PlainProxy) -> None:
    """Each driver's ways of talking, many at a time: prepared statements, binary formats, transactions, COPY."""
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(_asyncpg_at_work(proxy, number))
            group.create_task(_psycopg_at_work(proxy, number))


async def _asyncpg_at_work(proxy: PlainProxy, number: int) -> None:
    connection: asyncpg.Connection = await proxy.connect("on18" if number % 2 else "on16")
    try:
        await connection.execute("CREATE TEMP TABLE work (i int PRIMARY KEY, t text)")
        await connection.executemany("INSERT INTO work VALUES ($1, $2)", [(i, "x" * i) for i in range(100)])
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO work VALUES (1, 'again')")
        await connection.copy_records_to_table("work", records=[(i, None) for i in range(100, 200)])
        async with connection.transaction(isolation="serializable"):
            rows = [row async for row in connection.cursor("SELECT * FROM work ORDER BY i", prefetch=7)]
        assert [row["i"] for row in rows] == list(range(200))
        assert await connection.fetchval("SELECT $1::timestamptz - $1 = '0'", datetime(2024, 2, 29, tzinfo=UTC)) is True
        await connection.reset()
    finally:
        await connection.close(timeout=5)


async def _psycopg_at_work(proxy: PlainProxy, number: int) -> None:
    database = "on18" if number % 2 else "on16"
    async with await psycopg.AsyncConnection.connect(
        f"host=127.0.0.1 port={proxy.port} user=postgres dbname={database} sslmode=disable",
        prepare_threshold=1,
    ) as connection:
        await connection.execute("CREATE TEMP TABLE work (i int PRIMARY KEY, t text) ON COMMIT PRESERVE ROWS")
        for i in range(20):
            await connection.execute("INSERT INTO work VALUES (%s, %s)", (i, "x" * i))
        await connection.commit()
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1 / %s::int", [0])
        await connection.rollback()
        async with connection.cursor(name="server_side") as cursor:
            cursor.itersize = 3
            await cursor.execute("SELECT i FROM work ORDER BY i")
            assert [row[0] async for row in cursor] == list(range(20))
        cursor_binary = await connection.execute("SELECT i, t FROM work ORDER BY i", binary=True)
        assert len(await cursor_binary.fetchall()) == 20
