"""open_link against real servers: every method of authentication, what arrives, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import pytest

from config.model import SslMode
from daemon.demo.embedded import EmbeddedPostgres
from proxy.errors import ProxyError
from proxy.net.cancel import send_cancel
from proxy.net.link_login import LinkRefused, LinkTarget, LinkUnreachable, OpenedLink, open_link
from proxy.net.port import HandshakePort
from proxy.wire import messages
from proxy.wire.codes import PROTOCOL_3_0, PROTOCOL_3_2, ServerMessage
from proxy.wire.framing import messages_in
from proxy.wire.scram import ScramVerifier, derive_keys
from proxy.wire.startup import StartupParameters
from tests.support.databases import run_sql
from tests.support.loops import both_loops
from tests.support.wait import eventually

PASSWORD = "sécret, =pass"
TIMEOUT_S = 10.0
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Roles:
    """Roles of one server; the names say how pg_hba.conf lets them in (tests/conftest.py)."""

    server: EmbeddedPostgres
    number: int

    def name(self, method: str) -> str:
        return f"{method}_link_{self.number}"

    @property
    def target(self) -> LinkTarget:
        return LinkTarget("app", self.server.host, self.server.port, "postgres", SslMode.DISABLE)


@pytest.fixture(params=[16, 18])
def roles(request: pytest.FixtureRequest) -> Iterator[Roles]:
    server: EmbeddedPostgres = request.getfixturevalue(f"pg{request.param}")
    found = Roles(server, next(_numbers))
    statements = []
    for method in ("trust", "plain", "scram", "few", "md5"):
        statements += [
            f"SET password_encryption = '{'md5' if method == 'md5' else 'scram-sha-256'}'",
            f"SET scram_iterations = {7 if method == 'few' else 4096}",
            f"CREATE ROLE {found.name(method)} LOGIN PASSWORD '{PASSWORD}'",
        ]
    asyncio.run(run_sql(server, "postgres", ";".join(statements)))
    yield found
    drops = [f"DROP ROLE {found.name(method)}" for method in ("trust", "plain", "scram", "few", "md5")]
    asyncio.run(run_sql(server, "postgres", ";".join(drops)))


def startup(protocol: int = PROTOCOL_3_0, **parameters: str) -> StartupParameters:
    packet = StartupParameters(protocol, ((b"user", b"client"), (b"database", b"what the client calls it")))
    return packet.with_changes(extra=parameters)


async def ask(opened: OpenedLink, sql: str) -> list[list[bytes | None]]:
    """Run a query on an opened link, the way its new owner would take it over."""
    port = HandshakePort()
    port.connection_made(opened.transport)
    opened.transport.set_protocol(port)
    port.data_received(opened.leftover)
    opened.transport.resume_reading()
    port.write(messages.query(sql))
    rows = []
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            kind, body = await port.read_message(1024 * 1024)
            if kind == ServerMessage.DATA_ROW:
                rows.append(messages.decode_data_row(body))
            elif kind == ServerMessage.ERROR_RESPONSE:
                raise AssertionError(messages.error_text(body))
            elif kind == ServerMessage.READY_FOR_QUERY:
                return rows


async def one(opened: OpenedLink, sql: str) -> str:
    ((value,),) = await ask(opened, sql)
    assert value is not None
    return value.decode()


@pytest.mark.parametrize("method", ["trust", "plain", "scram", "few", "md5"])
@both_loops
async def test_each_method_logs_in(roles: Roles, method: str) -> None:
    user = roles.name(method)
    opened = await open_link(roles.target, startup(), user, PASSWORD, TIMEOUT_S)
    try:
        assert opened.tls == ""
        assert opened.protocol == PROTOCOL_3_0
        assert opened.peer == (roles.server.host, roles.server.port)
        assert len(opened.cancel_key) == 4
        assert opened.parameters[b"server_version"].startswith(str(roles.server.major).encode())
        assert opened.parameters[b"session_authorization"] == user.encode()
        kinds = [chr(kind) for kind, _, _ in messages_in(opened.greeting)]
        assert kinds[-2:] == ["K", "Z"]
        assert set(kinds[:-2]) == {"S"}
        assert await one(opened, "SELECT pg_backend_pid()") == str(opened.backend_pid)
        assert await one(opened, "SELECT current_user") == user
        assert await one(opened, "SELECT current_database()") == "postgres"
    finally:
        opened.transport.abort()


@both_loops
async def test_the_greeting_is_what_the_server_sends_to_a_direct_client(roles: Roles) -> None:
    """All of it after AuthenticationOk, in order; only pid and key differ from session to session."""
    packet = startup(application_name="x").with_changes(user=roles.name("trust"), database="postgres")
    reader, writer = await asyncio.open_connection(roles.server.host, roles.server.port)
    writer.write(packet.encode())
    async with asyncio.timeout(TIMEOUT_S):
        direct = await reader.readuntil(messages.ready_for_query())
    writer.close()
    await writer.wait_closed()
    assert direct.startswith(messages.AUTHENTICATION_OK)
    opened = await open_link(roles.target, packet, roles.name("trust"), None, TIMEOUT_S)
    opened.transport.abort()

    def without_key(raw: bytes) -> list[bytes]:
        return [raw[start:end] for kind, start, end in messages_in(raw) if chr(kind) != "K"]

    assert without_key(opened.greeting) == without_key(direct[len(messages.AUTHENTICATION_OK) :])


@both_loops
async def test_settings_of_the_start_up_packet_are_what_reset_goes_back_to(roles: Roles) -> None:
    packet = startup(application_name="billing", options="-c work_mem=3MB", search_path="a, b")
    opened = await open_link(roles.target, packet, roles.name("scram"), PASSWORD, TIMEOUT_S)
    try:
        assert opened.parameters[b"application_name"] == b"billing"
        await ask(opened, "SET work_mem = '5MB'; SET search_path = c; RESET ALL")
        assert await one(opened, "SHOW work_mem") == "3MB"
        assert await one(opened, "SHOW search_path") == "a, b"
    finally:
        opened.transport.abort()


@both_loops
async def test_a_replication_connection(roles: Roles) -> None:
    packet = startup(replication="database")
    opened = await open_link(roles.target, packet, "postgres", None, TIMEOUT_S)
    try:
        ((system, *_, database),) = await ask(opened, "IDENTIFY_SYSTEM")
        assert system is not None
        assert int(system) > 0
        assert database == b"postgres"
    finally:
        opened.transport.abort()


@both_loops
async def test_over_a_unix_socket(roles: Roles) -> None:
    target = replace(roles.target, host=str(roles.server.socket_dir), sslmode=SslMode.VERIFY_FULL)
    opened = await open_link(target, startup(), roles.name("trust"), None, TIMEOUT_S)
    try:
        assert (opened.peer[0], opened.tls) == ("unix", "")
        assert await one(opened, "SELECT inet_server_addr() IS NULL") == "t"
    finally:
        opened.transport.abort()


@pytest.mark.parametrize("password", ["I\u00adX", "bell \u0007", "\u2168", "пароль", "日本語"])
@both_loops
async def test_passwords_beyond_ascii_are_prepared_as_postgresql_does(roles: Roles, password: str) -> None:
    user = roles.name("scram")
    quoted = password.replace("'", "''")
    await run_sql(roles.server, "postgres", f"ALTER ROLE {user} PASSWORD '{quoted}'")
    opened = await open_link(roles.target, startup(), user, password, TIMEOUT_S)
    opened.transport.abort()


@both_loops
async def test_names_beyond_ascii(roles: Roles) -> None:
    name = f'trust_größe "{roles.number}"'
    quoted = name.replace('"', '""')
    await run_sql(roles.server, "postgres", f'CREATE ROLE "{quoted}" LOGIN')
    try:
        opened = await open_link(roles.target, startup(), name, None, TIMEOUT_S)
        opened.transport.abort()
        assert opened.parameters[b"session_authorization"].decode() == name
    finally:
        await eventually(
            lambda: _gone(roles.server, opened.backend_pid), "the backend to notice that its client is gone"
        )
        await run_sql(roles.server, "postgres", f'DROP ROLE "{quoted}"')


async def _gone(server: EmbeddedPostgres, pid: int) -> bool:
    return not await run_sql(server, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid)


@pytest.mark.parametrize("method", ["plain", "scram", "md5"])
@both_loops
async def test_a_wrong_password_is_refused_in_the_servers_words(roles: Roles, method: str) -> None:
    user = roles.name(method)
    with pytest.raises(LinkRefused) as caught:
        await open_link(roles.target, startup(), user, "wrong", TIMEOUT_S)
    assert caught.value.sqlstate == "28P01"
    assert caught.value.message == f'password authentication failed for user "{user}"'
    fields = messages.error_fields(caught.value.raw_error[5:])
    assert fields["V"] == b"FATAL"
    assert fields["C"] == b"28P01"
    assert "R" in fields  # the routine: handed on as it came, not rebuilt


@both_loops
async def test_an_unknown_database_is_refused_in_the_servers_words(roles: Roles) -> None:
    target = replace(roles.target, database="nowhere")
    with pytest.raises(LinkRefused) as caught:
        await open_link(target, startup(), roles.name("trust"), None, TIMEOUT_S)
    assert caught.value.sqlstate == "3D000"
    assert caught.value.message == 'database "nowhere" does not exist'


@pytest.mark.parametrize("method", ["plain", "scram", "md5"])
@pytest.mark.parametrize("password", [None, ""])
@both_loops
async def test_no_password_where_one_is_asked_for(roles: Roles, method: str, password: str | None) -> None:
    with pytest.raises(LinkUnreachable) as caught:
        await open_link(roles.target, startup(), roles.name(method), password, TIMEOUT_S)
    assert "none is configured" in caught.value.message
    assert 'database "app"' in caught.value.message
    assert caught.value.sqlstate == "08006"


async def _stored_secret(roles: Roles, method: str) -> str:
    user = roles.name(method)
    ((secret,),) = await run_sql(roles.server, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = $1", user)
    return str(secret)


@pytest.mark.parametrize("method", ["scram", "few"])
@both_loops
async def test_scram_keys_stand_for_the_password(roles: Roles, method: str) -> None:
    verifier = ScramVerifier.parse(await _stored_secret(roles, method))
    assert verifier is not None
    keys = derive_keys(PASSWORD, verifier.salt, verifier.iterations)
    assert (keys.stored_key, keys.server_key) == (verifier.stored_key, verifier.server_key)
    opened = await open_link(roles.target, startup(), roles.name(method), keys, TIMEOUT_S)
    opened.transport.abort()


@both_loops
async def test_scram_keys_of_another_verifier_are_refused(roles: Roles) -> None:
    keys = derive_keys(PASSWORD, b"some other salt", 4096)
    with pytest.raises(LinkRefused) as caught:
        await open_link(roles.target, startup(), roles.name("scram"), keys, TIMEOUT_S)
    assert caught.value.sqlstate == "28P01"


@both_loops
async def test_a_hash_in_place_of_the_password_works_for_md5_and_is_explained_for_scram(roles: Roles) -> None:
    hashed = await _stored_secret(roles, "md5")
    opened = await open_link(roles.target, startup(), roles.name("md5"), hashed, TIMEOUT_S)
    opened.transport.abort()
    verifier = await _stored_secret(roles, "scram")
    with pytest.raises(LinkUnreachable, match="only a hash of it is configured") as caught:
        await open_link(roles.target, startup(), roles.name("scram"), verifier, TIMEOUT_S)
    assert verifier not in f"{caught.value.message} {caught.value.log_detail}"


# -- versions of the protocol ----------------------------------------------------------------------------


@both_loops
async def test_protocol_3_2_where_the_server_speaks_it(roles: Roles) -> None:
    opened = await open_link(roles.target, startup(PROTOCOL_3_2), roles.name("scram"), PASSWORD, TIMEOUT_S)
    opened.transport.abort()
    if roles.server.major >= 18:
        assert (opened.protocol, len(opened.cancel_key)) == (PROTOCOL_3_2, 32)
    else:
        assert (opened.protocol, len(opened.cancel_key)) == (PROTOCOL_3_0, 4)


@both_loops
async def test_an_unknown_protocol_option_is_negotiated_away(roles: Roles) -> None:
    packet = startup(PROTOCOL_3_0, **{"_pq_.something": "1"})
    opened = await open_link(roles.target, packet, roles.name("scram"), PASSWORD, TIMEOUT_S)
    opened.transport.abort()
    assert opened.protocol == PROTOCOL_3_0


# -- cancel ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [PROTOCOL_3_0, PROTOCOL_3_2])
@both_loops
async def test_a_cancel_request_reaches_the_backend(roles: Roles, protocol: int) -> None:
    opened = await open_link(roles.target, startup(protocol), roles.name("trust"), None, TIMEOUT_S)
    try:
        query = asyncio.create_task(ask(opened, "SELECT pg_sleep(30)"))
        await eventually(lambda: _sleeps(roles.server, opened.backend_pid), "the backend to begin its long query")
        assert await send_cancel(roles.target, opened.backend_pid, opened.cancel_key, TIMEOUT_S)
        with pytest.raises(AssertionError, match="57014"):
            await query
    finally:
        opened.transport.abort()


async def _sleeps(server: EmbeddedPostgres, pid: int) -> bool:
    rows = await run_sql(
        server, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'", pid
    )
    return bool(rows)


@both_loops
async def test_a_cancel_request_with_a_wrong_key_does_nothing(roles: Roles) -> None:
    opened = await open_link(roles.target, startup(), roles.name("trust"), None, TIMEOUT_S)
    try:
        query = asyncio.create_task(ask(opened, "SELECT pg_sleep(0.5)"))
        await send_cancel(roles.target, opened.backend_pid, b"1234", TIMEOUT_S)
        assert len(await query) == 1
    finally:
        opened.transport.abort()


# -- servers that misbehave ----------------------------------------------------------------------------


class FakeServer:
    """Takes a start-up packet, says `answers` one by one (each after it read something), then does `end`."""

    def __init__(self, *answers: bytes, end: str = "wait") -> None:
        self.answers = answers
        self.end = end
        self.asked = asyncio.Event()
        self.closed_by_peer = asyncio.Event()
        self.port = 0

    @property
    def target(self) -> LinkTarget:
        return LinkTarget("app", "127.0.0.1", self.port, "postgres", SslMode.DISABLE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for answer in self.answers:
                await reader.read(65536)
                self.asked.set()
                writer.write(answer)
            if self.end == "wait":
                while await reader.read(65536):
                    pass
        except ConnectionError:
            pass
        finally:
            self.closed_by_peer.set()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def fake_server(*answers: bytes, end: str = "wait") -> AsyncIterator[FakeServer]:
    fake = FakeServer(*answers, end=end)
    server = await asyncio.start_server(fake._serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        await server.wait_closed()


async def _fails(fake: FakeServer, timeout_s: float = 5.0) -> ProxyError:
    with pytest.raises((LinkUnreachable, LinkRefused)) as caught:
        await open_link(fake.target, startup(), "alice", PASSWORD, timeout_s)
    async with asyncio.timeout(5):
        await fake.closed_by_peer.wait()  # nothing stays open
    assert PASSWORD not in f"{caught.value.message} {caught.value.log_detail}"
    return caught.value


OK = messages.AUTHENTICATION_OK
SASL = messages.authentication_sasl(["SCRAM-SHA-256"])
READY = messages.backend_key_data(1, b"abcd") + messages.ready_for_query()


@pytest.mark.parametrize(
    ("answers", "end", "expected"),
    [
        ([], "close", "connection"),
        ([OK], "close", "connection"),
        ([OK + READY[:-1]], "close", "in the middle of a message"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "close", "invalid message length"),
        ([b"R\0\0\0\3"], "wait", "invalid message length"),
        ([b"S\x7f\xff\xff\xff"], "wait", "invalid message length"),
        ([messages.data_row(["?"])], "wait", "unexpected message type 0x44"),
        ([b"R\0\0\0\x06\0\0"], "wait", "insufficient data"),
        ([messages._authentication(7)], "wait", "authentication method 7"),
        ([messages.authentication_sasl(["OAUTHBEARER"])], "wait", "SASL authentication mechanisms"),
        ([messages.authentication_sasl_continue(b"r=x,s=AAAA,i=1")], "wait", "authentication method 11"),
        ([SASL, OK + READY], "wait", "without proving"),
        (
            [SASL, messages.authentication_sasl_final(b"v=") + OK],
            "wait",
            "impostor",
        ),
        (
            [SASL, messages.authentication_sasl_continue(b"?")],
            "wait",
            "SCRAM",
        ),
        ([OK + messages.parameter_status("a", "x" * 600_000) * 2], "wait", "bytes before it was ready"),
        ([OK + b"S\0\0\0\6ab" + READY], "wait", "invalid string"),
        ([OK + b"K\0\0\0\x08\0\0\0\1" + READY], "wait", "invalid message format"),
        ([messages.message(ord("E"), b"garbage")], "wait", "invalid"),
    ],
)
@both_loops
async def test_a_server_that_makes_no_sense(answers: list[bytes], end: str, expected: str) -> None:
    async with fake_server(*answers, end=end) as fake:
        error = await _fails(fake)
    assert isinstance(error, LinkUnreachable)
    assert error.message.startswith('cannot connect to the server of database "app": ')
    assert expected in error.message


@pytest.mark.parametrize(
    "answers",
    [[], [messages.AUTHENTICATION_CLEARTEXT_PASSWORD], [OK], [OK + READY[:7]], [b"R"]],
)
@both_loops
async def test_a_server_that_stops_talking(answers: list[bytes]) -> None:
    async with fake_server(*answers) as fake:
        error = await _fails(fake, timeout_s=0.3)
    assert error.message == 'cannot connect to the server of database "app": no answer within 0.3 s'


@both_loops
async def test_an_error_after_authentication_is_handed_on() -> None:
    raw = messages.error_response("FATAL", "53300", "sorry, too many clients already")
    async with fake_server(OK + raw) as fake:
        error = await _fails(fake)
    assert isinstance(error, LinkRefused)
    assert (error.raw_error, error.sqlstate) == (raw, "53300")


@both_loops
async def test_notices_and_bytes_that_come_early_are_kept() -> None:
    notice = messages.notice_response("mind the step")
    early = messages.parameter_status("in_hot_standby", "off")
    async with fake_server(OK + notice + READY + early) as fake:
        opened = await open_link(fake.target, startup(), "alice", None, TIMEOUT_S)
        assert opened.greeting == notice + READY
        assert opened.leftover == early
        assert (opened.backend_pid, opened.cancel_key) == (1, b"abcd")
        opened.transport.abort()


@both_loops
async def test_nobody_listens() -> None:
    async with fake_server() as fake:
        target = fake.target
    with pytest.raises(LinkUnreachable) as caught:
        await open_link(target, startup(), "alice", PASSWORD, TIMEOUT_S)
    assert caught.value.sqlstate == "08006"
    assert caught.value.log_detail == f"127.0.0.1:{target.port}"
    assert not await send_cancel(target, 1, b"abcd", TIMEOUT_S)
    nowhere = replace(target, host="/nonexistent-folder")
    with pytest.raises(LinkUnreachable):
        await open_link(nowhere, startup(), "alice", PASSWORD, TIMEOUT_S)
    unknown = replace(target, host="no-such-host.invalid")
    with pytest.raises(LinkUnreachable):
        await open_link(unknown, startup(), "alice", PASSWORD, TIMEOUT_S)


@both_loops
async def test_a_cancel_request_that_is_never_taken_gives_up_in_time() -> None:
    async with fake_server() as fake:
        assert not await send_cancel(fake.target, 1, b"abcd", 0.3)
        async with asyncio.timeout(5):
            await fake.closed_by_peer.wait()


@both_loops
async def test_giving_up_while_it_opens_leaves_nothing_open() -> None:
    async with fake_server(messages.AUTHENTICATION_CLEARTEXT_PASSWORD) as fake:
        opening = asyncio.create_task(open_link(fake.target, startup(), "alice", PASSWORD, TIMEOUT_S))
        async with asyncio.timeout(5):
            await fake.asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(5):
            await fake.closed_by_peer.wait()
