"""TLS towards servers: libpq's sslmode words, SCRAM bound to the certificate, client certificates.

The servers from PyPI are built without TLS, so the real server here is one of the system's, and a test is
skipped where there is none. Our own port, which test_tls_client.py tries with libpq, is the other server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.model import AuthType, General, SslMode
from daemon.demo.binaries import BinariesMissing
from daemon.demo.embedded import EmbeddedError, EmbeddedPostgres
from proxy.net.cancel import send_cancel
from proxy.net.client_login import ClientCredential, LoginSettings
from proxy.net.link_login import LinkRefused, LinkTarget, LinkUnreachable, OpenedLink, open_link
from proxy.net.tls import client_context, server_tls
from proxy.wire import messages
from proxy.wire.codes import PROTOCOL_3_0
from proxy.wire.startup import StartupParameters
from tests.support.certificates import Authority, make_authority
from tests.support.databases import run_sql
from tests.support.greeter import Greeter
from tests.support.loops import both_loops
from tests.support.wait import eventually

TIMEOUT_S = 10.0
PASSWORD = "secret"
STARTUP = StartupParameters(PROTOCOL_3_0, ((b"user", b"alice"), (b"database", b"app")))
MAJORS = (15, 17, 18, 16, 14)

HBA = """
local    all  all          trust
host     all  postgres     127.0.0.1/32  trust
hostssl  all  only_tls     127.0.0.1/32  scram-sha-256
hostnossl all only_clear   127.0.0.1/32  scram-sha-256
hostssl  all  by_cert      127.0.0.1/32  cert
hostssl  all  two_ways     127.0.0.1/32  cert
hostnossl all two_ways     127.0.0.1/32  scram-sha-256
host     all  md5_user     127.0.0.1/32  md5
host     all  plain_user   127.0.0.1/32  password
host     all  either       127.0.0.1/32  scram-sha-256
"""
ROLES = ("only_tls", "only_clear", "by_cert", "two_ways", "md5_user", "plain_user", "either")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = make_authority(tmp_path_factory.mktemp("ca"))
    made.issue("server", hosts=("localhost", "127.0.0.1"))
    made.issue("elsewhere", hosts=("elsewhere.example",))
    made.issue("by_cert")
    made.issue("alice")
    make_authority(made.folder / "other", "another CA")
    return made


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A real server with TLS, of whatever major the system has."""
    for major in MAJORS:
        with contextlib.suppress(BinariesMissing, EmbeddedError):
            found = EmbeddedPostgres(major, tmp_path_factory.mktemp(f"tls{major}"), hba=HBA)
            found.create()
            owner = found.data.stat()
            for name in ("ca.crt", "server.crt", "server.key"):
                copy = found.directory / name
                copy.touch(mode=0o600)
                copy.write_bytes((authority.folder / name).read_bytes())
                os.chown(copy, owner.st_uid, owner.st_gid)
            found.settings |= {
                "ssl": "on",
                "fsync": "off",
                "ssl_ca_file": str(found.directory / "ca.crt"),
                "ssl_cert_file": str(found.directory / "server.crt"),
                "ssl_key_file": str(found.directory / "server.key"),
            }
            found.start()
            break
    else:
        pytest.skip(f"no PostgreSQL with TLS on this machine; looked for {MAJORS}")
    statements = [f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'" for role in ROLES]
    statements.insert(0, "SET password_encryption = 'scram-sha-256'")
    statements += ["SET password_encryption = 'md5'", f"ALTER ROLE md5_user PASSWORD '{PASSWORD}'"]
    try:
        asyncio.run(run_sql(found, "postgres", ";".join(statements)))
        yield found
    finally:
        found.remove()


def target(port: int, sslmode: SslMode, **changes: Any) -> LinkTarget:
    return replace(LinkTarget("app", "127.0.0.1", port, "postgres", sslmode), **changes)


async def tls_of(link: Awaitable[OpenedLink]) -> str:
    """Open, look, close: the version of TLS, empty in clear."""
    opened = await link
    opened.transport.abort()
    return opened.tls.partition("/")[0]


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server made of streams; its port. Every connection is closed when it ends, and all at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await eventually(lambda: not tasks, "connections of the test's server to end")
        await asyncio.sleep(0)


# -- a real server -------------------------------------------------------------------------------------------

TLS, CLEAR = "TLSv1.3", ""


@pytest.mark.parametrize(
    ("user", "sslmode", "expected"),
    [
        ("either", SslMode.DISABLE, CLEAR),
        ("either", SslMode.ALLOW, CLEAR),
        ("either", SslMode.PREFER, TLS),
        ("either", SslMode.REQUIRE, TLS),
        ("either", SslMode.VERIFY_CA, TLS),
        ("either", SslMode.VERIFY_FULL, TLS),
        ("only_tls", SslMode.ALLOW, TLS),
        ("only_tls", SslMode.PREFER, TLS),
        ("only_tls", SslMode.REQUIRE, TLS),
        ("only_clear", SslMode.DISABLE, CLEAR),
        ("only_clear", SslMode.ALLOW, CLEAR),
        ("only_clear", SslMode.PREFER, CLEAR),
        ("two_ways", SslMode.PREFER, CLEAR),  # under TLS a certificate is asked for that we do not have
        ("md5_user", SslMode.PREFER, TLS),
        ("plain_user", SslMode.PREFER, TLS),
    ],
)
@both_loops
async def test_modes(
    server: EmbeddedPostgres, authority: Authority, user: str, sslmode: SslMode, expected: str
) -> None:
    roots = str(authority.path) if sslmode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL) else None
    there = target(server.port, sslmode, sslrootcert=roots)
    assert await tls_of(open_link(there, STARTUP, user, PASSWORD, TIMEOUT_S)) == expected


