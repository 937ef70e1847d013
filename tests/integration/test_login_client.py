"""accept_client with real drivers and with hand-written bytes, compared with what PostgreSQL 18 answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncpg
import psycopg
import pytest

from config.model import AuthType
from daemon.demo.embedded import EmbeddedPostgres
from proxy.errors import InvalidPassword, LoginTimeout, PeerClosed, ProxyError, TooManyConnections
from proxy.net.client_login import ClientCredential, LoginSettings
from proxy.net.link_login import LinkTarget, OpenedLink, open_link
from proxy.wire import messages, scram
from proxy.wire.codes import PROTOCOL_3_0, PROTOCOL_3_2, AuthRequest
from proxy.wire.md5 import md5_response, md5_secret
from proxy.wire.scram import ScramClient, ScramVerifier, derive_keys
from proxy.wire.startup import StartupParameters
from tests.support.databases import run_sql
from tests.support.greeter import Greeter
from tests.support.loops import both_loops
from tests.support.wait import eventually

PSQL = shutil.which("psql") or "psql"
DEADLINE_S = 10.0
PASSWORD = "se cret=✓"


def _verifier(password: str) -> str:
    from base64 import b64encode

    verifier = ScramVerifier.from_password(password, b"sixteen byte salt", 4096)
    salt, stored, server = (
        b64encode(part).decode() for part in (verifier.salt, verifier.stored_key, verifier.server_key)
    )
    return f"SCRAM-SHA-256${verifier.iterations}:{salt}${stored}:{server}"


SECRETS = {
    "plain": PASSWORD,
    "verifier": _verifier(PASSWORD),
    "md5": md5_secret("alice", PASSWORD),
}
# What an administrator can combine: pg_hba.conf's words on the left, forms of rolpassword on the right.
WORKING = [
    (AuthType.SCRAM, "plain"),
    (AuthType.SCRAM, "verifier"),
    (AuthType.MD5, "plain"),
    (AuthType.MD5, "md5"),
    (AuthType.MD5, "verifier"),
    (AuthType.PLAIN, "plain"),
    (AuthType.PLAIN, "verifier"),
    (AuthType.PLAIN, "md5"),
    (AuthType.TRUST, "plain"),
]


def settings(auth_type: AuthType = AuthType.SCRAM, secret: str | None = PASSWORD, **changes: Any) -> LoginSettings:
    def lookup(database: str, user: str) -> ClientCredential | None:
        return ClientCredential(secret) if (database, user) == ("app", "alice") else None

    made = LoginSettings(lookup, auth_type, timeout_s=DEADLINE_S, database_exists=lambda name: name == "app")
    return replace(made, **changes)


# -- drivers ----------------------------------------------------------------------------


async def by_psql(greeter: Greeter, user: str, password: str, database: str) -> str:
    process = await asyncio.create_subprocess_exec(
        PSQL,
        "-XAtqw",
        f"host={greeter.host} port={greeter.port} user={user} dbname={database} application_name=here",
        "-c",
        "anything",
        env={**os.environ, "PGPASSWORD": password},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise ConnectionError(err.decode())
    return out.decode().strip()


async def by_psycopg(greeter: Greeter, user: str, password: str, database: str) -> str:
    connection = await psycopg.AsyncConnection.connect(
        host=greeter.host,
        port=greeter.port,
        user=user,
        password=password,
        dbname=database,
        application_name="here",
        connect_timeout=int(DEADLINE_S),
        autocommit=True,
    )
    async with connection:
        result = await asyncio.to_thread(connection.pgconn.exec_, b"anything")
        return "|".join((result.get_value(0, column) or b"").decode() for column in range(result.nfields))


async def by_asyncpg(greeter: Greeter, user: str, password: str, database: str) -> str:
    connection = await asyncpg.connect(
        host=greeter.host,
        port=greeter.port,
        user=user,
        password=password,
        database=database,
        ssl=False,
        timeout=DEADLINE_S,
        server_settings={"application_name": "here"},
    )
    try:
        assert connection.get_server_pid() == 4711
    finally:
        connection.terminate()
    return f"{user}|{database}||none|here"


DRIVERS = [by_psql, by_psycopg, by_asyncpg]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("auth_type", "secret"), WORKING)
@both_loops
async def test_drivers_log_in(driver: Callable[..., Any], auth_type: AuthType, secret: str) -> None:
    async with Greeter(settings(auth_type, SECRETS[secret])) as greeter:
        assert await driver(greeter, "alice", PASSWORD, "app") == "alice|app||none|here"
        (login,) = greeter.logins
        assert (login.user, login.database, login.application_name) == ("alice", "app", "here")
        assert (login.replication, login.tls) == ("none", "")
        assert login.startup.get("user") == "alice"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("auth_type", "secret"), [pair for pair in WORKING if pair[0] is not AuthType.TRUST])
@both_loops
async def test_drivers_are_told_that_the_password_is_wrong(
    driver: Callable[..., Any], auth_type: AuthType, secret: str
) -> None:
    async with Greeter(settings(auth_type, SECRETS[secret])) as greeter:
        with pytest.raises(
            (ConnectionError, psycopg.OperationalError, asyncpg.InvalidPasswordError),
            match='password authentication failed for user "alice"',
        ):
            await driver(greeter, "alice", "wrong", "app")
        assert greeter.logins == []
        (error,) = greeter.errors
        assert isinstance(error, InvalidPassword)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("auth_type", [AuthType.SCRAM, AuthType.MD5, AuthType.PLAIN])
@pytest.mark.parametrize(("user", "database"), [("nobody", "app"), ("alice", "nowhere")])
@both_loops
async def test_unknown_users_and_pairs_fail_like_a_wrong_password(
    driver: Callable[..., Any], auth_type: AuthType, user: str, database: str
) -> None:
    async with Greeter(settings(auth_type)) as greeter:
        with pytest.raises(
            (ConnectionError, psycopg.OperationalError, asyncpg.InvalidPasswordError),
            match=f'password authentication failed for user "{user}"',
        ):
            await driver(greeter, user, PASSWORD, database)


@pytest.mark.parametrize("auth_type", [AuthType.SCRAM, AuthType.PLAIN])
@both_loops
async def test_a_user_without_a_secret_of_the_right_kind_cannot_log_in(
    auth_type: AuthType,
) -> None:
    for secret in [None] if auth_type is AuthType.PLAIN else [None, SECRETS["md5"]]:
        async with Greeter(settings(auth_type, secret)) as greeter:
            with pytest.raises(ConnectionError, match="password authentication failed"):
                await by_psql(greeter, "alice", PASSWORD, "app")


# -- hand-written bytes ----------------------------------------------------------------------------


class Wire:
    """A client that says what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *raw: bytes) -> None:
        self.writer.write(b"".join(raw))

    async def message(self) -> tuple[str, bytes]:
        async with asyncio.timeout(DEADLINE_S):
            head = await self.reader.readexactly(5)
            return chr(head[0]), await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4)

    async def authentication(self) -> tuple[int, bytes]:
        kind, body = await self.message()
        assert kind == "R", (kind, body)
        return messages.decode_authentication(body)

    async def rest(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def wire(server: Greeter | EmbeddedPostgres) -> Any:
    found = Wire(*await asyncio.open_connection(server.host, server.port))
    try:
        yield found
    finally:
        await found.close()


def packet(protocol: int = PROTOCOL_3_0, **parameters: str) -> bytes:
    return StartupParameters(protocol, ()).with_changes(extra=parameters).encode()


ALICE = packet(user="alice", database="app")


def raw_startup(code: int, body: bytes) -> bytes:
    return (len(body) + 8).to_bytes(4, "big") + code.to_bytes(4, "big") + body


def fields_of(raw: bytes) -> dict[str, str]:
    """What a client is told; file, line and routine are PostgreSQL's own business."""
    assert raw[:1] == b"E", raw
    if raw.startswith(b"EFATAL:  "):  # the format of protocol 2
        return {"old": raw.decode()}
    found = messages.error_fields(raw[5:])
    return {key: found[key].decode() for key in "SVCMDH" if key in found}


# user= and database= are those of the greeter; PostgreSQL has them too (see the fixture).
SAME_AS_POSTGRESQL = {
    "protocol 2.0": raw_startup(2 << 16, b"alice\0"),
    "protocol 4.1": raw_startup(4 << 16 | 1, b"user\0alice\0\0"),
    "letters": b"\0\0\0\x0cGET / HT",
    "no terminator": raw_startup(PROTOCOL_3_0, b"user\0alice\0database\0app\0"),
    "more behind the terminator": raw_startup(PROTOCOL_3_0, b"user\0alice\0\0database\0app\0\0"),
    "a name without a value": raw_startup(PROTOCOL_3_0, b"user\0"),
    "nothing in it": raw_startup(PROTOCOL_3_0, b"\0"),
    "an empty user": packet(user="", database="app"),
    "replication is neither": packet(user="alice", database="app", replication="perhaps"),
    "a second SSLRequest": messages.SSL_REQUEST,  # sent behind a first one, see below
}


@pytest.fixture(scope="module")
def alice18(pg18: EmbeddedPostgres) -> EmbeddedPostgres:
    async def prepare() -> None:
        secret = SECRETS["verifier"]
        await run_sql(pg18, "postgres", f"CREATE ROLE alice LOGIN PASSWORD '{secret}'")
        await run_sql(pg18, "postgres", "CREATE DATABASE app")

    asyncio.run(prepare())
    return pg18


async def _answer_to(server: Greeter | EmbeddedPostgres, name: str) -> bytes:
    async with wire(server) as client:
        if name == "a second SSLRequest":
            client.send(messages.SSL_REQUEST)
            assert await client.reader.readexactly(1) == b"N"
        client.send(SAME_AS_POSTGRESQL[name])
        answer: bytes = await client.rest()
        return answer


@pytest.mark.parametrize("name", SAME_AS_POSTGRESQL)
@both_loops
async def test_a_bad_start_up_packet_gets_the_answer_of_postgresql(name: str, alice18: EmbeddedPostgres) -> None:
    async with Greeter(settings()) as greeter:
        ours = fields_of(await _answer_to(greeter, name))
        assert ours == fields_of(await _answer_to(alice18, name))
        assert ours.get("S") == "FATAL" or (name, *ours) == ("protocol 2.0", "old")
        (error,) = greeter.errors
        assert error.sqlstate == ours.get("C", "0A000")


@pytest.mark.parametrize("length", [0, 7, 10_005, 0x7FFFFFFF, 0xFFFFFFFF])
@both_loops
async def test_an_impossible_length_is_named(length: int) -> None:
    """PostgreSQL only logs this one; saying it helps whoever points the wrong program at this port."""
    async with Greeter(settings()) as greeter, wire(greeter) as client:
        client.send(length.to_bytes(4, "big"), b"x" * 50_000)
        fields = fields_of(await client.rest())
        assert (fields["C"], fields["M"]) == ("08P01", "invalid length of startup packet")


@pytest.mark.parametrize("request_", [messages.SSL_REQUEST, messages.GSSENC_REQUEST])
@both_loops
async def test_bytes_behind_a_request_for_encryption_are_refused(request_: bytes) -> None:
    async with Greeter(settings()) as greeter, wire(greeter) as client:
        client.send(request_, ALICE)
        fields = fields_of(await client.rest())
        assert fields["C"] == "08P01"
        assert fields["M"].startswith("received unencrypted data after")
        assert greeter.logins == []


@both_loops
async def test_requests_for_encryption_are_answered_in_either_order(alice18: EmbeddedPostgres) -> None:
    for requests in (
        [messages.SSL_REQUEST, messages.GSSENC_REQUEST],
        [messages.GSSENC_REQUEST, messages.SSL_REQUEST],
    ):
        async with Greeter(settings()) as greeter:
            for server in (greeter, alice18):
                async with wire(server) as client:
                    for request in requests:
                        client.send(request)
                        assert await client.reader.readexactly(1) == b"N"
                    client.send(ALICE)
                    assert (await client.authentication())[0] == AuthRequest.SASL


NEGOTIATED = {
    "3.0": packet(PROTOCOL_3_0, user="alice", database="app"),
    "3.1": packet(PROTOCOL_3_0 + 1, user="alice", database="app"),
    "3.2": packet(PROTOCOL_3_2, user="alice", database="app"),
    "3.3": packet(PROTOCOL_3_2 + 1, user="alice", database="app"),
    "3.9999": packet(3 << 16 | 9999, user="alice", database="app"),
    "options": packet(PROTOCOL_3_0, **{"_pq_.a": "1", "user": "alice", "_pq_.b": "", "database": "app"}),
    "both": packet(3 << 16 | 9999, **{"user": "alice", "database": "app", "_pq_.test_protocol_negotiation": ""}),
}


@pytest.mark.parametrize("name", NEGOTIATED)
@both_loops
async def test_versions_are_negotiated_as_postgresql_18_does(name: str, alice18: EmbeddedPostgres) -> None:
    async with Greeter(settings()) as greeter:
        answers = []
        for server in (greeter, alice18):
            async with wire(server) as client:
                client.send(NEGOTIATED[name])
                answers.append([await client.message() for _ in range(2 if name not in ("3.0", "3.1", "3.2") else 1)])
        assert answers[0] == answers[1]
        assert answers[0][-1][0] == "R"


@both_loops
async def test_what_was_negotiated_away_is_not_sent_on() -> None:
    async with Greeter(settings(AuthType.TRUST)) as greeter, wire(greeter) as client:
        client.send(NEGOTIATED["both"])
        await eventually(lambda: greeter.logins, "the log-in")
        startup = greeter.logins[0].startup
        assert startup.protocol == PROTOCOL_3_2
        assert startup.parameters == ((b"user", b"alice"), (b"database", b"app"))


BAD_PASSWORD_MESSAGES = {
    "another message": messages.query("select 1"),
    "terminate": messages.TERMINATE,
    "unknown mechanism": messages.sasl_initial_response("PLAIN", b"x"),
    "plus without TLS": messages.sasl_initial_response("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"),
    "no channel-binding flag": messages.sasl_initial_response("SCRAM-SHA-256", b"x,,n=,r=abc"),
    "binding data without plus": messages.sasl_initial_response("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abc"),
    "authorization identity": messages.sasl_initial_response("SCRAM-SHA-256", b"n,a=root,n=,r=abc"),
    "mandatory extension": messages.sasl_initial_response("SCRAM-SHA-256", b"n,,m=x,n=,r=abc"),
    "unprintable nonce": messages.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=a\x01c"),
    "empty first message": messages.sasl_initial_response("SCRAM-SHA-256", b""),
}


@pytest.mark.parametrize("name", BAD_PASSWORD_MESSAGES)
@both_loops
async def test_a_bad_sasl_message_gets_the_sqlstate_and_text_of_postgresql(
    name: str, alice18: EmbeddedPostgres
) -> None:
    async with Greeter(settings()) as greeter:
        answers = []
        for server in (greeter, alice18):
            async with wire(server) as client:
                client.send(ALICE)
                assert (await client.authentication())[0] == AuthRequest.SASL
                client.send(BAD_PASSWORD_MESSAGES[name])
                fields = fields_of(await client.rest())
                answers.append((fields["S"], fields["C"], fields["M"]))
        assert answers[0] == answers[1]


@both_loops
async def test_a_sasl_dialogue_with_an_empty_start(alice18: EmbeddedPostgres) -> None:
    """The client may name its mechanism first and say its first message when it is challenged (RFC 4422)."""
    async with Greeter(settings(secret=SECRETS["verifier"])) as greeter:
        for server in (greeter, alice18):
            async with wire(server) as client:
                client.send(ALICE)
                await client.authentication()
                exchange = ScramClient(["SCRAM-SHA-256"], b"n" * 18)
                client.send(messages.message(ord("p"), b"SCRAM-SHA-256\0\xff\xff\xff\xff"))
                assert await client.authentication() == (AuthRequest.SASL_CONTINUE, b"")
                client.send(messages.sasl_response(exchange.first()))
                exchange.challenge((await client.authentication())[1])
                client.send(messages.sasl_response(exchange.final(_keys(exchange))))
                exchange.verify((await client.authentication())[1])
                assert await client.authentication() == (AuthRequest.OK, b"")


def _keys(exchange: ScramClient) -> scram.ScramKeys:
    return derive_keys(PASSWORD, exchange.salt, exchange.iterations)


async def _scram_transcript(greeter: Greeter, user: str) -> tuple[list[tuple[str, int]], bytes, int, dict[str, str]]:
    """What a stranger sees of a failing log-in: kinds and sizes of messages, salt, iterations, the error."""
    async with wire(greeter) as client:
        client.send(packet(user=user, database="app"))
        seen = [("sasl", len((await client.authentication())[1]))]
        exchange = ScramClient(["SCRAM-SHA-256"], b"n" * 18)
        client.send(messages.sasl_initial_response(exchange.mechanism, exchange.first()))
        _, challenge = await client.authentication()
        seen.append(("challenge", len(challenge)))
        exchange.challenge(challenge)
        client.send(messages.sasl_response(exchange.final(derive_keys("wrong", exchange.salt, exchange.iterations))))
        fields = fields_of(await client.rest())
        fields["M"] = fields["M"].replace(user, "somebody")
        return seen, exchange.salt, exchange.iterations, fields


@both_loops
async def test_a_stranger_cannot_tell_who_exists() -> None:
    async with Greeter(settings()) as greeter:
        known, unknown = [await _scram_transcript(greeter, user) for user in ("alice", "nobody")]
        again = await _scram_transcript(greeter, "nobody")
    assert (known[0], known[2], known[3]) == (unknown[0], unknown[2], unknown[3])
    assert known[1] != unknown[1]
    assert again[1] == unknown[1]  # a salt that changed each time would betray that there is no user


@both_loops
async def test_md5_by_hand_and_malformed_password_messages() -> None:
    async with Greeter(settings(AuthType.MD5)) as greeter:
        async with wire(greeter) as client:
            client.send(ALICE)
            request, salt = await client.authentication()
            assert request == AuthRequest.MD5_PASSWORD
            client.send(messages.password_message(md5_response("alice", PASSWORD, salt)))
            assert await client.authentication() == (AuthRequest.OK, b"")
        for raw, sqlstate, text in (
            (messages.password_message(""), "28P01", "empty password returned by client"),
            (messages.message(ord("p"), b"no end"), "08P01", "invalid password packet size"),
            (messages.message(ord("p"), b"a\0b\0"), "08P01", "invalid password packet size"),
            (messages.SYNC, "08P01", "expected password response, got message type 83"),
            (b"p" + (70_000).to_bytes(4, "big"), "08P01", "invalid message length"),
        ):
            async with wire(greeter) as client:
                client.send(ALICE)
                await client.authentication()
                client.send(raw)
                fields = fields_of(await client.rest())
                assert (fields["C"], fields["M"]) == (sqlstate, text)


@both_loops
async def test_a_log_in_that_arrives_byte_by_byte() -> None:
    async with Greeter(settings(AuthType.PLAIN)) as greeter, wire(greeter) as client:
        for byte in ALICE + messages.password_message(PASSWORD):
            client.send(bytes((byte,)))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.authentication())[0] == AuthRequest.CLEARTEXT_PASSWORD
        assert await client.authentication() == (AuthRequest.OK, b"")


