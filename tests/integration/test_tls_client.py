"""TLS on our own port, with real drivers: negotiated and direct, bound to SCRAM, with client certificates."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from config.model import AuthType, General, SslMode
from proxy.errors import TlsHandshakeFailed
from proxy.net.client_login import ClientCredential, LoginSettings
from proxy.net.listener import ListenerLimits
from proxy.net.tls import ServerTls, TlsSettingsError, server_tls
from proxy.wire import messages
from proxy.wire.codes import PROTOCOL_3_0, AuthRequest
from proxy.wire.scram import ScramClient, derive_keys
from proxy.wire.startup import StartupParameters
from tests.support.certificates import Authority, make_authority
from tests.support.greeter import Greeter
from tests.support.loops import both_loops
from tests.support.wait import eventually

DEADLINE_S = 10
PASSWORD = "secret"
PSQL = shutil.which("psql") or "psql"
STARTUP = StartupParameters(PROTOCOL_3_0, ((b"user", b"alice"), (b"database", b"app"))).encode()
TLS_1_3 = "TLSv1.3/TLS_AES_256_GCM_SHA384"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = make_authority(tmp_path_factory.mktemp("ca"))
    made.issue("proxy", hosts=("localhost", "127.0.0.1"), file_name="server")
    made.issue("alice")
    made.issue("mallory")
    made.issue("alice", file_name="expired", valid=False)
    other = make_authority(made.folder / "other", "another CA")
    other.issue("alice")
    return made


def general(authority: Authority, mode: SslMode = SslMode.ALLOW, **changes: Any) -> General:
    files = {
        "tls_certificate": str(authority.folder / "server.crt"),
        "tls_private_key": str(authority.folder / "server.key"),
        "tls_client_ca_certificate": str(authority.path),
    }
    return General(client_tls_sslmode=mode, **{**files, **changes})


def tls(authority: Authority, mode: SslMode = SslMode.ALLOW, **changes: Any) -> ServerTls:
    found = server_tls(general(authority, mode, **changes))
    assert found is not None
    return found


def settings(found: ServerTls | None, auth_type: AuthType = AuthType.SCRAM, **changes: Any) -> LoginSettings:
    def lookup(database: str, user: str) -> ClientCredential | None:
        return ClientCredential(PASSWORD) if (database, user) == ("app", "alice") else None

    return replace(LoginSettings(lookup, auth_type, found, timeout_s=DEADLINE_S), **changes)


async def connect(greeter: Greeter, **options: str) -> str:
    """What libpq 18 (of psycopg) is told of its own log-in: user|database|tls|replication|application."""
    parameters: dict[str, Any] = {
        "host": "localhost",
        "hostaddr": greeter.host,
        "port": str(greeter.port),
        "user": "alice",
        "password": PASSWORD,
        "dbname": "app",
        "connect_timeout": str(DEADLINE_S),
        "sslrootcert": "/nonexistent",
        "sslcert": "/nonexistent",
        "sslkey": "/nonexistent",
    }
    connection = await psycopg.AsyncConnection.connect(autocommit=True, **{**parameters, **options})
    async with connection:
        result = await asyncio.to_thread(connection.pgconn.exec_, b"anything")
        return "|".join((result.get_value(0, column) or b"").decode() for column in range(result.nfields))


def client_files(authority: Authority, name: str) -> dict[str, str]:
    return {"sslcert": str(authority.folder / f"{name}.crt"), "sslkey": str(authority.folder / f"{name}.key")}


# -- drivers ----------------------------------------------------------------------------


@pytest.mark.parametrize("sslnegotiation", ["postgres", "direct"])
@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("channel_binding", ["disable", "prefer", "require"])
@both_loops
async def test_libpq(authority: Authority, sslnegotiation: str, sslmode: str, channel_binding: str) -> None:
    async with Greeter(settings(tls(authority))) as greeter:
        told = await connect(
            greeter,
            sslmode=sslmode,
            sslnegotiation=sslnegotiation,
            channel_binding=channel_binding,
            sslrootcert=str(authority.path),
        )
        assert told == f"alice|app|{TLS_1_3}|none|"
        assert greeter.logins[0].tls == TLS_1_3


@pytest.mark.parametrize("auth_type", [AuthType.MD5, AuthType.PLAIN, AuthType.TRUST])
@both_loops
async def test_the_other_methods_under_tls(authority: Authority, auth_type: AuthType) -> None:
    async with Greeter(settings(tls(authority), auth_type)) as greeter:
        assert await connect(greeter, sslmode="require") == f"alice|app|{TLS_1_3}|none|"


@pytest.mark.parametrize("channel_binding", ["prefer", "require"])
@both_loops
async def test_psql(authority: Authority, channel_binding: str) -> None:
    async with Greeter(settings(tls(authority))) as greeter:
        process = await asyncio.create_subprocess_exec(
            PSQL,
            "-XAtqw",
            f"host=localhost hostaddr={greeter.host} port={greeter.port} user=alice dbname=app "
            f"password={PASSWORD} channel_binding={channel_binding} "
            f"sslmode=verify-full sslrootcert={authority.path}",
            "-c",
            "anything",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
        assert (out.decode().strip(), err) == (f"alice|app|{TLS_1_3}|none|psql", b"")


@both_loops
async def test_asyncpg(authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.path))
    async with Greeter(settings(tls(authority))) as greeter:
        connection = await asyncpg.connect(
            host="localhost",
            port=greeter.port,
            user="alice",
            password=PASSWORD,
            database="app",
            ssl=context,
            timeout=DEADLINE_S,
        )
        connection.terminate()
        assert greeter.logins[0].tls == TLS_1_3


@both_loops
async def test_tls_1_2(authority: Authority) -> None:
    async with Greeter(settings(tls(authority))) as greeter:
        told = await connect(greeter, sslmode="require", ssl_max_protocol_version="TLSv1.2", channel_binding="require")
        assert told.split("|")[2].startswith("TLSv1.2/")


# -- who must use it ----------------------------------------------------------------------------


@both_loops
async def test_without_tls_configured_clients_that_insist_are_told(authority: Authority) -> None:
    async with Greeter(settings(None)) as greeter:
        assert await connect(greeter, sslmode="prefer") == "alice|app||none|"
        with pytest.raises(psycopg.OperationalError, match="server does not support SSL"):
            await connect(greeter, sslmode="require")
        with pytest.raises(psycopg.OperationalError):
            await connect(greeter, sslmode="require", sslnegotiation="direct")


@pytest.mark.parametrize("mode", [SslMode.ALLOW, SslMode.PREFER])
@both_loops
async def test_allow_leaves_it_to_the_client(authority: Authority, mode: SslMode) -> None:
    async with Greeter(settings(tls(authority, mode))) as greeter:
        assert await connect(greeter, sslmode="disable") == "alice|app||none|"
        assert await connect(greeter, sslmode="prefer") == f"alice|app|{TLS_1_3}|none|"


@both_loops
async def test_require_refuses_clients_without_it(authority: Authority) -> None:
    async with Greeter(settings(tls(authority, SslMode.REQUIRE))) as greeter:
        with pytest.raises(psycopg.OperationalError, match="SSL connection is required"):
            await connect(greeter, sslmode="disable")
        assert await connect(greeter, sslmode="require") == f"alice|app|{TLS_1_3}|none|"
        assert [error.sqlstate for error in greeter.errors] == ["28000"]


@both_loops
async def test_a_unix_socket_has_no_tls_and_needs_none(authority: Authority, tmp_path: Path) -> None:
    async with Greeter(settings(tls(authority, SslMode.REQUIRE)), unix_folder=str(tmp_path)) as greeter:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / f".s.PGSQL.{greeter.port}"))
        writer.write(messages.SSL_REQUEST)
        assert await reader.readexactly(1) == b"N"
        writer.write(STARTUP)
        assert await reader.readexactly(1) == b"R"
        writer.close()
        await writer.wait_closed()


# -- client certificates ----------------------------------------------------------------------------


@pytest.mark.parametrize("sslnegotiation", ["postgres", "direct"])
@both_loops
async def test_a_certificate_in_place_of_a_password(authority: Authority, sslnegotiation: str) -> None:
    async with Greeter(settings(tls(authority), AuthType.CERT)) as greeter:
        options = {"sslmode": "require", "sslnegotiation": sslnegotiation, "password": ""}
        assert await connect(greeter, **options, **client_files(authority, "alice")) == f"alice|app|{TLS_1_3}|none|"
        with pytest.raises(psycopg.OperationalError, match='certificate authentication failed for user "alice"'):
            await connect(greeter, **options, **client_files(authority, "mallory"))
        with pytest.raises(psycopg.OperationalError, match="connection requires a valid client certificate"):
            await connect(greeter, **options)
        with pytest.raises(psycopg.OperationalError, match='role "mallory" does not exist'):
            await connect(greeter, **options, **client_files(authority, "mallory"), user="mallory")
        assert [error.sqlstate for error in greeter.errors] == ["28000"] * 3


@both_loops
async def test_a_certificate_method_without_tls(authority: Authority) -> None:
    async with Greeter(settings(tls(authority), AuthType.CERT)) as greeter:
        with pytest.raises(psycopg.OperationalError, match="connection requires a valid client certificate"):
            await connect(greeter, sslmode="disable")


@pytest.mark.parametrize("name", ["expired", "other/alice"])
@pytest.mark.parametrize("auth_type", [AuthType.CERT, AuthType.SCRAM])
@both_loops
async def test_a_certificate_that_cannot_be_verified_is_refused_in_the_handshake(
    authority: Authority, name: str, auth_type: AuthType
) -> None:
    async with Greeter(settings(tls(authority), auth_type)) as greeter:
        with pytest.raises(psycopg.OperationalError):
            await connect(greeter, sslmode="require", **client_files(authority, name))
        await eventually(lambda: greeter.errors, "the failed handshake")
        assert isinstance(greeter.errors[0], TlsHandshakeFailed)
        assert greeter.logins == []


@pytest.mark.parametrize("mode", [SslMode.VERIFY_CA, SslMode.VERIFY_FULL])
@both_loops
async def test_verify_asks_for_a_certificate_and_a_password(authority: Authority, mode: SslMode) -> None:
    async with Greeter(settings(tls(authority, mode))) as greeter:
        alice = client_files(authority, "alice")
        assert await connect(greeter, sslmode="require", **alice) == f"alice|app|{TLS_1_3}|none|"
        with pytest.raises(psycopg.OperationalError, match="connection requires a valid client certificate"):
            await connect(greeter, sslmode="require")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await connect(greeter, sslmode="require", **alice, password="wrong")
        mallory = client_files(authority, "mallory")
        if mode is SslMode.VERIFY_CA:
            assert await connect(greeter, sslmode="require", **mallory) == f"alice|app|{TLS_1_3}|none|"
        else:
            with pytest.raises(psycopg.OperationalError, match='failed for user "alice"'):
                await connect(greeter, sslmode="require", **mallory)


# -- hand-written bytes ----------------------------------------------------------------------------


def _client_context(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def _end_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        try:
            return await reader.read()
        except (ConnectionError, ssl.SSLError):
            return b""


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@pytest.mark.parametrize("alpn", [(), ("h2", "http/1.1")])
@both_loops
async def test_direct_tls_without_our_alpn_is_closed(authority: Authority, alpn: tuple[str, ...]) -> None:
    async with Greeter(settings(tls(authority))) as greeter:
        reader, writer = await asyncio.open_connection(greeter.host, greeter.port, ssl=_client_context(*alpn))
        writer.write(STARTUP)
        assert await _end_of(reader) == b""
        await _close(writer)
        assert greeter.logins == []
        assert greeter.errors == []  # it did not come as far as the handler


@both_loops
async def test_inside_direct_tls_an_ssl_request_is_declined(authority: Authority) -> None:
    async with Greeter(settings(tls(authority))) as greeter:
        reader, writer = await asyncio.open_connection(greeter.host, greeter.port, ssl=_client_context("postgresql"))
        for request in (messages.SSL_REQUEST, messages.GSSENC_REQUEST):
            writer.write(request)
            assert await reader.readexactly(1) == b"N"
        writer.write(STARTUP)
        assert await reader.readexactly(1) == b"R"
        await _close(writer)


@both_loops
async def test_inside_negotiated_tls_another_request_is_an_unknown_version(authority: Authority) -> None:
    for request, version in ((messages.SSL_REQUEST, "1234.5679"), (messages.GSSENC_REQUEST, "1234.5680")):
        async with Greeter(settings(tls(authority))) as greeter:
            reader, writer = await asyncio.open_connection(greeter.host, greeter.port)
            writer.write(messages.SSL_REQUEST)
            assert await reader.readexactly(1) == b"S"
            await writer.start_tls(_client_context())
            writer.write(request)
            answer = await _end_of(reader)
            assert f"unsupported frontend protocol {version}".encode() in answer
            await _close(writer)


@pytest.mark.parametrize("pipelined", [STARTUP, b"\x16\x03\x01\x02\x00"])
@both_loops
async def test_bytes_in_clear_behind_an_ssl_request_are_refused(authority: Authority, pipelined: bytes) -> None:
    """What a man in the middle would inject (CVE-2021-23214)."""
    async with Greeter(settings(tls(authority), AuthType.TRUST)) as greeter:
        reader, writer = await asyncio.open_connection(greeter.host, greeter.port)
        writer.write(messages.SSL_REQUEST + pipelined)
        answer = await _end_of(reader)
        assert b"received unencrypted data after SSL request" in answer
        assert not answer.startswith(b"S")
        await _close(writer)
        assert greeter.logins == []


@pytest.mark.parametrize("garbage", [b"\x16" + b"\0" * 600, b"\x16\x03\x01\x02\x00" + b"x" * 600])
@both_loops
async def test_garbage_that_looks_like_tls_is_closed(authority: Authority, garbage: bytes) -> None:
    async with Greeter(settings(tls(authority))) as greeter:
        reader, writer = await asyncio.open_connection(greeter.host, greeter.port)
        writer.write(garbage)
        await _end_of(reader)
        await _close(writer)
        await eventually(lambda: greeter.listener.connections == 0, "the connection's task to end")


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
@both_loops
async def test_a_client_that_stops_before_or_in_its_first_bytes_is_closed(authority: Authority, sent: bytes) -> None:
    limits = ListenerLimits(first_byte_timeout_s=0.3)
    async with Greeter(settings(tls(authority)), limits=limits) as greeter:
        reader, writer = await asyncio.open_connection(greeter.host, greeter.port)
        writer.write(sent)
        await _end_of(reader)
        await _close(writer)
        await eventually(lambda: greeter.listener.connections == 0, "the connection's task to end")


@both_loops
async def test_a_client_that_hangs_up_before_its_first_byte(authority: Authority) -> None:
    async with Greeter(settings(tls(authority))) as greeter:
        with socket.create_connection((greeter.host, greeter.port)):
            await eventually(lambda: greeter.listener.connections == 1, "the connection's task to begin")
        await eventually(lambda: greeter.listener.connections == 0, "the connection's task to end")


@both_loops
async def test_a_handshake_that_stalls_is_given_up(authority: Authority) -> None:
    async with Greeter(settings(tls(authority), timeout_s=0.3)) as greeter:
        reader, writer = await asyncio.open_connection(greeter.host, greeter.port)
        writer.write(messages.SSL_REQUEST)
        assert await reader.readexactly(1) == b"S"
        assert await _end_of(reader) == b""
        await _close(writer)
        await eventually(lambda: greeter.listener.connections == 0, "the connection's task to end")


@both_loops
async def test_binding_to_another_certificate_is_refused(authority: Authority) -> None:
    """A man in the middle has a certificate of his own, and the client binds its proof to that one."""
    async with Greeter(settings(tls(authority))) as greeter:
        reader, writer = await asyncio.open_connection(greeter.host, greeter.port, ssl=_client_context("postgresql"))
        writer.write(STARTUP)
        request, data = await _authentication(reader)
        assert request == AuthRequest.SASL
        exchange = ScramClient(messages.decode_sasl_mechanisms(data), b"n" * 18, b"digest of another certificate..")
        assert exchange.mechanism == "SCRAM-SHA-256-PLUS"
        writer.write(messages.sasl_initial_response(exchange.mechanism, exchange.first()))
        exchange.challenge((await _authentication(reader))[1])
        writer.write(messages.sasl_response(exchange.final(derive_keys(PASSWORD, exchange.salt, exchange.iterations))))
        assert b"SCRAM channel binding check failed" in await _end_of(reader)
        await _close(writer)
        assert greeter.errors[0].sqlstate == "28000"


async def _authentication(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(DEADLINE_S):
        head = await reader.readexactly(5)
        assert head[:1] == b"R"
        return messages.decode_authentication(await reader.readexactly(int.from_bytes(head[1:], "big") - 4))


@both_loops
async def test_a_new_certificate_is_used_from_the_next_connection_on(authority: Authority, tmp_path: Path) -> None:
    fresh = make_authority(tmp_path, "fresh CA")
    fresh.issue("proxy", hosts=("localhost",), file_name="server")
    async with Greeter(settings(tls(authority))) as greeter:
        options = {"sslmode": "verify-full", "channel_binding": "require"}
        await connect(greeter, sslrootcert=str(authority.path), **options)
        greeter.settings = settings(tls(fresh))
        greeter.listener.tls = greeter.settings.tls
        for sslnegotiation in ("postgres", "direct"):
            await connect(greeter, sslrootcert=str(fresh.path), sslnegotiation=sslnegotiation, **options)
            with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
                await connect(greeter, sslrootcert=str(authority.path), sslnegotiation=sslnegotiation, **options)


# -- settings ----------------------------------------------------------------------------


def test_settings_that_cannot_work_are_named(authority: Authority, tmp_path: Path) -> None:
    assert server_tls(General()) is None
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN NOTHING-----")
    missing = str(tmp_path / "missing.pem")
    for changes, expected in (
        ({"tls_certificate": None}, "needs tls_certificate and tls_private_key"),
        ({"tls_private_key": None}, "needs tls_certificate and tls_private_key"),
        ({"tls_certificate": missing}, f"tls_certificate, tls_private_key: cannot load {missing}"),
        ({"tls_private_key": str(authority.folder / "alice.key")}, "key values mismatch"),
        ({"tls_client_ca_certificate": str(garbage)}, f"tls_client_ca_certificate: cannot load.*{garbage}"),
        ({"tls_client_ca_certificate": missing}, "No such file"),
    ):
        with pytest.raises(TlsSettingsError, match=expected):
            tls(authority, SslMode.REQUIRE, **changes)
    with pytest.raises(TlsSettingsError, match="needs tls_client_ca_certificate"):
        tls(authority, SslMode.VERIFY_CA, tls_client_ca_certificate=None)
    assert not tls(authority, SslMode.ALLOW, tls_client_ca_certificate=None).required