@pytest.mark.parametrize(
    ("user", "sslmode", "sqlstate", "text"),
    [
        ("only_tls", SslMode.DISABLE, "28000", "no encryption"),
        ("only_clear", SslMode.REQUIRE, "28000", "SSL encryption"),
        ("only_tls", SslMode.ALLOW, "28P01", 'password authentication failed for user "only_tls"'),
        ("only_clear", SslMode.PREFER, "28P01", 'password authentication failed for user "only_clear"'),
        ("either", SslMode.PREFER, "28P01", 'password authentication failed for user "either"'),
        ("by_cert", SslMode.REQUIRE, "28000", "connection requires a valid client certificate"),
    ],
)
@both_loops
async def test_refusals(server: EmbeddedPostgres, user: str, sslmode: SslMode, sqlstate: str, text: str) -> None:
    with pytest.raises(LinkRefused) as caught:
        await open_link(target(server.port, sslmode), STARTUP, user, "wrong", TIMEOUT_S)
    assert caught.value.sqlstate == sqlstate
    assert text in caught.value.message


@both_loops
async def test_a_client_certificate(server: EmbeddedPostgres, authority: Authority) -> None:
    files = {
        "sslcert": str(authority.folder / "by_cert.crt"),
        "sslkey": str(authority.folder / "by_cert.key"),
    }
    there = target(server.port, SslMode.REQUIRE, **files)
    assert await tls_of(open_link(there, STARTUP, "by_cert", None, TIMEOUT_S)) == TLS
    with pytest.raises(LinkRefused, match='certificate authentication failed for user "two_ways"'):
        await open_link(there, STARTUP, "two_ways", None, TIMEOUT_S)