@both_loops
async def test_a_cancel_request_is_handed_over_and_never_answered() -> None:
    async with Greeter(settings()) as greeter:
        for key in (b"1234", b"k" * 256):
            async with wire(greeter) as client:
                client.send(messages.cancel_request(42, key))
                assert await client.rest() == b""
        assert [(cancel.pid, cancel.key) for cancel in greeter.cancels] == [(42, b"1234"), (42, b"k" * 256)]


# -- who is let in ----------------------------------------------------------------------------


async def _refusal(greeter: Greeter, raw: bytes = ALICE) -> tuple[str, str]:
    async with wire(greeter) as client:
        client.send(raw)
        answer = await client.rest()
        fields = fields_of(answer[answer.index(b"E") :] if answer[:1] == b"R" else answer)
        return fields["C"], fields["M"]


@both_loops
async def test_trust_names_what_is_unknown() -> None:
    async with Greeter(settings(AuthType.TRUST)) as greeter:
        nobody = packet(user="nobody", database="app")
        assert await _refusal(greeter, nobody) == ("28000", 'role "nobody" does not exist')
        nowhere = packet(user="alice", database="nowhere")
        assert await _refusal(greeter, nowhere) == ("3D000", 'database "nowhere" does not exist')


@both_loops
async def test_an_unknown_database_is_named_once_the_client_has_proved_itself() -> None:
    everywhere = settings(lookup=lambda database, user: ClientCredential(PASSWORD))
    async with Greeter(everywhere) as greeter:
        with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
            await by_psycopg(greeter, "alice", PASSWORD, "nowhere")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await by_psycopg(greeter, "alice", "wrong", "nowhere")


