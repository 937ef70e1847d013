"""What nobody should send: answered as PostgreSQL answers it, and over with the connection."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from daemon.demo.embedded import EmbeddedPostgres
from proxy.wire import messages
from proxy.wire.messages import SSL_REQUEST, SYNC, query
from tests.support.databases import run_sql
from tests.support.plain_proxy import PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import PROTOCOL, Message, Wire, close_all, split, startup_packet
from tests.support.wire_scripts import raw_message

MIB = 1024 * 1024
NAME = "trust_somebody"  # who exists on the server, and needs no password there


@pytest.fixture(autouse=True)
async def nothing_left_open() -> AsyncIterator[None]:
    yield
    await close_all()


@pytest.fixture(scope="module")
def proxy(pg18: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    # The same name on both sides, so that texts that quote it are the same.
    daemon = PlainProxy({"postgres": leads_to(pg18)}, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


def length_word(length: int) -> bytes:
    return struct.pack("!I", length)


def packet(body: bytes) -> bytes:
    return length_word(len(body) + 4) + body


V3 = length_word(PROTOCOL)
USER = b"user\0postgres\0"
DATABASE = b"database\0postgres\0"

BEFORE_LOG_IN = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls without asking": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "zeros": bytes(64),
    "length 0": length_word(0),
    "length 4": length_word(4),
    "length 7": length_word(7) + b"xxx",
    "length 10005": length_word(10005) + V3,
    "the greatest length": length_word(0xFFFFFFFF) + V3,
    "half a length": b"\0\0",
    "half a packet": packet(V3 + USER + DATABASE + b"\0")[:-7],
    "version 1": packet(length_word(1 << 16) + USER + b"\0"),
    "version 2": packet(length_word(2 << 16) + bytes(288)),
    "version 4": packet(length_word(4 << 16) + USER + b"\0"),
    "no user": packet(V3 + DATABASE + b"\0"),
    "an empty user": packet(V3 + b"user\0\0" + DATABASE + b"\0"),
    "no parameters": packet(V3 + b"\0"),
    "no last byte": packet(V3 + USER + DATABASE),
    "bytes behind the last": packet(V3 + USER + DATABASE + b"\0more"),
    "a name without a value": packet(V3 + USER + b"database\0"),
    "an unknown database": packet(V3 + USER + b"database\0no_such_database\0\0"),
    "an unknown user": packet(V3 + b"user\0trust_nobody\0" + DATABASE + b"\0"),
    "a bad replication value": packet(V3 + USER + DATABASE + b"replication\0perhaps\0\0"),
    "an unknown setting": packet(V3 + USER + DATABASE + b"no_such_setting\0" + b"1\0\0"),
    "a bad setting": packet(V3 + USER + DATABASE + b"work_mem\0lots\0\0"),
    "bad options": packet(V3 + USER + DATABASE + b"options\0-c\0\0"),
    "a bad encoding": packet(V3 + USER + DATABASE + b"client_encoding\0KLINGON\0\0"),
    "an SSL request and then nothing": SSL_REQUEST,
    "an SSL request with more behind it": SSL_REQUEST + b"more",
    "two SSL requests": SSL_REQUEST,
    "a cancel request that is too short": packet(struct.pack("!I", 80877102) + b"\0\0"),
    "a cancel request for nobody": messages.cancel_request(1, b"none"),
}


@pytest.mark.parametrize("name", BEFORE_LOG_IN)
async def test_before_the_log_in(name: str, proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    answers = []
    for host, port in ((pg18.host, pg18.port), ("127.0.0.1", proxy.port)):
        async with await Wire.open(host, port) as wire:
            wire.send(BEFORE_LOG_IN[name])
            heard = b""
            if BEFORE_LOG_IN[name] == SSL_REQUEST:
                heard = await wire.read_exactly(1)
                wire.send(SSL_REQUEST if name.startswith("two") else b"")
            if not _says_enough(name):
                wire.writer.write_eof()
            answers.append(heard + await wire.until_closed())
    direct, through = (_told(answer) for answer in answers)
    if not direct and through:
        # PostgreSQL only logs these; saying it helps whoever points the wrong program at this port.
        ((_, _, sqlstate, text, *_),) = through
        assert sqlstate == "08P01"
        assert text in ("invalid length of startup packet", "invalid length of cancel request packet")
    else:
        assert through == direct
    await proxy.nobody_left()


def _says_enough(name: str) -> bool:
    """Whether the server hangs up by itself; otherwise it waits for more, until the client goes."""
    return name not in ("nothing", "half a length", "half a packet", "an SSL request and then nothing")


def _told(answer: bytes) -> list[tuple[str, ...]]:
    """Severity, SQLSTATE, text, detail and hint of errors. The rest of one says where in the server's source it was
    found. Left out are the refusal of TLS, and AuthenticationOk: the proxy knows what is wrong before it says so.
    """
    answer = answer.removeprefix(b"N")
    if answer[:1] == b"E" and answer[-2:] == b"\n\0":
        return [("as in protocol 2", answer.decode())]
    found: list[tuple[str, ...]] = []
    for message in split(answer):
        if message.kind == ord("E"):
            fields = message.fields
            found.append(tuple(fields.get(key, "") for key in "SVCMDH"))
        elif message.kind != ord("R"):
            found.append((chr(message.kind), message.body.hex()))
    return found


# -- passwords ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth_type", ["scram", "md5", "plain"])
async def test_wrong_passwords_and_unknown_names(
    auth_type: str, proxy: PlainProxy, pg18: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In PostgreSQL's words, and nobody learns which of the two was wrong."""
    other = PlainProxy(
        {"postgres": leads_to(pg18)},
        tmp_path_factory.mktemp("passwords"),
        {"auth_type": auth_type},
        users=[{"name": "postgres", "password": "right"}],
    )
    async with other:
        for user, password, database in (
            ("postgres", "wrong", "postgres"),
            ("nobody", "right", "postgres"),
            ("postgres", "right", "nothing"),
        ):
            with pytest.raises(psycopg.OperationalError) as caught:
                await psycopg.AsyncConnection.connect(
                    f"host=127.0.0.1 port={other.port} user={user} password={password} dbname={database}"
                    " sslmode=disable"
                )
            assert f'FATAL:  password authentication failed for user "{user}"' in str(caught.value)
        with pytest.raises(psycopg.OperationalError, match="fe_sendauth: no password supplied"):
            await psycopg.AsyncConnection.connect(
                f"host=127.0.0.1 port={other.port} user=postgres dbname=postgres sslmode=disable passfile=/dev/null"
            )
        await other.nobody_left()


