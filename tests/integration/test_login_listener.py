"""Listener: accepts, owns, limits, survives, ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog.testing

from proxy.errors import InvalidAuthorization
from proxy.net.listener import Listener, ListenerLimits, OnConnection
from proxy.net.port import KEEPALIVE_IDLE_S, HandshakePort
from proxy.wire import messages
from tests.support.loops import both_loops
from tests.support.wait import eventually

DEADLINE_S = 10.0


async def echo(port: HandshakePort) -> None:
    while True:
        port.write(bytes((await port.read_byte(),)))


@contextlib.asynccontextmanager
async def listening(
    handler: OnConnection = echo, limits: ListenerLimits | None = None, **options: object
) -> AsyncIterator[Listener]:
    listener = Listener("127.0.0.1", 0, None, handler, limits, **options)  # type: ignore[arg-type]
    await listener.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield listener
    finally:
        listener.close()
        listener.cancel()
        async with asyncio.timeout(DEADLINE_S):
            await listener.wait_closed()


async def dial(listener: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", listener.bound_port)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@both_loops
async def test_each_connection_has_a_task_that_ends_with_it() -> None:
    async with listening() as listener:
        dialled = [await dial(listener) for _ in range(20)]
        for number, (reader, writer) in enumerate(dialled):
            writer.write(bytes((number,)))
            assert await reader.readexactly(1) == bytes((number,))
        assert listener.connections == 20
        for _, writer in dialled:
            await hang_up(writer)
        await eventually(lambda: listener.connections == 0, "all tasks to end")


@both_loops
async def test_client_sockets_do_not_delay_and_notice_a_vanished_peer() -> None:
    options: list[tuple[int, int, int]] = []

    async def look(port: HandshakePort) -> None:
        sock = port.transport.get_extra_info("socket")
        options.append(
            (
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            )
        )

    async with listening(look) as listener:
        reader, writer = await dial(listener)
        assert await reader.read() == b""  # a port that was not detached is closed when its handler returns
        await hang_up(writer)
    assert options == [(1, 1, KEEPALIVE_IDLE_S)]


@both_loops
async def test_a_handler_that_fails_ends_its_own_connection_only() -> None:
    async def fail(port: HandshakePort) -> None:
        match await port.read_byte():
            case 0:
                raise InvalidAuthorization("no")
            case 1:
                raise ZeroDivisionError
            case _:
                await echo(port)

    async with listening(fail) as listener:
        good_reader, good_writer = await dial(listener)
        for number in (0, 1):
            reader, writer = await dial(listener)
            writer.write(bytes((number,)))
            assert await reader.read() == b""
            await hang_up(writer)
        good_writer.write(b"\2ok")
        assert await good_reader.readexactly(2) == b"ok"
        await hang_up(good_writer)


@both_loops
async def test_beyond_the_limit_a_connection_is_told_so() -> None:
    async with listening(limits=ListenerLimits(max_connections=2)) as listener:
        kept = [await dial(listener) for _ in range(2)]
        await eventually(lambda: listener.connections == 2, "both connections")
        reader, writer = await dial(listener)
        answer = await reader.read()
        fields = messages.error_fields(answer[5:])
        assert (fields["V"], fields["C"], fields["M"]) == (
            b"FATAL",
            b"53300",
            b"sorry, too many clients already",
        )
        await hang_up(writer)
        await hang_up(kept[0][1])
        await eventually(lambda: listener.connections == 1, "a place to become free")
        reader, writer = await dial(listener)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        for _, other in (kept[1], (reader, writer)):
            await hang_up(other)


@both_loops
async def test_running_out_of_descriptors_is_survived() -> None:
    """Clients wait in the backlog and are served when descriptors are free again; the loop does not spin."""
    async with listening(limits=ListenerLimits(retry_s=0.05)) as listener:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        sockets = [socket.socket() for _ in range(4)]
        for sock in sockets:
            sock.setblocking(False)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        fillers: list[int] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.dup(0))
            loop = asyncio.get_running_loop()
            for sock in sockets:
                await loop.sock_connect(sock, ("127.0.0.1", listener.bound_port))
            with structlog.testing.capture_logs() as logged:
                for _ in range(10):
                    await asyncio.sleep(0.02)
                    assert listener.connections == 0
            failures = [entry for entry in logged if entry["event"] == "accept_failed"]
            assert 1 <= len(failures) <= 8  # one each 0.05 s, not one each turn of the loop
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
        await eventually(lambda: listener.connections == 4, "the waiting clients to be accepted")
        for sock in sockets:
            await loop.sock_sendall(sock, b"x")
            assert await loop.sock_recv(sock, 1) == b"x"
            sock.close()


@both_loops
async def test_close_stops_accepting_and_leaves_connections_alone() -> None:
    async with listening() as listener:
        reader, writer = await dial(listener)
        await eventually(lambda: listener.connections == 1, "the connection")
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            await dial(listener)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        waiting = asyncio.create_task(listener.wait_closed())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        await hang_up(writer)
        await waiting


@both_loops
async def test_cancel_ends_connections() -> None:
    async with listening() as listener:
        reader, writer = await dial(listener)
        await eventually(lambda: listener.connections == 1, "the connection")
        listener.close()
        listener.cancel()
        await listener.wait_closed()
        assert listener.connections == 0
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await hang_up(writer)


@both_loops
async def test_a_peer_that_does_not_take_its_last_bytes_is_cut_off() -> None:
    async def flood(port: HandshakePort) -> None:
        port.write(b"x" * (32 * 1024 * 1024))

    async with listening(flood, ListenerLimits(linger_s=0.2)) as listener:
        with socket.socket() as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.bound_port))
            await eventually(lambda: listener.connections == 1, "the connection")
            await eventually(lambda: listener.connections == 0, "it to be cut off", timeout_s=5)


@both_loops
async def test_a_detached_port_outlives_its_task() -> None:
    taken: list[asyncio.Transport] = []

    async def take(port: HandshakePort) -> None:
        await port.read_byte()
        transport, _ = port.detach()
        taken.append(transport)

    async with listening(take) as listener:
        reader, writer = await dial(listener)
        writer.write(b"x")
        await eventually(lambda: taken and listener.connections == 0, "the hand-over")
        taken[0].write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        taken[0].abort()
        await hang_up(writer)


@both_loops
async def test_a_unix_socket_beside_tcp(tmp_path: Path) -> None:
    async with listening(unix_folder=str(tmp_path)) as listener:
        path = tmp_path / f".s.PGSQL.{listener.bound_port}"
        assert path.stat().st_mode & 0o777 == 0o777
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await hang_up(writer)
        other = Listener("127.0.0.1", listener.bound_port, None, echo, unix_folder=str(tmp_path))
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{listener.bound_port}"):
            await other.start()
        assert path.exists()
    assert not path.exists()


@both_loops
async def test_a_unix_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    async with listening() as listener:
        port = listener.bound_port
    path = tmp_path / f".s.PGSQL.{port}"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    again = Listener("127.0.0.1", port, None, echo, unix_folder=str(tmp_path))
    await again.start()
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await hang_up(writer)
    finally:
        again.close()
        again.cancel()
        await again.wait_closed()


@both_loops
async def test_a_host_that_does_not_exist_is_named() -> None:
    listener = Listener("no-such-host.invalid", 0, None, echo)
    with pytest.raises(OSError, match=r"cannot listen on no-such-host\.invalid: "):
        await listener.start()


@both_loops
async def test_two_listeners_share_a_port_if_told_to() -> None:
    async with listening(reuse_port=True) as first:
        second = Listener("127.0.0.1", first.bound_port, None, echo, reuse_port=True)
        await second.start()
        second.close()
