"""Servers and clients that go away at any moment: the other side is told what a direct connection would be told,
and nothing stays behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import asyncpg
import pytest

from daemon.demo.embedded import EmbeddedPostgres
from proxy.wire import messages
from proxy.wire.messages import SYNC, TERMINATE, bind, execute, parse, query
from tests.support.databases import run_sql
from tests.support.plain_proxy import Leads, PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import Message, Wire, close_all, split, startup_packet

GONE_WITHIN_S = 5.0


@pytest.fixture(autouse=True)
async def nothing_left_open() -> AsyncIterator[None]:
    yield
    await close_all()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server to be killed. It listens on a Unix socket only: a port could be taken while it is down."""
    server = EmbeddedPostgres(18, tmp_path_factory.mktemp("mortal"), settings={"fsync": "off", "listen_addresses": ""})
    server.create()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def proxy(
    pg18: EmbeddedPostgres, mortal: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PlainProxy]:
    databases = {"app": leads_to(pg18), "mortal": Leads(str(mortal.socket_dir), mortal.port)}
    daemon = PlainProxy(databases, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


@pytest.fixture
async def sockets(proxy: PlainProxy) -> AsyncIterator[int]:
    """After the test the daemon has as many sockets open as before."""
    await proxy.nobody_left()
    before = await proxy.sockets()
    yield before
    await proxy.nobody_left(GONE_WITHIN_S)

    async def same() -> bool:
        return await proxy.sockets() <= before

    await eventually(same, "the daemon to close its sockets", timeout_s=GONE_WITHIN_S)


@dataclass(frozen=True)
class Moment:
    """What a client has sent when somebody dies; `event` is what its backend waits for then. `unread`: the backend
    has not read all of it, and TCP may then drop its last words.
    """

    name: str
    sent: bytes
    event: str
    before: tuple[bytes, ...] = ()
    unread: bool = False


_BIG_COPY = query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 300000)) TO STDOUT")
_TABLE = query("CREATE TEMP TABLE t (i int)")

MOMENTS = [
    Moment("idle", b"", "ClientRead"),
    Moment("in a query", query("SELECT pg_sleep(60)"), "PgSleep"),
    Moment("in an extended query", parse("", "SELECT pg_sleep(60)") + bind("", "") + execute("") + SYNC, "PgSleep"),
    Moment("before the sync", parse("", "SELECT 1") + bind("", "") + execute("") + messages.FLUSH, "ClientRead"),
    Moment(
        "in a query before the sync",
        parse("", "SELECT pg_sleep(60)") + bind("", "") + execute("") + messages.FLUSH,
        "PgSleep",
    ),
    Moment("in a transaction", b"", "ClientRead", (query("BEGIN"),)),
    Moment("in a failed transaction", b"", "ClientRead", (query("BEGIN"), query("SELECT 1/0"))),
    Moment("in a query of a transaction", query("SELECT pg_sleep(60)"), "PgSleep", (query("BEGIN"),)),
    Moment("in a pipeline", query("SELECT pg_sleep(60)") + query("SELECT 1") * 5000, "PgSleep", unread=True),
    Moment("in COPY FROM STDIN", query("COPY t FROM STDIN") + b"d\0\0\0\6" + b"1\n", "ClientRead", (_TABLE,)),
    Moment("in a message of COPY", query("COPY t FROM STDIN") + b"d\0\0\1\0" + b"1\n", "ClientRead", (_TABLE,)),
    Moment("in COPY TO STDOUT", _BIG_COPY, "ClientWrite"),
    Moment("in a big result", query("SELECT repeat('x', 1000) FROM generate_series(1, 300000)"), "ClientWrite"),
    Moment("in a big value", query("SELECT repeat('x', 100000000)"), "ClientWrite"),
    Moment("in the head of a message", b"Q\0\0", "ClientRead"),
    Moment("in the body of a message", query("SELECT 1")[:-3], "ClientRead"),
    Moment("in a big message", b"Q\5\0\0\0SELECT '" + b"x" * 3_000_000, "ClientRead"),
    Moment("listening", b"", "ClientRead", (query("LISTEN a"),)),
]


async def at(moment: Moment, host: str, port: int, database: str) -> Wire:
    """A client that is just there. It does not read what comes after `before`."""
    wire = await Wire.login(host, port, database, receive_buffer=16 * 1024)
    for message in moment.before:
        wire.send(message)
        await wire.until_ready()
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    wire.send(moment.sent)
    await wire.drain()
    return wire


async def waits_for(server: EmbeddedPostgres, pid: int, event: str) -> bool:
    rows = await run_sql(server, "postgres", "SELECT wait_event FROM pg_stat_activity WHERE pid = $1", pid)
    return [row["wait_event"] for row in rows] == [event]


