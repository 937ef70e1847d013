"""HandshakePort on real sockets: nothing is lost, nothing grows, nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.errors import PeerClosed, ProtocolViolation, TlsHandshakeFailed
from proxy.net.port import READ_AHEAD, HandshakePort
from proxy.wire import messages
from tests.support.certificates import Authority, make_authority
from tests.support.loops import both_loops
from tests.support.wait import eventually

DEADLINE_S = 10.0
CHUNK = 256 * 1024  # the most an event loop reads at once


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = make_authority(tmp_path_factory.mktemp("ca"))
    made.issue("localhost", hosts=("localhost", "127.0.0.1"), file_name="server")
    return made


def server_context(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "server.crt", authority.folder / "server.key")
    return context


def client_context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.path))


@contextlib.asynccontextmanager
async def ports(kind: str = "tcp", folder: Path | None = None) -> AsyncIterator[tuple[HandshakePort, HandshakePort]]:
    """Two ends of one connection: ours (accepted) and the peer's."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0) if kind == "tcp" else str(folder) + "/s")
        listening.listen(1)
        listening.setblocking(False)
        dialling = socket.socket(family, socket.SOCK_STREAM)
        dialling.setblocking(False)
        connecting = asyncio.create_task(loop.sock_connect(dialling, listening.getsockname()))
        accepted, _ = await loop.sock_accept(listening)
        await connecting
    _, ours = await loop.connect_accepted_socket(HandshakePort, accepted)
    _, peer = await loop.create_connection(HandshakePort, sock=dialling)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield ours, peer
    finally:
        for port in (ours, peer):
            port.abort()
        await asyncio.sleep(0)


async def start_tls(ours: HandshakePort, peer: HandshakePort, authority: Authority) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(ours.upgrade_tls(server_context(authority), server_side=True))
        group.create_task(peer.upgrade_tls(client_context(authority), server_side=False, server_hostname="localhost"))


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("under_tls", [False, True], ids=["clear", "tls"])
@both_loops
async def test_pieces_of_every_kind(kind: str, under_tls: bool, authority: Authority, tmp_path: Path) -> None:
    async with ports(kind, tmp_path) as (ours, peer):
        if under_tls:
            await start_tls(ours, peer, authority)
        assert bool(ours.tls_description) == bool(peer.tls_description) == under_tls
        assert ours.is_unix == (kind == "unix")
        assert ours.peer == (peer.local if kind == "tcp" else ("unix", 0))
        peer.write(b"\0\0\0\x0cabcdefgh" + messages.query("select 1") + b"xyz")
        assert await ours.read_startup_packet() == b"abcdefgh"
        assert await ours.read_message(100) == (ord("Q"), b"select 1\0")
        assert await ours.read_byte() == ord("x")
        assert await ours.read_exactly(2) == b"yz"
        ours.write(b"answer")
        assert await peer.read_exactly(6) == b"answer"
        assert ours.buffered == 0


@both_loops
async def test_a_message_above_the_limit_is_refused_before_it_has_arrived() -> None:
    async with ports() as (ours, peer):
        peer.write(b"p" + (1000).to_bytes(4, "big"))
        with pytest.raises(ProtocolViolation):
            await ours.read_message(995)


@both_loops
async def test_the_peer_hangs_up_between_and_within_messages() -> None:
    async with ports() as (ours, peer):
        peer.write(messages.SYNC)
        peer.close()
        assert await ours.read_message(10) == (ord("S"), b"")
        with pytest.raises(PeerClosed) as caught:
            await ours.read_message(10)
        assert caught.value.clean
        await ours.lost.wait()
    async with ports() as (ours, peer):
        peer.write(messages.SYNC[:3])
        peer.close()
        with pytest.raises(PeerClosed) as caught:
            await ours.read_message(10)
        assert not caught.value.clean


@both_loops
async def test_lost_is_set_while_nobody_reads() -> None:
    async with ports() as (ours, peer):
        peer.abort()
        await ours.lost.wait()
        ours.write(b"into the void")
        with pytest.raises(PeerClosed):
            await ours.drain()


