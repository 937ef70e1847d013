"""Whoever is told to go, and does not take what is still to be said, does not keep his socket for ever."""

from __future__ import annotations

import asyncio
import socket

from proxy.net.port import HandshakePort, close_within
from tests.support.loops import both_loops


@both_loops
async def test_whoever_does_not_take_his_last_bytes_is_cut_off() -> None:
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
    with far:
        transport, port = await asyncio.get_running_loop().create_connection(HandshakePort, sock=near)
        transport.write(b"x" * 10_000_000)
        close_within(transport, 0.3)
        assert not port.lost.is_set()
        async with asyncio.timeout(5):
            await port.lost.wait()