# -- after the log-in --------------------------------------------------------------------------------------

AFTER_LOG_IN = {
    "an unknown type": raw_message("y", b""),
    "a type of zero": b"\0\0\0\0\4",
    "a type of 255": b"\xff\0\0\0\4",
    "a server's message": raw_message("Z", b"I"),
    "a password": raw_message("p", b"secret\0"),
    "a second start-up packet": startup_packet("postgres", "postgres"),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "length 3": b"Q\0\0\0\3",
    "length 0": b"Q\0\0\0\0",
    "length 1 of a sync": b"S\0\0\0\1",
    "a negative length": b"Q\x80\0\0\0",
    "the greatest length": b"Q\xff\xff\xff\xff",
    "a length beyond all limits": b"Q\x7f\xff\xff\xff",
    "a sync of 20000 bytes": b"S" + length_word(20000) + bytes(19996),
    "a describe of 20000 bytes": b"D" + length_word(20000) + b"S" + bytes(19995),
    "bad behind good": query("SELECT 1") + b"Q\0\0\0\3",
    "bad behind an open transaction": query("BEGIN") + b"?\0\0\0\4",
    "bad in a pipeline": messages.parse("", "SELECT 1") + b"?\0\0\0\4" + SYNC,
    "bad in COPY": query("CREATE TEMP TABLE t (i int); COPY t FROM STDIN") + b"?\0\0\0\4",
    "a length of 2 in COPY": query("CREATE TEMP TABLE t (i int); COPY t FROM STDIN") + b"d\0\0\0\2",
    "terminate with a body": raw_message("X", b"body"),
    "two terminates": messages.TERMINATE * 2,
}


def _without_reset(messages_heard: list[Message]) -> list[Message]:
    """A server that hangs up on unread bytes resets the connection, and its last words may be lost with it."""
    return [message for message in messages_heard if message.kind != ord("E")]