@both_loops
async def test_a_man_in_the_middle_gets_nowhere_with_scram(server: EmbeddedPostgres, authority: Authority) -> None:
    """He ends our TLS with a certificate that mode `require` does not look at, and begins his own to the
    server. Our proof is bound to his certificate, not to the server's; md5 has no such protection."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(messages.SSL_REQUEST))
        writer.write(b"S")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.folder / "elsewhere.crt", authority.folder / "elsewhere.key")
        await writer.start_tls(context)
        there, away = await asyncio.open_connection("127.0.0.1", server.port)
        away.write(messages.SSL_REQUEST)
        assert await there.readexactly(1) == b"S"
        await away.start_tls(client_context(SslMode.REQUIRE, None, None, None))

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        try:
            await asyncio.gather(copy(reader, away), copy(there, writer))
        finally:
            away.close()

    async with serving(relay) as port:
        there = target(port, SslMode.REQUIRE)
        assert await tls_of(open_link(there, STARTUP, "md5_user", PASSWORD, TIMEOUT_S)) == TLS
        with pytest.raises(LinkRefused, match="SCRAM channel binding check failed"):
            await open_link(there, STARTUP, "only_tls", PASSWORD, TIMEOUT_S)


@pytest.mark.parametrize("sslmode", [SslMode.DISABLE, SslMode.PREFER, SslMode.VERIFY_FULL])
@both_loops
async def test_cancel_requests(server: EmbeddedPostgres, authority: Authority, sslmode: SslMode) -> None:
    there = target(server.port, sslmode, sslrootcert=str(authority.path))
    opened = await open_link(there, STARTUP, "postgres", None, TIMEOUT_S)
    try:
        opened.transport.write(messages.query("SELECT pg_sleep(30)"))

        async def sleeps(wanted: bool) -> bool:
            sql = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
            return bool(await run_sql(server, "postgres", sql, opened.backend_pid)) is wanted

        await eventually(lambda: sleeps(True), "the backend to begin its long query")
        assert await send_cancel(there, opened.backend_pid, opened.cancel_key, TIMEOUT_S)
        await eventually(lambda: sleeps(False), "the query to be cancelled")
    finally:
        opened.transport.abort()


# -- our own port as the server ------------------------------------------------------------------------------


def our_server(authority: Authority, leaf: str | None = "server", auth_type: AuthType = AuthType.SCRAM) -> Greeter:
    tls = None
    if leaf is not None:
        files = {
            "tls_certificate": str(authority.folder / f"{leaf}.crt"),
            "tls_private_key": str(authority.folder / f"{leaf}.key"),
            "tls_client_ca_certificate": str(authority.path),
        }
        tls = server_tls(General.model_validate({"client_tls_sslmode": SslMode.PREFER, **files}))
    return Greeter(LoginSettings(lambda *_: ClientCredential(PASSWORD), auth_type, tls, TIMEOUT_S))


@pytest.mark.parametrize("sslmode", [SslMode.PREFER, SslMode.REQUIRE])
@both_loops
async def test_without_roots_any_certificate_will_do(authority: Authority, sslmode: SslMode) -> None:
    async with our_server(authority, "elsewhere") as greeter:
        there = target(greeter.port, sslmode)
        assert await tls_of(open_link(there, STARTUP, "alice", PASSWORD, TIMEOUT_S)) == TLS


@pytest.mark.parametrize(
    ("leaf", "sslmode", "roots", "works"),
    [
        ("server", SslMode.VERIFY_FULL, "ca.crt", True),
        ("elsewhere", SslMode.VERIFY_FULL, "ca.crt", False),  # the name is another
        ("elsewhere", SslMode.VERIFY_CA, "ca.crt", True),
        ("server", SslMode.VERIFY_CA, "other/ca.crt", False),
        ("server", SslMode.VERIFY_FULL, "other/ca.crt", False),
        ("elsewhere", SslMode.REQUIRE, "ca.crt", True),
        ("server", SslMode.REQUIRE, "other/ca.crt", False),  # libpq: require with roots is verify-ca
    ],
)
@both_loops
async def test_verification(authority: Authority, leaf: str, sslmode: SslMode, roots: str, works: bool) -> None:
    async with our_server(authority, leaf) as greeter:
        there = target(greeter.port, sslmode, sslrootcert=str(authority.folder / roots))
        opening = open_link(there, STARTUP, "alice", PASSWORD, TIMEOUT_S)
        if works:
            assert await tls_of(opening) == TLS
        else:
            with pytest.raises(LinkUnreachable, match="TLS: certificate verify failed") as caught:
                await opening
            assert "127.0.0.1" not in caught.value.message or "address" in caught.value.message
            assert greeter.logins == []


@both_loops
async def test_prefer_goes_on_in_clear_where_the_certificate_does_not_verify(authority: Authority) -> None:
    """What libpq does, too: `prefer` asks for no security."""
    async with our_server(authority) as greeter:
        there = target(greeter.port, SslMode.PREFER, sslrootcert=str(authority.folder / "other/ca.crt"))
        assert await tls_of(open_link(there, STARTUP, "alice", PASSWORD, TIMEOUT_S)) == CLEAR


@pytest.mark.parametrize("sslmode", list(SslMode))
@both_loops
async def test_a_server_without_tls(authority: Authority, sslmode: SslMode) -> None:
    async with our_server(authority, None) as greeter:
        there = target(greeter.port, sslmode, sslrootcert=str(authority.path))
        opening = open_link(there, STARTUP, "alice", PASSWORD, TIMEOUT_S)
        if sslmode in (SslMode.DISABLE, SslMode.ALLOW, SslMode.PREFER):
            assert await tls_of(opening) == CLEAR
        else:
            with pytest.raises(LinkUnreachable, match="server does not support SSL, but SSL was required"):
                await opening


@both_loops
async def test_both_of_our_sides_bind_scram(authority: Authority) -> None:
    async with our_server(authority) as greeter:
        for sslmode in (SslMode.REQUIRE, SslMode.VERIFY_FULL):
            there = target(greeter.port, sslmode, sslrootcert=str(authority.path))
            assert await tls_of(open_link(there, STARTUP, "alice", PASSWORD, TIMEOUT_S)) == TLS
        assert all(login.scram_keys is not None for login in greeter.logins)


@both_loops
async def test_a_client_certificate_for_our_own_port(authority: Authority) -> None:
    async with our_server(authority, auth_type=AuthType.CERT) as greeter:
        alice = {
            "sslcert": str(authority.folder / "alice.crt"),
            "sslkey": str(authority.folder / "alice.key"),
        }
        there = target(greeter.port, SslMode.REQUIRE, **alice)
        assert await tls_of(open_link(there, STARTUP, "alice", None, TIMEOUT_S)) == TLS
        with pytest.raises(LinkRefused, match="certificate authentication failed"):
            await open_link(there, STARTUP, "by_cert", None, TIMEOUT_S)


# -- servers that misbehave ----------------------------------------------------------------------------------


def answering(
    answer: Callable[[asyncio.StreamWriter], None],
) -> contextlib.AbstractAsyncContextManager[int]:
    """A server that reads an SSLRequest, does `answer`, and then listens until the client is gone."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(len(messages.SSL_REQUEST)) == messages.SSL_REQUEST:
            answer(writer)
        while await reader.read(65536):
            pass

    return serving(serve)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"S" + messages.AUTHENTICATION_OK, "received unencrypted data after SSL response"),
        (b"E" + b"\0\0\0\x05\0", "received invalid response to SSL negotiation"),
        (b"X", "received invalid response to SSL negotiation"),
        (b"Snot a ServerHello", "received unencrypted data after SSL response"),
    ],
)
@pytest.mark.parametrize("sslmode", [SslMode.REQUIRE, SslMode.PREFER])
@both_loops
async def test_answers_to_an_ssl_request_that_are_not_believed(said: bytes, expected: str, sslmode: SslMode) -> None:
    """Nothing protects them; in mode `prefer`, too, the connection is given up and not continued."""
    async with answering(lambda writer: writer.write(said)) as port:
        with pytest.raises(LinkUnreachable, match=expected):
            await open_link(target(port, sslmode), STARTUP, "alice", PASSWORD, TIMEOUT_S)