@both_loops
async def test_a_limit_turns_clients_away_before_they_authenticate() -> None:
    def refuse(user: str, database: str) -> ProxyError | None:
        return TooManyConnections() if user == "alice" else None

    async with Greeter(settings(refuse=refuse)) as greeter:
        assert await _refusal(greeter) == ("53300", "sorry, too many clients already")
        async with wire(greeter) as client:
            client.send(packet(user="admin", database="admin"))
            assert (await client.authentication())[0] == AuthRequest.SASL


@both_loops
async def test_a_user_can_have_a_method_of_its_own() -> None:
    def lookup(database: str, user: str) -> ClientCredential | None:
        return ClientCredential(PASSWORD, AuthType.SCRAM) if user == "admin" else ClientCredential(None)

    async with Greeter(settings(AuthType.TRUST, lookup=lookup)) as greeter:
        assert await by_psycopg(greeter, "alice", "", "app") == "alice|app||none|here"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await by_psycopg(greeter, "admin", "wrong", "app")


@both_loops
async def test_a_lookup_may_take_its_time() -> None:
    async def lookup(database: str, user: str) -> ClientCredential | None:
        await asyncio.sleep(0.01)
        return ClientCredential(PASSWORD)

    async with Greeter(settings(lookup=lookup)) as greeter:
        assert await by_psycopg(greeter, "alice", PASSWORD, "app") == "alice|app||none|here"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "none"),
        ("database", "logical"),
        *((word, "physical") for word in ("true", "1", "on", "yes", "t", "Y", "TRUE")),
        *((word, "none") for word in ("false", "0", "off", "no", "f", "of", "N")),
    ],
)
@both_loops
async def test_replication_is_recognised(value: str | None, expected: str) -> None:
    parameters = {"user": "alice", "database": "app"} | ({} if value is None else {"replication": value})
    async with Greeter(settings(AuthType.TRUST)) as greeter, wire(greeter) as client:
        client.send(packet(PROTOCOL_3_0, **parameters))
        await eventually(lambda: greeter.logins, "the log-in")
        assert greeter.logins[0].replication == expected