@pytest.mark.parametrize("under_tls", [False, True], ids=["clear", "tls"])
@both_loops
async def test_a_peer_that_sends_without_end_is_not_read_without_end(under_tls: bool, authority: Authority) -> None:
    async with ports() as (ours, peer):
        if under_tls:
            await start_tls(ours, peer, authority)
        flood = b"x" * (8 * 1024 * 1024)
        peer.write(flood)
        await eventually(lambda: ours.buffered > READ_AHEAD, "the port to be full")
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert ours.buffered <= READ_AHEAD + 2 * CHUNK
        received = 0
        while received < len(flood):  # and what was kept waiting still comes, all of it
            received += len(await ours.read_exactly(min(10_000, len(flood) - received)))
            assert ours.buffered <= READ_AHEAD + 2 * CHUNK


@both_loops
async def test_a_writer_waits_for_a_slow_reader() -> None:
    async with ports() as (ours, peer):
        peer.transport.pause_reading()
        ours.write(b"x" * (32 * 1024 * 1024))
        draining = asyncio.create_task(ours.drain())
        done, _ = await asyncio.wait([draining], timeout=0.1)
        assert not done
        peer.abort()
        with pytest.raises(PeerClosed):
            await draining


@pytest.mark.parametrize("under_tls", [False, True], ids=["clear", "tls"])
@both_loops
async def test_detach_loses_nothing(under_tls: bool, authority: Authority) -> None:
    """The relay takes over in the middle of a stream; bytes arrive before, during and after."""

    class Relay(asyncio.Protocol):
        def __init__(self) -> None:
            self.received = bytearray()
            self.ended = asyncio.Event()

        def data_received(self, data: bytes) -> None:
            self.received += data

        def connection_lost(self, exc: Exception | None) -> None:
            self.ended.set()

    async with ports() as (ours, peer):
        if under_tls:
            await start_tls(ours, peer, authority)
        stream = bytes(range(256)) * 4096
        peer.write(stream[:100])
        assert await ours.read_exactly(10) == stream[:10]
        peer.write(stream[100:500_000])
        transport, rest = ours.detach()
        assert ours.detached
        for _ in range(5):  # what comes while nobody owns it stays in the socket
            await asyncio.sleep(0.002)
        relay = Relay()
        transport.set_protocol(relay)
        relay.data_received(rest)
        transport.resume_reading()
        peer.write(stream[500_000:])
        await eventually(lambda: len(relay.received) == len(stream) - 10, "the rest of the stream")
        assert bytes(relay.received) == stream[10:]
        peer.close()
        await relay.ended.wait()
        assert not ours.lost.is_set()


@both_loops
async def test_bytes_in_clear_are_not_taken_for_bytes_under_tls(authority: Authority) -> None:
    async with ports() as (ours, peer):
        peer.write(b"injected")
        await eventually(lambda: ours.buffered == 8, "the injected bytes")
        for server_side, text in ((True, "after SSL request"), (False, "after SSL response")):
            with pytest.raises(ProtocolViolation, match=f"received unencrypted data {text}"):
                await ours.upgrade_tls(server_context(authority), server_side=server_side)


@both_loops
async def test_a_handshake_that_fails_closes_the_port(authority: Authority) -> None:
    async with ports() as (ours, peer):
        upgrading = asyncio.create_task(ours.upgrade_tls(server_context(authority), server_side=True))
        await asyncio.sleep(0)  # the port must be waiting for TLS, or this would be bytes sent too early
        peer.write(b"this is not a ClientHello")
        with pytest.raises(TlsHandshakeFailed):
            await upgrading
        await ours.lost.wait()
    async with ports() as (ours, peer):
        upgrading = asyncio.create_task(ours.upgrade_tls(server_context(authority), server_side=True))
        await asyncio.sleep(0)
        peer.abort()
        with pytest.raises((TlsHandshakeFailed, PeerClosed)):
            await upgrading


@both_loops
async def test_a_handshake_that_stalls_is_given_up(authority: Authority) -> None:
    async with ports() as (ours, peer):
        with pytest.raises(TlsHandshakeFailed):
            await ours.upgrade_tls(server_context(authority), server_side=True, timeout_s=0.2)
        with pytest.raises(PeerClosed):
            await peer.read_byte()
    async with ports() as (ours, peer):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ours.upgrade_tls(server_context(authority), server_side=True)
        with pytest.raises(PeerClosed):
            await peer.read_byte()


@both_loops
async def test_two_readers_are_a_mistake() -> None:
    async with ports() as (ours, _peer):
        first = asyncio.create_task(ours.read_byte())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two coroutines"):
            await ours.read_byte()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