@pytest.mark.parametrize("sslmode", [SslMode.REQUIRE, SslMode.PREFER])
@both_loops
async def test_a_server_that_stalls_after_its_answer(sslmode: SslMode) -> None:
    async with answering(lambda writer: writer.write(b"S")) as port:
        with pytest.raises(LinkUnreachable, match=r"no answer within 0\.3 s"):
            await open_link(target(port, sslmode), STARTUP, "alice", PASSWORD, 0.3)


@both_loops
async def test_a_server_that_hangs_up_on_an_ssl_request() -> None:
    async with answering(lambda writer: writer.close()) as port:
        with pytest.raises(LinkUnreachable, match="connection closed by peer"):
            await open_link(target(port, SslMode.REQUIRE), STARTUP, "alice", PASSWORD, TIMEOUT_S)


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sslmode", "changes", "expected"),
    [
        (SslMode.VERIFY_CA, {}, 'sslmode = "verify-ca" needs sslrootcert'),
        (SslMode.VERIFY_FULL, {}, 'sslmode = "verify-full" needs sslrootcert'),
        (
            SslMode.VERIFY_CA,
            {"sslrootcert": "system"},
            'sslrootcert = "system" needs sslmode = "verify-full"',
        ),
        (SslMode.REQUIRE, {"sslrootcert": "/missing"}, "sslrootcert: cannot load certificates from /missing"),
        (
            SslMode.REQUIRE,
            {"sslcert": "/missing", "sslkey": "/missing"},
            "sslcert, sslkey: cannot load /missing",
        ),
    ],
)
@both_loops
async def test_settings_that_cannot_work(
    authority: Authority, sslmode: SslMode, changes: dict[str, str], expected: str
) -> None:
    """The client learns that the settings are wrong, the log which and why."""
    async with our_server(authority) as greeter:
        with pytest.raises(LinkUnreachable, match='TLS settings of database "app" cannot be used') as caught:
            await open_link(target(greeter.port, sslmode, **changes), STARTUP, "alice", PASSWORD, TIMEOUT_S)
        assert caught.value.log_detail is not None
        assert expected in caught.value.log_detail


def test_contexts_are_shared_until_a_file_changes(authority: Authority, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.path.read_bytes())

    def made() -> ssl.SSLContext:
        return client_context(SslMode.VERIFY_CA, str(roots), None, None)

    first = made()
    assert made() is first
    os.utime(roots, (1, 1))
    assert made() is not first
    assert not first.check_hostname
    assert client_context(SslMode.VERIFY_FULL, "system", None, None).check_hostname