@both_loops
async def test_the_database_defaults_to_the_user_and_long_names_are_cut() -> None:
    anybody = settings(AuthType.TRUST, lookup=lambda *_: ClientCredential(None), database_exists=lambda _: True)
    async with Greeter(anybody) as greeter:
        for sent, expected in (("bob", "bob"), ("x" * 80, "x" * 63)):
            async with wire(greeter) as client:
                client.send(packet(user=sent))
                await eventually(lambda: greeter.logins, "the log-in")
                login = greeter.logins.pop()
                assert (login.user, login.database) == (expected, expected)
                assert login.startup.get("user") == sent


@both_loops
async def test_keys_of_a_scram_log_in_open_a_link_to_a_server_with_the_same_verifier(
    alice18: EmbeddedPostgres,
) -> None:
    target = LinkTarget("app", alice18.host, alice18.port, "app")
    for auth_type in (AuthType.SCRAM, AuthType.PLAIN):
        async with Greeter(settings(auth_type, SECRETS["verifier"])) as greeter:
            await by_psycopg(greeter, "alice", PASSWORD, "app")
            login = greeter.logins[0]
            assert login.scram_keys is not None
            opened: OpenedLink = await open_link(target, login.startup, "alice", login.scram_keys, DEADLINE_S)
            opened.transport.abort()
            assert opened.parameters[b"application_name"] == b"here"


