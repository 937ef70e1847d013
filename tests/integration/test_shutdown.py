"""The end of the daemon, asked for or not, and a beginning that cannot be: exit status, what clients are told, what
is left on the server, and what the log says.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from daemon.demo.embedded import EmbeddedPostgres, free_port
from proxy.wire.messages import query
from tests.support.databases import run_sql
from tests.support.plain_proxy import Leads, PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import Wire, close_all, split, startup_packet

PROMPT_S = 3.0
"""An end that waits for nobody takes less."""


@pytest.fixture(autouse=True)
async def nothing_left(pg18: EmbeddedPostgres) -> AsyncIterator[None]:
    """After each test no backend of a client of ours is left."""
    yield
    await close_all()
    await eventually(lambda: _no_strangers(pg18), "no backend to be left", timeout_s=5)


async def _no_strangers(server: EmbeddedPostgres) -> bool:
    return not await run_sql(
        server,
        "postgres",
        "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )


@pytest.fixture
async def proxy(pg18: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[PlainProxy]:
    databases = {"app": leads_to(pg18), "one": leads_to(pg18, pool_size=1)}
    async with PlainProxy(databases, tmp_path / "proxy", {"shutdown_timeout": 60_000}) as daemon:
        yield daemon


async def client(proxy: PlainProxy, database: str = "app") -> Wire:
    return await Wire.login("127.0.0.1", proxy.port, database)


def told(wire_heard: bytes) -> dict[str, str]:
    (error,) = split(wire_heard)
    assert error.kind == ord("E")
    return error.fields


async def is_told_to_go(wire: Wire) -> None:
    fields = told(await wire.until_closed())
    assert (fields["V"], fields["C"]) == ("FATAL", "57P01")
    assert fields["M"] == "terminating connection due to administrator command"


async def ends_well(proxy: PlainProxy, within_s: float = PROMPT_S) -> None:
    assert await proxy.wait_dead(timeout_s=within_s) == 0
    assert "stopped" in proxy.whole_log()
    assert proxy.faults() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_without_clients(number: signal.Signals, proxy: PlainProxy) -> None:
    proxy.send_signal(number)
    await ends_well(proxy)


async def test_sigterm_waits_for_clients_to_leave(proxy: PlainProxy) -> None:
    """Nobody new gets in; those who are in go on."""
    idle, busy = await client(proxy), await client(proxy)
    await busy.query("BEGIN")
    proxy.send_signal(signal.SIGTERM)
    await eventually(lambda: _refuses(proxy), "the port to be closed")
    assert await idle.value("SELECT 'still served'") == "still served"
    assert await busy.value("SELECT 'still served'") == "still served"
    await idle.close()
    await busy.query("COMMIT")
    assert proxy.process is not None
    assert proxy.process.poll() is None
    await busy.close()
    await ends_well(proxy)


async def _refuses(proxy: PlainProxy) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    except OSError:  # refused, or reset where it was about to be taken
        return True
    writer.close()
    return False


async def test_sigterm_tells_those_who_stay_too_long(proxy: PlainProxy) -> None:
    await proxy.command("SET shutdown_timeout = 400")
    idle, in_query, in_transaction, reads_nothing = [await client(proxy) for _ in range(4)]
    in_query.send(query("SELECT pg_sleep(60)"))
    await in_transaction.query("BEGIN")
    reads_nothing.writer.transport.pause_reading()  # type: ignore[attr-defined]
    reads_nothing.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
    await eventually(lambda: _active(proxy, 3), "three to be busy")
    began = time.monotonic()
    proxy.send_signal(signal.SIGTERM)
    for wire in (idle, in_query, in_transaction):
        await is_told_to_go(wire)
        assert time.monotonic() - began > 0.35
    await ends_well(proxy)


async def _active(proxy: PlainProxy, count: int) -> bool:
    return [row["state"] for row in await proxy.clients()].count("active") == count


@pytest.mark.parametrize("how", ["SIGINT", "SHUTDOWN WAIT_FOR_SERVERS"])
async def test_waiting_for_servers(how: str, proxy: PlainProxy) -> None:
    """Who is idle goes at once; who is inside a transaction may end it."""
    idle, in_transaction, in_query = [await client(proxy) for _ in range(3)]
    await in_transaction.query("BEGIN")
    in_query.send(query("SELECT pg_sleep(0.5), 'finished'"))
    await eventually(lambda: _active(proxy, 2), "two to be busy")
    if how == "SIGINT":
        proxy.send_signal(signal.SIGINT)
    else:
        await proxy.command(how)
    await is_told_to_go(idle)
    assert await in_transaction.value("SELECT 'inside'") == "inside"
    heard = split(await in_query.until_closed())
    assert "".join(chr(message.kind) for message in heard) == "TDCZE"
    assert heard[-1].fields["C"] == "57P01"
    await in_transaction.query("COMMIT")
    await is_told_to_go(in_transaction)
    await ends_well(proxy)


async def test_shutdown_waiting_for_clients(proxy: PlainProxy) -> None:
    wire = await client(proxy)
    await proxy.command("SHUTDOWN WAIT_FOR_CLIENTS")
    assert await wire.value("SELECT 'still served'") == "still served"
    await wire.close()
    await ends_well(proxy)


async def test_shutdown_at_once(proxy: PlainProxy) -> None:
    """The console gets its answer; everybody else is told to go, whatever they are doing."""
    idle, in_query, in_transaction = [await client(proxy) for _ in range(3)]
    in_query.send(query("SELECT pg_sleep(60)"))
    await in_transaction.query("BEGIN")
    await eventually(lambda: _active(proxy, 2), "two to be busy")
    console = await proxy.console()
    assert await console.execute("SHUTDOWN", timeout=5) == "SHUTDOWN"
    for wire in (idle, in_query, in_transaction):
        await is_told_to_go(wire)
    await ends_well(proxy)
    await console.close(timeout=1) if not console.is_closed() else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(number: signal.Signals, proxy: PlainProxy) -> None:
    wire = await client(proxy)
    await wire.query("BEGIN")
    proxy.send_signal(number)
    await eventually(lambda: _refuses(proxy), "the port to be closed")
    proxy.send_signal(number)
    await is_told_to_go(wire)
    await ends_well(proxy)


async def test_clients_on_their_way_in(proxy: PlainProxy) -> None:
    """Those who wait for a link are told; those who have not said who they are, are not waited for."""
    holder = await client(proxy, "one")
    waiting = await Wire.open("127.0.0.1", proxy.port)
    waiting.send(startup_packet("postgres", "one"))
    silent = await Wire.open("127.0.0.1", proxy.port)
    half = await Wire.open("127.0.0.1", proxy.port)
    half.send(startup_packet("postgres", "app")[:10])
    await eventually(lambda: _waits_for_a_link(proxy), "one to wait for a link")
    await proxy.command("SHUTDOWN")
    await is_told_to_go(holder)
    *_, error = split(await waiting.until_closed())
    assert error.fields["C"] in ("57P01", "57P03")
    for wire in (silent, half):
        assert await wire.until_closed() == b""
    await ends_well(proxy, within_s=6)


async def _waits_for_a_link(proxy: PlainProxy) -> bool:
    return any(row["cl_waiting"] == 1 for row in await proxy.command("SHOW POOLS"))


async def test_a_place_that_becomes_free_at_the_end_is_given_to_nobody(proxy: PlainProxy) -> None:
    holder = await client(proxy, "one")
    waiting = await Wire.open("127.0.0.1", proxy.port)
    waiting.send(startup_packet("postgres", "one"))
    await eventually(lambda: _waits_for_a_link(proxy), "one to wait for a link")
    other = await client(proxy)
    proxy.send_signal(signal.SIGTERM)
    await eventually(lambda: _refuses(proxy), "the port to be closed")
    await holder.close()
    *_, error = split(await waiting.until_closed())
    assert (error.fields["C"], error.fields["M"]) == ("57P03", "the database system is shutting down")
    await other.close()
    await ends_well(proxy)


async def test_held_clients(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """What is held is not sent at the last moment."""
    await run_sql(pg18, "postgres", "CREATE TABLE held_at_the_end (i int)")
    try:
        wire = await client(proxy)
        await proxy.command("PAUSE app")
        wire.send(query("INSERT INTO held_at_the_end VALUES (1)"))
        await eventually(lambda: _held(proxy), "the client to wait")
        await proxy.command("SHUTDOWN")
        await is_told_to_go(wire)
        await ends_well(proxy)
        assert await run_sql(pg18, "postgres", "SELECT * FROM held_at_the_end") == []
    finally:
        await run_sql(pg18, "postgres", "DROP TABLE held_at_the_end")


async def _held(proxy: PlainProxy) -> bool:
    return [row["state"] for row in await proxy.clients()] == ["waiting"]


async def test_a_server_that_does_not_answer_does_not_keep_it(pg18: EmbeddedPostgres, tmp_path: Path) -> None:
    """A link that is being opened, and one whose server is frozen, with a query under way."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        databases = {"app": leads_to(pg18), "silent": Leads("127.0.0.1", silent.getsockname()[1])}
        async with PlainProxy(databases, tmp_path / "proxy") as proxy:
            wire = await client(proxy)
            wire.send(query("SELECT pg_sleep(60)"))
            await eventually(lambda: _active(proxy, 1), "the query to run")
            opening = await Wire.open("127.0.0.1", proxy.port)
            opening.send(startup_packet("postgres", "silent"))
            await eventually(lambda: _waits_for_a_link(proxy), "one to wait for a link")
            await asyncio.to_thread(pg18.freeze)
            try:
                await proxy.command("SHUTDOWN")
                await is_told_to_go(wire)
                *_, error = split(await opening.until_closed())
                assert error.fields["C"] == "57P01"
                await ends_well(proxy, within_s=6)
            finally:
                await asyncio.to_thread(pg18.thaw)


