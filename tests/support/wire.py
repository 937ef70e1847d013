"""A client that speaks the protocol by hand: it sends what a test says and shows what comes back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from proxy.wire import messages
from proxy.wire.startup import StartupParameters

PROTOCOL = 3 << 16
DEADLINE_S = 15.0

READY = ord("Z")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a server."""

    kind: int
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """Of an ErrorResponse or NoticeResponse."""
        return {key: value.decode() for key, value in messages.error_fields(self.body).items()}

    def __repr__(self) -> str:
        return f"{chr(self.kind)}{self.body[:200]!r}"


def startup_packet(
    user: str, database: str, parameters: Mapping[str, str] | None = None, protocol: int = PROTOCOL
) -> bytes:
    pairs = {"user": user, "database": database, **(parameters or {})}
    return StartupParameters(protocol, tuple((key.encode(), value.encode()) for key, value in pairs.items())).encode()


_open: set[Wire] = set()


async def close_all() -> None:
    """Whatever a test has left open, perhaps because it failed."""
    for wire in tuple(_open):
        await wire.close()


class Wire:
    """One connection. Every wait has a deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.pid = 0
        self.key = b""
        _open.add(self)

    @classmethod
    async def open(cls, host: str, port: int, *, receive_buffer: int | None = None) -> Self:
        """Connected, nothing sent. A small `receive_buffer` makes it felt soon that a client does not read."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock)
        return cls(reader, writer)

    @classmethod
    async def login(
        cls,
        host: str,
        port: int,
        database: str,
        *,
        user: str = "postgres",
        parameters: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> Self:
        """Logged in by trust, the greeting read."""
        wire = await cls.open(host, port, receive_buffer=receive_buffer)
        wire.send(startup_packet(user, database, parameters))
        for message in await wire.until_ready():
            if message.kind == ord("K"):
                wire.pid, wire.key = messages.decode_backend_key(message.body)
            elif message.kind == ord("E"):
                await wire.close()
                raise AssertionError(f"log-in refused: {message.fields}")
        return wire

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def drain(self, timeout_s: float = DEADLINE_S) -> None:
        async with asyncio.timeout(timeout_s):
            await self.writer.drain()

    async def read_exactly(self, count: int, timeout_s: float = DEADLINE_S) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await self.reader.readexactly(count)

    async def message(self, timeout_s: float = DEADLINE_S) -> Message:
        head = await self.read_exactly(5, timeout_s)
        return Message(head[0], await self.read_exactly(int.from_bytes(head[1:], "big") - 4, timeout_s))

    async def until(self, kind: str, count: int = 1, timeout_s: float = DEADLINE_S) -> list[Message]:
        """Messages up to and with the `count`th of that kind, or up to the hang-up."""
        found: list[Message] = []
        while count:
            try:
                found.append(await self.message(timeout_s))
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return found
            count -= found[-1].kind == ord(kind)
        return found

    async def until_ready(self, count: int = 1, timeout_s: float = DEADLINE_S) -> list[Message]:
        return await self.until("Z", count, timeout_s)

    async def until_closed(self, timeout_s: float = DEADLINE_S) -> bytes:
        """Everything up to the hang-up, or up to where a reset cut it off."""
        received = bytearray()
        async with asyncio.timeout(timeout_s):
            try:
                while data := await self.reader.read(1 << 20):
                    received += data
            except ConnectionResetError:
                pass
        return bytes(received)

    async def query(self, sql: str | bytes, timeout_s: float = DEADLINE_S) -> list[Message]:
        self.send(messages.query(sql))
        return await self.until_ready(timeout_s=timeout_s)

    async def value(self, sql: str) -> str:
        """The first column of the first row."""
        for message in await self.query(sql):
            if message.kind == ord("D"):
                value = messages.decode_data_row(message.body)[0]
                assert value is not None
                return value.decode()
            if message.kind == ord("E"):
                raise AssertionError(f"{sql}: {message.fields}")
        raise AssertionError(f"{sql}: no row")

    def reset(self) -> None:
        """Die as a process that is killed with data unread: the peer gets a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        _open.discard(self)
        self.writer.close()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.writer.wait_closed()
        except (OSError, TimeoutError):
            self.writer.transport.abort()


def split(data: bytes) -> list[Message]:
    """Whole messages; what is left over becomes one of kind 0."""
    found: list[Message] = []
    position = 0
    while len(data) - position >= 5:
        end = position + 1 + int.from_bytes(data[position + 1 : position + 5], "big")
        if end > len(data):
            break
        found.append(Message(data[position], data[position + 5 : end]))
        position = end
    if position < len(data):
        found.append(Message(0, data[position:]))  # the head of it included
    return found
