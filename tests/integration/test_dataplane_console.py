"""The operator's verbs with clients that are in the middle of something."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from daemon.demo.embedded import EmbeddedPostgres
from proxy.wire import messages
from proxy.wire.messages import SYNC, query
from tests.support.databases import run_sql
from tests.support.plain_proxy import PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import Message, Wire, close_all, split, startup_packet
from tests.support.wire_scripts import run


@pytest.fixture(scope="module")
def proxy(pg18: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    daemon = PlainProxy({"app": leads_to(pg18), "other": leads_to(pg18)}, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


@pytest.fixture(autouse=True)
async def as_before(proxy: PlainProxy) -> AsyncIterator[None]:
    """After each test: nobody is in, nothing is paused, the files are the first ones."""
    yield
    await close_all()
    for view in await proxy.command("SHOW DATABASES"):
        if view["paused"]:
            await proxy.command(f"RESUME {view['name']}")
    await proxy.command("ENABLE app")
    proxy.write_files()
    await proxy.command("RELOAD")
    await proxy.nobody_left()


async def client(proxy: PlainProxy, database: str = "app") -> Wire:
    return await Wire.login("127.0.0.1", proxy.port, database)


async def states(proxy: PlainProxy) -> list[str]:
    return sorted(row["state"] for row in await proxy.clients())


def becomes(proxy: PlainProxy, *wanted: str) -> Callable[[], Any]:
    async def asked() -> bool:
        return await states(proxy) == sorted(wanted)

    return asked


def kinds(heard: list[Message]) -> str:
    return "".join(chr(message.kind) for message in heard)


async def database(proxy: PlainProxy, name: str = "app") -> dict[str, Any]:
    (found,) = [row for row in await proxy.command("SHOW DATABASES") if row["name"] == name]
    return found


# -- PAUSE, RESUME, MAINTENANCE ----------------------------------------------------------------------------


async def test_pause_waits_for_what_is_under_way(proxy: PlainProxy) -> None:
    idle, in_query, in_transaction, elsewhere = [await client(proxy, name) for name in ("app", "app", "app", "other")]
    await in_transaction.query("BEGIN")
    in_query.send(query("SELECT pg_sleep(0.5), 'done'"))
    pause = asyncio.create_task(proxy.command("PAUSE app"))
    await eventually(lambda: _paused(proxy), "the pause to begin")
    # Who is inside goes on, who is not waits, and other databases do not notice.
    assert await in_transaction.value("SELECT 'inside'") == "inside"
    idle.send(query("SELECT 'held'"))
    assert await elsewhere.value("SELECT 'elsewhere'") == "elsewhere"
    assert kinds(await in_query.until_ready()) == "TDCZ"
    await eventually(becomes(proxy, "waiting", "idle", "active", "idle"), "one client to wait")
    assert not pause.done()
    await in_transaction.query("COMMIT")
    async with asyncio.timeout(5):
        await pause
    in_transaction.send(query("SELECT 'held too'"))
    await eventually(becomes(proxy, "waiting", "waiting", "idle", "idle"), "two clients to wait")
    await proxy.command("RESUME app")
    assert kinds(await idle.until_ready()) == "TDCZ"
    assert kinds(await in_transaction.until_ready()) == "TDCZ"
    assert await in_query.value("SELECT 1") == "1"


async def test_what_is_held_keeps_its_order_and_its_bytes(proxy: PlainProxy) -> None:
    """Pipelines, a COPY with its data, requests that arrive in pieces and behind each other."""
    wire = await client(proxy)
    await wire.query("CREATE TEMP TABLE t (i int)")
    await proxy.command("PAUSE app")
    sent = (
        run("INSERT INTO t VALUES (1)")
        + run("INSERT INTO t VALUES (2)")
        + SYNC
        + query("COPY t FROM STDIN")
        + b"d\0\0\0\6" + b"3\n" + b"c\0\0\0\4"
        + query("SELECT 1/0")
        + run("SELECT string_agg(i::text, ',' ORDER BY i) FROM t")
        + SYNC
    )  # fmt: skip
    for position in range(0, len(sent), 11):
        wire.send(sent[position : position + 11])
        await wire.drain()
    await eventually(becomes(proxy, "waiting"), "the client to wait")
    await proxy.command("RESUME app")
    heard = await wire.until_ready(4)
    assert kinds(heard) == "12nC12nCZ" + "GCZ" + "EZ" + "12TDCZ"
    (row,) = [message for message in heard if message.kind == ord("D")]
    assert messages.decode_data_row(row.body) == [b"1,2,3"]


async def test_pause_in_the_middle_of_a_pipeline(proxy: PlainProxy) -> None:
    """What the server has is answered, what comes then is held; the answers stay whole and in order."""
    wire = await client(proxy)
    count = 60
    for number in range(count):
        wire.send(query(f"SELECT {number}, pg_sleep(0.01)"))
    heard = await wire.until_ready(3)
    pause = asyncio.create_task(proxy.command("PAUSE app"))
    await eventually(lambda: _paused(proxy), "the pause to begin")
    assert not pause.done()
    for number in range(count, 2 * count):
        wire.send(run(f"SELECT {number}") + SYNC)
    heard += await wire.until_ready(count - 3)
    async with asyncio.timeout(5):
        await pause
    assert await states(proxy) == ["waiting"]
    await proxy.command("RESUME app")
    heard += await wire.until_ready(count)
    values = [messages.decode_data_row(m.body)[0] for m in heard if m.kind == ord("D")]
    assert values == [str(number).encode() for number in range(2 * count)]


async def test_a_big_request_is_held_in_little_memory(proxy: PlainProxy) -> None:
    wire = await client(proxy)
    await proxy.command("PAUSE app")
    proxy.forget_peak()
    before = proxy.resident_bytes()
    text = b"SELECT length('" + b"x" * 50_000_000 + b"')"
    wire.send(query(text))
    await eventually(becomes(proxy, "waiting"), "the client to wait")
    size = wire.writer.transport.get_write_buffer_size
    await eventually(lambda: _stands_still(size), "the client to be made to wait", poll_s=0)
    assert size() > 30_000_000
    assert proxy.peak_bytes() - before < 8 * 1024 * 1024
    await proxy.command("RESUME app")
    heard = await wire.until_ready()
    assert kinds(heard) == "TDCZ"
    assert messages.decode_data_row(heard[1].body) == [b"50000000"]


async def test_a_client_that_leaves_while_it_is_held(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """Its request is dropped, not run later."""
    await run_sql(pg18, "postgres", "CREATE TABLE held (i int)")
    try:
        wires = [await client(proxy) for _ in range(3)]
        await proxy.command("PAUSE app")
        for number, wire in enumerate(wires):
            wire.send(query(f"INSERT INTO held VALUES ({number})"))
        await eventually(becomes(proxy, "waiting", "waiting", "waiting"), "the clients to wait")
        wires[0].reset()
        await wires[1].close()
        await eventually(becomes(proxy, "waiting"), "two to be gone")
        await proxy.command("RESUME app")
        assert kinds(await wires[2].until_ready()) == "CZ"
        await wires[2].close()
        await proxy.nobody_left()
        assert [row["i"] for row in await run_sql(pg18, "postgres", "SELECT i FROM held")] == [2]
    finally:
        await run_sql(pg18, "postgres", "DROP TABLE held")


async def test_held_too_long(proxy: PlainProxy) -> None:
    held, idle = await client(proxy), await client(proxy)
    await proxy.command("SET query_wait_timeout = 400")
    await proxy.command("PAUSE app")
    held.send(query("SELECT 1"))
    began = time.monotonic()
    (error,) = split(await held.until_closed())
    assert 0.3 < time.monotonic() - began < 3
    assert (error.fields["C"], error.fields["V"]) == ("57P03", "FATAL")
    assert error.fields["H"] == "The request was not sent to the server; it is safe to repeat it."
    await proxy.command("RESUME app")
    assert await idle.value("SELECT 'had not asked for anything'") == "had not asked for anything"


async def test_clients_come_in_while_it_is_paused(proxy: PlainProxy) -> None:
    await proxy.command("PAUSE app")
    wire = await client(proxy)
    wire.send(query("SELECT 1"))
    await eventually(becomes(proxy, "waiting"), "it to wait")
    await proxy.command("RESUME app")
    assert kinds(await wire.until_ready()) == "TDCZ"


async def test_maintenance_does_not_wait(proxy: PlainProxy) -> None:
    inside, idle = await client(proxy), await client(proxy)
    await inside.query("BEGIN")
    await proxy.command("MAINTENANCE ON app")
    idle.send(query("SELECT 1"))
    assert await inside.value("SELECT 'inside'") == "inside"
    await eventually(becomes(proxy, "waiting", "active"), "one to wait")
    await proxy.command("MAINTENANCE OFF app")
    assert kinds(await idle.until_ready()) == "TDCZ"
    await inside.query("COMMIT")


async def test_a_pause_that_is_broken_off_is_undone(proxy: PlainProxy) -> None:
    wire = await client(proxy)
    await wire.query("BEGIN")
    console = await proxy.console()
    with pytest.raises(TimeoutError):
        await console.execute("PAUSE app", timeout=0.3)
    await console.close(timeout=5)
    await wire.query("COMMIT")
    assert not await _paused(proxy)
    assert await wire.value("SELECT 1") == "1"


async def test_a_paused_session_whose_server_dies(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    wire = await client(proxy)
    await proxy.command("PAUSE app")
    wire.send(query("SELECT 1"))
    await eventually(becomes(proxy, "waiting"), "it to wait")
    await run_sql(pg18, "postgres", "SELECT pg_terminate_backend($1, 5000)", wire.pid)
    (error,) = split(await wire.until_closed())
    assert error.fields["C"] == "57P01"


async def _paused(proxy: PlainProxy) -> bool:
    return bool((await database(proxy))["paused"])


async def _stands_still(size: Callable[[], int]) -> bool:
    before = size()
    await asyncio.sleep(0.5)
    return before == size()


# -- KILL, DISABLE, the others -----------------------------------------------------------------------------


async def test_kill(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    idle, in_query, in_transaction, elsewhere = [await client(proxy, name) for name in ("app", "app", "app", "other")]
    in_query.send(query("SELECT pg_sleep(60)"))
    await in_transaction.query("BEGIN")
    await eventually(becomes(proxy, "idle", "idle", "active", "active"), "the query to run")
    await proxy.command("KILL app")
    for wire in (idle, in_query, in_transaction):
        (error,) = split(await wire.until_closed())
        assert (error.fields["C"], error.fields["V"]) == ("57P01", "FATAL")
        assert error.fields["M"] == "terminating connection due to administrator command"
        await eventually(lambda wire=wire: _is_gone(pg18, wire.pid), "its backend to leave", timeout_s=5)  # type: ignore[misc]
    assert await elsewhere.value("SELECT 1") == "1"
    assert await _paused(proxy)
    waits = await client(proxy)
    waits.send(query("SELECT 1"))
    await proxy.command("RESUME app")
    assert kinds(await waits.until_ready()) == "TDCZ"


async def test_disable_and_enable(proxy: PlainProxy) -> None:
    inside = await client(proxy)
    await proxy.command("DISABLE app")
    async with await Wire.open("127.0.0.1", proxy.port) as wire:
        wire.send(startup_packet("postgres", "app"))
        *_, error = split(await wire.until_closed())
        assert (error.fields["C"], error.fields["M"]) == ("57P03", 'database "app" is disabled')
    assert await inside.value("SELECT 'stays'") == "stays"
    assert (await database(proxy))["disabled"]
    await proxy.command("ENABLE app")
    assert await (await client(proxy)).value("SELECT 1") == "1"


async def test_reconnect_says_that_it_cannot(proxy: PlainProxy) -> None:
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await proxy.command("RECONNECT app")
    await proxy.command("WAIT_CLOSE app")


async def test_show_with_live_clients(proxy: PlainProxy) -> None:
    wires = [await client(proxy) for _ in range(3)]
    wires[0].send(query("SELECT pg_sleep(0.5)"))
    await eventually(becomes(proxy, "idle", "idle", "active"), "the query to run")
    rows = await proxy.clients()
    assert sorted(row["remote_pid"] for row in rows) == sorted(wire.pid for wire in wires)
    assert {row["user"] for row in rows} == {"postgres"}
    servers = await proxy.servers()
    assert sorted(row["remote_pid"] for row in servers) == sorted(wire.pid for wire in wires)
    (pool,) = [row for row in await proxy.command("SHOW POOLS") if row["database"] == "app"]
    assert (pool["cl_active"], pool["cl_waiting"], pool["sv_active"], pool["sv_idle"]) == (3, 0, 1, 2)
    assert kinds(await wires[0].until_ready()) == "TDCZ"
    before = await _stats(proxy)
    await wires[1].query("SELECT 1")
    await wires[1].query("BEGIN; SELECT 1; COMMIT")
    after = await _stats(proxy)
    assert after["total_query_count"] - before["total_query_count"] == 2
    assert after["total_received"] > before["total_received"]
    assert after["total_sent"] > before["total_sent"]
    for wire in wires:
        await wire.close()
    await proxy.nobody_left()
    assert (await _stats(proxy))["total_query_count"] == after["total_query_count"]


async def _stats(proxy: PlainProxy) -> dict[str, Any]:
    (found,) = [row for row in await proxy.command("SHOW STATS") if row["database"] == "app"]
    return found


async def _is_gone(server: EmbeddedPostgres, pid: int) -> bool:
    return not await run_sql(server, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid)


# -- RELOAD ------------------------------------------------------------------------------------------------


async def test_reload_adds_and_removes_databases(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    stays, goes = await client(proxy), await client(proxy, "other")
    removed = proxy.databases.pop("other")
    proxy.databases["new"] = leads_to(pg18)
    try:
        proxy.write_files()
        await proxy.command("RELOAD")
    finally:
        proxy.databases["other"] = removed
        del proxy.databases["new"]
    (error,) = split(await goes.until_closed())
    assert error.fields["C"] == "57P01"
    assert error.fields["D"] == 'database "other" was removed from the configuration'
    assert await stays.value("SELECT 'stays'") == "stays"
    assert await (await client(proxy, "new")).value("SELECT 1") == "1"
    async with await Wire.open("127.0.0.1", proxy.port) as wire:
        wire.send(startup_packet("postgres", "other"))
        *_, error = split(await wire.until_closed())
        assert (error.fields["C"], error.fields["M"]) == ("3D000", 'database "other" does not exist')


async def test_reload_leads_new_clients_elsewhere(
    proxy: PlainProxy, pg16: EmbeddedPostgres, pg18: EmbeddedPostgres
) -> None:
    before = await client(proxy)
    proxy.databases["app"] = leads_to(pg16)
    try:
        proxy.write_files()
        await proxy.command("RELOAD")
        after = await client(proxy)
        assert (await before.value("SHOW server_version_num"))[:2] == "18"
        assert (await after.value("SHOW server_version_num"))[:2] == "16"
    finally:
        proxy.databases["app"] = leads_to(pg18)


async def test_a_bad_reload_changes_nothing_and_names_every_problem(proxy: PlainProxy) -> None:
    wire = await client(proxy)
    shown = await proxy.command("SHOW CONFIG")
    good = proxy.config_path.read_text()
    proxy.config_path.write_text(
        good.replace("[general]", '[general]\nquery_timeout = "long"\nno_such_key = 1\nmax_client_conn = 7')
        + '\n[[cutover]]\nsource = "app"\ndestination = "nothing"\nuser = "postgres"\n'
    )
    with pytest.raises(asyncpg.PostgresError) as caught:
        await proxy.command("RELOAD")
    detail = caught.value.detail
    for word in ("query_timeout", "no_such_key", "nothing", str(proxy.config_path)):
        assert word in detail, detail
    assert await proxy.command("SHOW CONFIG") == shown
    assert await wire.value("SELECT 1") == "1"
    # What only a restart can change is a problem too, and takes the rest of the edit with it.
    proxy.config_path.write_text(
        good.replace(f"port = {proxy.port}", "port = 1").replace("[general]", "[general]\nmax_client_conn = 7")
    )
    with pytest.raises(asyncpg.PostgresError) as caught:
        await proxy.command("RELOAD")
    assert "general.port" in caught.value.detail
    assert await proxy.command("SHOW CONFIG") == shown
    proxy.config_path.unlink()
    with pytest.raises(asyncpg.PostgresError):
        await proxy.command("RELOAD")
    assert await proxy.command("SHOW CONFIG") == shown


async def test_sighup_is_a_reload(proxy: PlainProxy) -> None:
    wire = await client(proxy)
    good = proxy.config_path.read_text()
    proxy.config_path.write_text(good.replace("[general]", "[general]\nquery_timeout = 4321"))
    proxy.send_signal(signal.SIGHUP)
    await eventually(lambda: _configured(proxy, "4321"), "the new value")
    before = len(proxy.whole_log())
    proxy.config_path.write_text(good.replace("[general]", "[general]\nquery_timeout = nonsense"))
    proxy.send_signal(signal.SIGHUP)
    await eventually(lambda: "reload_refused" in proxy.whole_log()[before:], "a line in the log")
    assert await _configured(proxy, "4321")
    assert await wire.value("SELECT 1") == "1"


async def _configured(proxy: PlainProxy, value: str) -> bool:
    rows = await proxy.command("SHOW CONFIG")
    return [row["value"] for row in rows if row["key"].endswith("query_timeout")] == [value]