async def test_kill_leaves_nothing_on_the_server(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """Without a farewell too the server notices that its clients are gone; a new daemon takes the port over."""
    in_transaction, idle = await client(proxy), await client(proxy)
    await in_transaction.query("BEGIN")
    proxy.kill()
    for wire in (in_transaction, idle):
        assert await wire.until_closed() == b""
    await eventually(lambda: _no_strangers(pg18), "the backends to leave", timeout_s=5)
    await proxy.start()
    async with await client(proxy) as wire:
        assert await wire.value("SELECT 1") == "1"


# -- the beginning -----------------------------------------------------------------------------------------


async def test_the_port_is_taken(pg18: EmbeddedPostgres, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        proxy = PlainProxy({"app": leads_to(pg18)}, tmp_path / "proxy")
        proxy.port = taken.getsockname()[1]
        proxy.write_files()
        await proxy.start(expect_exit=True)
        assert proxy.process is not None
        assert proxy.process.returncode == 1
        assert f"cannot listen on 127.0.0.1:{proxy.port}: Address already in use" in proxy.whole_log()
        assert proxy.faults() == []


@pytest.mark.parametrize(
    ("general", "word"),
    [
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1"),
        ({"no_such_key": 1}, "no_such_key"),
        ({"client_tls_sslmode": "require"}, "tls_certificate"),
    ],
)
async def test_a_configuration_that_cannot_work(
    general: dict[str, Any], word: str, pg18: EmbeddedPostgres, tmp_path: Path
) -> None:
    proxy = PlainProxy({"app": leads_to(pg18)}, tmp_path / "proxy", general)
    await proxy.start(expect_exit=True)
    assert proxy.process is not None
    assert proxy.process.returncode == 1
    assert word in proxy.whole_log()
    assert proxy.faults() == []


async def test_a_server_that_is_not_there_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    databases = {"app": Leads("127.0.0.1", free_port())}
    async with PlainProxy(databases, tmp_path / "proxy") as proxy:
        with pytest.raises(asyncpg.PostgresConnectionError, match='cannot connect to the server of database "app"'):
            await proxy.connect()
        assert [row["name"] for row in await proxy.command("SHOW DATABASES")] == ["app"]