# -- clients that stop ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [b"", b"\0", ALICE[:3], ALICE[:9], ALICE[:-1], messages.SSL_REQUEST, ALICE, ALICE + b"p\0\0"],
    ids=[
        "nothing",
        "one byte",
        "part of the length",
        "part",
        "all but one",
        "SSLRequest",
        "startup",
        "half answer",
    ],
)
@both_loops
async def test_a_client_that_stops_talking_is_closed_without_a_word(sent: bytes) -> None:
    async with Greeter(settings(timeout_s=0.3)) as greeter, wire(greeter) as client:
        client.send(sent)
        answer = await client.rest()
        assert b"E" not in answer[:1]
        (error,) = greeter.errors
        assert isinstance(error, LoginTimeout)
        assert (error.sqlstate, error.message) == ("57014", "canceling authentication due to timeout")
        await eventually(lambda: greeter.listener.connections == 0, "the connection's task to end")


@pytest.mark.parametrize("sent", [b"", ALICE[:9], messages.SSL_REQUEST, ALICE, ALICE + b"p\0\0"])
@both_loops
async def test_a_client_that_hangs_up_leaves_nothing_behind(sent: bytes) -> None:
    async with Greeter(settings()) as greeter:
        async with wire(greeter) as client:
            client.send(sent)
            await client.writer.drain()
            await eventually(lambda: greeter.listener.connections == 1, "the connection's task to begin")
        await eventually(lambda: greeter.listener.connections == 0, "the connection's task to end")
        (error,) = greeter.errors
        assert isinstance(error, PeerClosed)
        assert error.log_level == "debug"


