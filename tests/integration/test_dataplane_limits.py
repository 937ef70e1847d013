"""Every limit and time-out ends a client with the SQLSTATE that PostgreSQL would use, and nobody else."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from daemon.demo.embedded import EmbeddedPostgres, free_port
from proxy.wire import messages
from proxy.wire.messages import query
from tests.support.databases import run_sql
from tests.support.plain_proxy import Leads, PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import Message, Wire, close_all, split, startup_packet


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """A port where connections are taken and nobody ever answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(16)
        yield sock.getsockname()[1]


@pytest.fixture(autouse=True)
async def nothing_left_open() -> AsyncIterator[None]:
    yield
    await close_all()


@pytest.fixture(scope="module")
def proxy(pg18: EmbeddedPostgres, silent: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    databases = {
        "app": leads_to(pg18),
        "two": leads_to(pg18, pool_size=2),
        "silent": Leads("127.0.0.1", silent),
        "nowhere": Leads("127.0.0.1", free_port()),
        "no_such_host": Leads("does-not-exist.invalid", 5432),
    }
    daemon = PlainProxy(databases, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


@asynccontextmanager
async def setting(proxy: PlainProxy, **values: int) -> AsyncIterator[None]:
    """Keys of [general] changed by SET for a while; the file has the old ones."""
    for key, value in values.items():
        await proxy.command(f"SET {key} = {value}")
    try:
        yield
    finally:
        await proxy.command("RELOAD")


async def client(proxy: PlainProxy, database: str = "app") -> Wire:
    return await Wire.login("127.0.0.1", proxy.port, database)


async def refused(proxy: PlainProxy, database: str = "app") -> Message:
    """The error a new client gets; the connection is closed behind it."""
    async with await Wire.open("127.0.0.1", proxy.port) as wire:
        wire.send(startup_packet("postgres", database))
        heard = split(await wire.until_closed())
        assert heard[-1].kind == ord("E"), heard
        return heard[-1]


async def ended(wire: Wire, sqlstate: str, within_s: float = 5.0) -> dict[str, str]:
    """The client is told FATAL with this SQLSTATE, and nothing else, and then the connection is closed."""
    (error,) = split(await wire.until_closed(within_s))
    assert (error.fields["V"], error.fields["C"]) == ("FATAL", sqlstate)
    await wire.close()
    return error.fields


async def backend_is_gone(server: EmbeddedPostgres, pid: int) -> None:
    async def gone() -> bool:
        return not await run_sql(server, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid)

    await eventually(gone, "the backend to leave", timeout_s=5)


# -- how many ----------------------------------------------------------------------------------------------


async def test_max_client_conn(proxy: PlainProxy) -> None:
    async with setting(proxy, max_client_conn=3):
        wires = [await client(proxy) for _ in range(3)]
        error = await refused(proxy)
        assert (error.fields["C"], error.fields["V"]) == ("53300", "FATAL")
        assert error.fields["M"] == "sorry, too many clients already"
        # The operator still gets in, and nobody else was hurt.
        assert len(await proxy.clients()) == 3
        for wire in wires:
            assert await wire.value("SELECT 1") == "1"
        await wires.pop().close()
        await eventually(lambda: _count(proxy, 2), "a place")
        wires.append(await client(proxy))
        for wire in wires:
            await wire.close()
    await proxy.nobody_left()


@pytest.mark.parametrize("auth_type", ["trust", "scram"])
async def test_max_client_conn_holds_when_many_come_at_once(
    auth_type: str, pg18: EmbeddedPostgres, tmp_path: Path
) -> None:
    """However long they take to prove who they are."""
    limit = 5
    users = [{"name": "postgres", "password": "right"}]
    general = {"auth_type": auth_type, "max_client_conn": limit}
    async with PlainProxy({"app": leads_to(pg18)}, tmp_path / "proxy", general, users=users) as proxy:
        dsn = f"host=127.0.0.1 port={proxy.port} user=postgres dbname=app password=right sslmode=disable"
        found = await asyncio.gather(*(psycopg.AsyncConnection.connect(dsn) for _ in range(20)), return_exceptions=True)
        connections = [each for each in found if isinstance(each, psycopg.AsyncConnection)]
        refusals = [str(each) for each in found if isinstance(each, psycopg.OperationalError)]
        assert len(connections) == limit
        assert len(refusals) == 20 - limit
        assert all("FATAL:  sorry, too many clients already" in text for text in refusals)
        for connection in connections:
            await connection.close()
        await proxy.nobody_left()


async def test_pool_size_makes_clients_wait_their_turn(proxy: PlainProxy) -> None:
    first, second = await client(proxy, "two"), await client(proxy, "two")
    waiting = [asyncio.create_task(client(proxy, "two")) for _ in range(3)]
    other = await client(proxy)  # another database has places of its own
    assert await other.value("SELECT 1") == "1"
    await other.close()
    await eventually(lambda: _wait_for_links(proxy, 3), "three to wait")
    assert not any(task.done() for task in waiting)
    assert len(await proxy.servers()) == 2
    wires = [first, second]
    served = 0
    while wires:
        await wires.pop().close()
        served += 1
        if waiting:
            done, rest = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1, "one place for one that waits"
            waiting = list(rest)
            wires += [task.result() for task in done]
    assert served == 5
    await proxy.nobody_left()


async def test_a_bigger_pool_lets_waiting_clients_in(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    wires = [await client(proxy, "two"), await client(proxy, "two")]
    waiting = asyncio.create_task(client(proxy, "two"))
    await eventually(lambda: _wait_for_links(proxy, 1), "the third to wait")
    proxy.databases["two"] = leads_to(pg18, pool_size=3)
    proxy.write_files()
    try:
        await proxy.command("RELOAD")
        async with asyncio.timeout(5):
            wires.append(await waiting)
    finally:
        proxy.databases["two"] = leads_to(pg18, pool_size=2)
        proxy.write_files()
        await proxy.command("RELOAD")
    # A smaller pool closes nobody.
    for wire in wires:
        assert await wire.value("SELECT 1") == "1"
        await wire.close()
    await proxy.nobody_left()


async def test_query_wait_timeout_for_a_link(proxy: PlainProxy) -> None:
    async with setting(proxy, query_wait_timeout=300):
        wires = [await client(proxy, "two"), await client(proxy, "two")]
        began = time.monotonic()
        error = await refused(proxy, "two")
        assert 0.25 < time.monotonic() - began < 3
        assert error.fields["C"] == "57P03"
        assert 'database "two"' in error.fields["M"]
        for wire in wires:
            await wire.close()
    await proxy.nobody_left()


async def test_a_client_that_gives_up_waiting_leaves_its_place_in_the_queue(proxy: PlainProxy) -> None:
    wires = [await client(proxy, "two"), await client(proxy, "two")]
    impatient = await Wire.open("127.0.0.1", proxy.port)
    impatient.send(startup_packet("postgres", "two"))
    await eventually(lambda: _wait_for_links(proxy, 1), "the third to wait")
    await impatient.close()
    patient = asyncio.create_task(client(proxy, "two"))
    await wires.pop().close()
    async with asyncio.timeout(5):
        wires.append(await patient)
    for wire in wires:
        await wire.close()
    await proxy.nobody_left()


# -- how long ----------------------------------------------------------------------------------------------


async def test_client_login_timeout(proxy: PlainProxy) -> None:
    """As with PostgreSQL the connection is closed without a word."""
    packet = startup_packet("postgres", "app")
    async with setting(proxy, client_login_timeout=300):
        for sent in (b"", packet[:2], packet[:-1], messages.SSL_REQUEST):
            async with await Wire.open("127.0.0.1", proxy.port) as wire:
                wire.send(sent)
                began = time.monotonic()
                answer = await wire.until_closed()
                assert answer == (b"N" if sent == messages.SSL_REQUEST else b"")
                assert 0.25 < time.monotonic() - began < 3
        wire = await client(proxy)  # whoever is in stays
        await asyncio.sleep(0.5)  # longer than the limit: that it does nothing is what is looked for
        assert await wire.value("SELECT 1") == "1"
        await wire.close()


async def test_client_idle_timeout(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    async with setting(proxy, client_idle_timeout=400):
        idle, busy, in_transaction = await client(proxy), await client(proxy), await client(proxy)
        await in_transaction.query("BEGIN")
        busy.send(query("SELECT pg_sleep(1), 'done'"))
        began = time.monotonic()
        fields = await ended(idle, "57P05")
        assert fields["M"] == "terminating connection due to idle-session timeout"
        assert 0.3 < time.monotonic() - began < 3
        heard = await busy.until_ready()
        assert [chr(message.kind) for message in heard] == ["T", "D", "C", "Z"]
        assert await in_transaction.value("SELECT 'not idle-session'") == "not idle-session"
        for wire in (busy, in_transaction):
            await wire.close()
        await backend_is_gone(pg18, idle.pid)


async def test_client_idle_in_transaction_timeout(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    async with setting(proxy, client_idle_in_transaction_timeout=400):
        idle, open_, failed, busy = [await client(proxy) for _ in range(4)]
        await open_.query("BEGIN; CREATE TABLE never_committed (i int)")
        await failed.query("BEGIN")
        await failed.query("SELECT 1/0")
        await busy.query("BEGIN")
        busy.send(query("SELECT pg_sleep(1), 'done'"))
        for wire in (open_, failed):
            fields = await ended(wire, "25P03")
            assert fields["M"] == "terminating connection due to idle-in-transaction timeout"
            await backend_is_gone(pg18, wire.pid)
        heard = await busy.until_ready()
        assert [chr(message.kind) for message in heard] == ["T", "D", "C", "Z"]
        assert await idle.value("SELECT to_regclass('never_committed') IS NULL") == "t"
        await idle.close()
        await busy.close()


async def test_query_timeout(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """The server is told too: a query that nobody waits for does not run on."""
    async with setting(proxy, query_timeout=400):
        slow, idle, quick = [await client(proxy) for _ in range(3)]
        await idle.query("BEGIN")
        slow.send(query("SELECT pg_sleep(60)"))
        began = time.monotonic()
        for _ in range(8):  # each is quick; together they take longer than the limit
            await quick.query("SELECT pg_sleep(0.1)")
        fields = await ended(slow, "57014")
        assert time.monotonic() - began < 3
        assert fields["M"] == "canceling statement due to statement timeout"
        await backend_is_gone(pg18, slow.pid)
        for wire in (idle, quick):
            assert await wire.value("SELECT 1") == "1"
            await wire.close()
    await proxy.nobody_left()


async def test_query_timeout_in_the_middle_of_a_row(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """There is no place for an error inside a message: the connection is just closed."""
    wire = await Wire.login("127.0.0.1", proxy.port, "app", receive_buffer=16 * 1024)
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    wire.send(query("SELECT repeat('x', 50000000)"))
    sql = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ClientWrite'"
    await eventually(lambda: run_sql(pg18, "postgres", sql, wire.pid), "the value to be on its way")
    async with setting(proxy, query_timeout=400):
        await eventually(lambda: _count(proxy, 0), "the client to be ended", timeout_s=5)
        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        description, value = split(await wire.until_closed())
        assert description.kind == ord("T")
        assert value.kind == 0
        assert value.body[:1] == b"D"
        assert value.body[11:].strip(b"x") == b""
        await wire.close()
        await backend_is_gone(pg18, wire.pid)


# -- servers -----------------------------------------------------------------------------------------------


async def test_connect_timeout(proxy: PlainProxy) -> None:
    async with setting(proxy, connect_timeout=300):
        began = time.monotonic()
        error = await refused(proxy, "silent")
        assert 0.25 < time.monotonic() - began < 3
        assert (error.fields["C"], error.fields["V"]) == ("08006", "FATAL")
        assert error.fields["M"] == 'cannot connect to the server of database "silent": no answer within 0.3 s'


@pytest.mark.parametrize(
    ("database", "reason"),
    [("nowhere", "Connection refused"), ("no_such_host", "")],
)
async def test_a_server_that_cannot_be_reached(database: str, reason: str, proxy: PlainProxy) -> None:
    for _ in range(3):
        error = await refused(proxy, database)
        assert (error.fields["C"], error.fields["V"]) == ("08006", "FATAL")
        assert error.fields["M"].startswith(f'cannot connect to the server of database "{database}": ')
        assert error.fields["M"].endswith(reason)
    wire = await client(proxy)
    assert await wire.value("SELECT 'the others are well'") == "the others are well"
    await wire.close()
    await proxy.nobody_left()


async def _wait_for_links(proxy: PlainProxy, count: int) -> bool:
    return bool(sum(row["cl_waiting"] for row in await proxy.command("SHOW POOLS")) == count)


async def _count(proxy: PlainProxy, count: int) -> bool:
    return len(await proxy.clients()) == count