@pytest.mark.parametrize("name", AFTER_LOG_IN)
async def test_after_the_log_in(name: str, proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    sent = AFTER_LOG_IN[name]
    answers: list[list[Message]] = []
    for host, port in ((pg18.host, pg18.port), ("127.0.0.1", proxy.port)):
        async with await Wire.login(host, port, "postgres") as wire:
            wire.send(sent)
            answers.append(split(await wire.until_closed()))
    direct, through = answers
    if through != direct:
        assert _without_reset(through) == _without_reset(direct)
        assert len(sent) > 5, "nothing was left unread, so nothing may be missing"
    await proxy.nobody_left()


async def test_bad_input_of_a_client_that_is_held(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """It is told when it is let go, as if it had not been held."""
    for name in ("length 3", "an unknown type", "a length beyond all limits", "bad behind good", "bad in COPY"):
        async with await Wire.login(pg18.host, pg18.port, "postgres") as wire:
            wire.send(AFTER_LOG_IN[name])
            direct = split(await wire.until_closed())
        async with await Wire.login("127.0.0.1", proxy.port, "postgres") as wire:
            await proxy.command("PAUSE postgres")
            try:
                wire.send(AFTER_LOG_IN[name])
                await eventually(lambda: _state_is(proxy, "waiting"), f"the client to wait: {name}")
            finally:
                await proxy.command("RESUME postgres")
            assert split(await wire.until_closed()) == direct, name
        await proxy.nobody_left()


async def _state_is(proxy: PlainProxy, state: str) -> bool:
    return [client["state"] for client in await proxy.clients()] == [state]


async def test_a_message_that_never_ends(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """200 MB are announced and little is sent: it costs the daemon nothing, and ends with the client."""
    before = proxy.resident_bytes()
    wires = [await Wire.login("127.0.0.1", proxy.port, "postgres") for _ in range(10)]
    for wire in wires:
        wire.send(b"Q" + length_word(200 * MIB) + b"SELECT" * 1000)
    await eventually(lambda: _active(proxy, 10), "ten clients in the middle of a message")
    assert proxy.resident_bytes() - before < 4 * MIB
    for wire in wires:
        wire.reset()
    await proxy.nobody_left()
    await eventually(lambda: _backends_gone(pg18, [wire.pid for wire in wires]), "their backends to leave")


async def _active(proxy: PlainProxy, count: int) -> bool:
    return [client["state"] for client in await proxy.clients()] == ["active"] * count


async def _backends_gone(server: EmbeddedPostgres, pids: list[int]) -> bool:
    return not await run_sql(server, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = ANY ($1)", pids)


# -- a great deal of it ------------------------------------------------------------------------------------


def noise(dice: random.Random) -> bytes:
    """Random bytes, or messages with random contents, or good messages with a few bytes changed."""
    match dice.randrange(3):
        case 0:
            return dice.randbytes(dice.randint(1, 300))
        case 1:
            return b"".join(
                raw_message(chr(dice.choice(b"BCDEFHPQSdcfp")), dice.randbytes(dice.randint(0, 40)))
                for _ in range(dice.randint(1, 6))
            )
        case _:
            good = bytearray(
                messages.parse("s", "SELECT $1::int")
                + messages.bind("", "s", ["1"])
                + messages.execute("")
                + SYNC
                + query("SELECT 1")
            )
            for _ in range(dice.randint(1, 4)):
                good[dice.randrange(len(good))] = dice.randrange(256)
            return bytes(good)


async def test_noise(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """Hundreds of clients that talk nonsense, before and after the log-in: no trace of them is left."""
    await proxy.nobody_left()
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    neighbour = await Wire.login("127.0.0.1", proxy.port, "postgres")
    sizes = []
    for _ in range(2):
        for _ in range(8):
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(_talk_nonsense(proxy, noise(dice), logged_in=dice.random() < 0.7))
        assert await neighbour.value("SELECT 1") == "1", f"seed {seed}"
        sizes.append(proxy.resident_bytes())
    assert sizes[1] - sizes[0] < 4 * MIB, f"seed {seed}: it grows, {sizes}"
    await neighbour.close()
    await proxy.nobody_left()
    assert proxy.faults() == [], f"seed {seed}"
    await eventually(lambda: _quiet_server(pg18), f"no backend to be left, seed {seed}")


async def _talk_nonsense(proxy: PlainProxy, nonsense: bytes, *, logged_in: bool) -> None:
    wire = await Wire.open("127.0.0.1", proxy.port)
    if logged_in:
        wire.send(startup_packet("postgres", "postgres"))
        await wire.until_ready()
    wire.send(nonsense)
    try:
        await wire.until_closed(timeout_s=0.2)
    except TimeoutError:
        wire.reset()  # it was not bad enough, or only the beginning of something
    await wire.close()


async def _quiet_server(server: EmbeddedPostgres) -> bool:
    return not await run_sql(
        server,
        "postgres",
        "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