@both_loops
async def test_passwords_are_derived_once_for_a_crowd_and_cost_the_loop_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 clients with a password nobody has used yet: PBKDF2 runs in a thread, the loop goes on turning."""
    derived: list[str] = []

    def counting(password: str, salt: bytes, iterations: int) -> scram.ScramKeys:
        if not scram.keys_are_known(password, salt, iterations):
            derived.append(threading.current_thread().name)
        return derive_keys(password, salt, iterations)

    monkeypatch.setattr(scram, "derive_keys", counting)
    fresh = f"never used before {os.urandom(8).hex()}"
    async with Greeter(settings(secret=fresh)) as greeter:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())

        async def log_in() -> None:
            async with wire(greeter) as client:
                client.send(ALICE)
                await client.authentication()
                exchange = ScramClient(["SCRAM-SHA-256"], b"n" * 18)
                client.send(messages.sasl_initial_response(exchange.mechanism, exchange.first()))
                exchange.challenge((await client.authentication())[1])
                keys = derive_keys(fresh, exchange.salt, exchange.iterations)  # known by now
                client.send(messages.sasl_response(exchange.final(keys)))
                exchange.verify((await client.authentication())[1])
                assert (await client.authentication())[0] == AuthRequest.OK

        await asyncio.gather(*(log_in() for _ in range(64)))
        ticking.cancel()
        assert len(greeter.logins) == 64
        assert ticks > 0
        assert len(derived) == 1
        assert derived[0] != threading.main_thread().name


def test_secrets_are_not_shown() -> None:
    shown = repr(settings()) + repr(ClientCredential(PASSWORD)) + repr(derive_keys(PASSWORD, b"salt", 1))
    assert PASSWORD not in shown
    assert repr(derive_keys(PASSWORD, b"salt", 1).client_key) not in shown