async def is_gone(server: EmbeddedPostgres, pid: int) -> bool:
    return not await run_sql(server, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid)


# -- clients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name.replace(" ", "_"))
@pytest.mark.usefixtures("sockets")
async def test_a_client_dies(moment: Moment, how: str, proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """Its backend goes away, in a query too, and its work is rolled back."""
    wire = await at(moment, "127.0.0.1", proxy.port, "app")
    await eventually(lambda: waits_for(pg18, wire.pid, moment.event), f"the backend to be {moment.name}")
    if how == "resets":
        wire.reset()
    await wire.close()
    await eventually(lambda: is_gone(pg18, wire.pid), "the backend to leave", timeout_s=GONE_WITHIN_S)
    await proxy.nobody_left(GONE_WITHIN_S)


async def test_work_sent_ahead_of_a_goodbye_is_done(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """A client need not wait for the answer: with Terminate behind it its last request runs to its end."""
    await run_sql(pg18, "postgres", "CREATE TABLE last_words (i int)")
    try:
        for number, (host, port, database) in enumerate(
            ((pg18.host, pg18.port, "postgres"), ("127.0.0.1", proxy.port, "app"))
        ):
            wire = await Wire.login(host, port, database)
            wire.send(query("SELECT pg_sleep(0.3)") + query(f"INSERT INTO last_words VALUES ({number})") + TERMINATE)
            await wire.close()

            async def done(number: int = number) -> bool:
                return bool(await run_sql(pg18, "postgres", "SELECT 1 FROM last_words WHERE i = $1", number))

            await eventually(done, f"the last words of client {number}")
        await proxy.nobody_left(GONE_WITHIN_S)
    finally:
        await run_sql(pg18, "postgres", "DROP TABLE last_words")


@pytest.mark.parametrize("how", ["closes", "resets", "is killed by the operator"])
async def test_half_a_request_is_never_run(how: str, proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """Nothing that the proxy says to the server at the end may complete it."""
    await run_sql(pg18, "postgres", "CREATE TABLE halves (i int)")
    try:
        whole = query("INSERT INTO halves SELECT 1 AS aaaaaaaaaa")
        wires = []
        for missing in range(1, 10):
            wires.append(await Wire.login("127.0.0.1", proxy.port, "app"))
            wires[-1].send(whole[:-missing])
            await wires[-1].drain()
        await eventually(lambda: _all_received(proxy, len(wires)), "nine clients in the middle of a message")
        if how == "is killed by the operator":
            await proxy.command("KILL app")
            await proxy.command("RESUME app")
        for wire in wires:
            if how == "resets":
                wire.reset()
            await wire.close()
            await eventually(lambda wire=wire: is_gone(pg18, wire.pid), "the backend to leave")  # type: ignore[misc]
        assert await run_sql(pg18, "postgres", "SELECT * FROM halves") == []
    finally:
        await run_sql(pg18, "postgres", "DROP TABLE halves")


async def _all_received(proxy: PlainProxy, count: int) -> bool:
    return [client["state"] for client in await proxy.clients()] == ["active"] * count


@pytest.mark.usefixtures("sockets")
async def test_a_hundred_clients_die_at_once(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    chosen = [MOMENTS[number % len(MOMENTS)] for number in range(100)]
    wires = await asyncio.gather(*(at(moment, "127.0.0.1", proxy.port, "app") for moment in chosen))
    for wire in wires:
        wire.reset()
    for wire in wires:
        await wire.close()
    pids = [wire.pid for wire in wires]

    async def all_gone() -> bool:
        return not await run_sql(pg18, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = ANY ($1)", pids)

    await eventually(all_gone, "all backends to leave", timeout_s=GONE_WITHIN_S)
    await proxy.nobody_left(GONE_WITHIN_S)


@pytest.mark.usefixtures("sockets")
async def test_clients_die_while_they_log_in(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    packet = messages.SSL_REQUEST
    log_in = startup_packet("postgres", "app")
    for sent in (b"", packet[:3], packet, packet + log_in[:5], log_in[:-1], log_in):
        for how in ("closes", "resets"):
            wire = await Wire.open("127.0.0.1", proxy.port)
            wire.send(sent)
            if how == "resets":
                wire.reset()
            await wire.close()
    await proxy.nobody_left(GONE_WITHIN_S)
    await eventually(lambda: _no_strangers(pg18), "no backend to be left", timeout_s=GONE_WITHIN_S)


async def _no_strangers(server: EmbeddedPostgres) -> bool:
    return not await run_sql(
        server,
        "postgres",
        "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )


# -- servers -----------------------------------------------------------------------------------------------


async def last_words(wire: Wire) -> list[Message]:
    """Everything that still comes, without what depends on how much was on its way."""
    wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
    return [m for m in split(await wire.until_closed()) if m.kind in (0, ord("E"), ord("Z"))]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name.replace(" ", "_"))
@pytest.mark.usefixtures("sockets")
async def test_a_backend_is_terminated(moment: Moment, proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """The client hears of it in the server's words, and only where they have a place."""
    heard: list[list[Message]] = []
    for host, port, database in ((pg18.host, pg18.port, "postgres"), ("127.0.0.1", proxy.port, "app")):
        wire = await at(moment, host, port, database)
        await eventually(lambda wire=wire: waits_for(pg18, wire.pid, moment.event), f"it to be {moment.name}")  # type: ignore[misc]
        await run_sql(pg18, "postgres", "SELECT pg_terminate_backend($1, 5000)", wire.pid)
        heard.append(await last_words(wire))
        await wire.close()
    direct, through = heard
    if moment.event == "ClientWrite":
        # Broken off in the middle of a message; nothing else may stand there.
        for message in through:
            assert message.kind == 0
            assert message.body[16:].strip(b"x") == b""
    elif not moment.unread or direct:
        assert direct[-1].fields["C"] == "57P01"
        assert through == direct
    await proxy.nobody_left(GONE_WITHIN_S)


@pytest.mark.parametrize(
    "die",
    [
        lambda server: server.stop("immediate"),
        lambda server: server.stop("fast"),
        lambda server: server.kill(),
    ],
    ids=["immediate", "fast", "kill"],
)
@pytest.mark.usefixtures("sockets")
async def test_the_server_dies_and_comes_back(
    die: Callable[[EmbeddedPostgres], None], proxy: PlainProxy, mortal: EmbeddedPostgres
) -> None:
    """All clients are told or cut off; new ones get a clear error; and all is well when the server is back."""
    chosen = [moment for moment in MOMENTS if moment.event != "ClientWrite"]
    wires = [await at(moment, "127.0.0.1", proxy.port, "mortal") for moment in chosen]
    await eventually(lambda: _all_there(mortal, wires, chosen), "every client to be where it should be")
    await asyncio.to_thread(die, mortal)
    try:
        for wire in wires:
            for message in await last_words(wire):
                assert message.kind != 0
                code = message.fields["C"]
                assert message.fields["V"] == "FATAL" or code in ("57014", "22012", "57P02"), message
            await wire.close()
        await proxy.nobody_left(GONE_WITHIN_S)
        async with await Wire.open("127.0.0.1", proxy.port) as late:
            late.send(startup_packet("postgres", "mortal"))
            began = time.monotonic()
            *_, error = split(await late.until_closed())
            assert time.monotonic() - began < 2
            assert (error.fields["C"], error.fields["V"]) == ("08006", "FATAL")
            assert error.fields["M"].startswith('cannot connect to the server of database "mortal": ')
    finally:
        await asyncio.to_thread(mortal.start)
    async with await Wire.login("127.0.0.1", proxy.port, "mortal") as wire:
        assert await wire.value("SELECT 'back'") == "back"


async def _all_there(server: EmbeddedPostgres, wires: list[Wire], moments: list[Moment]) -> bool:
    connection = await asyncpg.connect(
        host=str(server.socket_dir), port=server.port, user="postgres", database="postgres", timeout=10
    )
    try:
        rows = await connection.fetch("SELECT pid, wait_event FROM pg_stat_activity")
    finally:
        await connection.close(timeout=5)
    found = {row["pid"]: row["wait_event"] for row in rows}
    return [found.get(wire.pid) for wire in wires] == [moment.event for moment in moments]


async def test_a_server_that_starts_up_says_so(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """Its own refusal is handed on as it is."""
    await run_sql(pg18, "postgres", "CREATE DATABASE closed_shop ALLOW_CONNECTIONS false")
    proxy.databases["closed"] = leads_to(pg18, "closed_shop")
    proxy.databases["absent"] = leads_to(pg18, "no_such_database")
    proxy.write_files()
    await proxy.command("RELOAD")
    try:
        for name, database in (("closed", "closed_shop"), ("absent", "no_such_database")):
            answers = []
            for host, port, asked in ((pg18.host, pg18.port, database), ("127.0.0.1", proxy.port, name)):
                async with await Wire.open(host, port) as wire:
                    wire.send(startup_packet("postgres", asked))
                    answers.append([m for m in split(await wire.until_closed()) if m.kind == ord("E")])
            direct, through = answers
            assert through == direct
            assert len(direct) == 1
    finally:
        await run_sql(pg18, "postgres", "DROP DATABASE closed_shop")
