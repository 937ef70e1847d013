"""The cable hurts connections exactly as asked, since fault tests believe it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.cable import Cable
from tests.support.wait import eventually


@pytest.fixture
async def cable() -> AsyncIterator[Cable]:
    """A cable to a server that sends every byte back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    with Cable("127.0.0.1", server.sockets[0].getsockname()[1]) as made:
        yield made
    server.close()


class Echo:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, text: bytes) -> bytes:
        self.writer.write(text)
        return await asyncio.wait_for(self.reader.readexactly(len(text)), 5)

    async def hears_nothing(self, text: bytes, for_s: float = 0.2) -> bool:
        self.writer.write(text)
        try:
            await asyncio.wait_for(self.reader.read(1), for_s)
        except TimeoutError:
            return True
        return False


async def connect(cable: Cable) -> Echo:
    return Echo(*await asyncio.open_connection(cable.host, cable.port))


async def test_forwards_much_in_order(cable: Cable) -> None:
    line = await connect(cable)
    text = bytes(range(256)) * 4096
    assert await line.ask(text) == text
    line.writer.close()
    await eventually(lambda: cable.connections == 0, "the connection to be gone")


async def test_cut_resets_and_refuses_until_restored(cable: Cable) -> None:
    line = await connect(cable)
    await line.ask(b"hello")
    cable.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(line.reader.readexactly(1), 5)
    with pytest.raises(ConnectionRefusedError):
        await connect(cable)
    port = cable.port
    cable.restore()
    assert cable.port == port
    again = await connect(cable)
    assert await again.ask(b"again") == b"again"
    again.writer.close()


async def test_stall_keeps_connections_and_delivers_after_resume(cable: Cable) -> None:
    line = await connect(cable)
    await line.ask(b"hello")
    cable.stall()
    assert await line.hears_nothing(b"abc")
    new = await connect(cable)
    assert await new.hears_nothing(b"xyz")
    cable.resume()
    assert await asyncio.wait_for(line.reader.readexactly(3), 5) == b"abc"
    assert await asyncio.wait_for(new.reader.readexactly(3), 5) == b"xyz"
    line.writer.close()
    new.writer.close()


async def test_one_direction_can_be_stalled() -> None:
    received = bytearray()

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            received.extend(chunk)
            writer.write(b"ok")
        writer.close()

    server = await asyncio.start_server(sink, "127.0.0.1", 0)
    with Cable("127.0.0.1", server.sockets[0].getsockname()[1]) as cable:
        cable.stall("to_client")
        line = await connect(cable)
        assert await line.hears_nothing(b"abc")
        assert received == b"abc"
        cable.resume()
        assert await asyncio.wait_for(line.reader.readexactly(2), 5) == b"ok"
        line.writer.close()
    server.close()


async def test_delay_holds_each_answer_back(cable: Cable) -> None:
    line = await connect(cable)
    await line.ask(b"hello")
    cable.delay(50)
    begin = time.monotonic()
    assert await line.ask(b"later") == b"later"
    assert time.monotonic() - begin >= 0.1
    cable.restore()
    line.writer.close()
