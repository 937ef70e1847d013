"""A network cable between two parties that a test can cut, stall and slow down.

It forwards TCP from a port of its own to a target, in a thread with a loop of its own: neither a test that
blocks nor the code under test can hold it up. All methods may be called from any thread and take effect
before they return.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

Direction = Literal["to_server", "to_client"]

_CHUNK = 65536
_BACKLOG_CHUNKS = 64
_CALL_DEADLINE_S = 10.0
# With this linger the kernel answers close() with a reset instead of a farewell (socket(7)).
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class _Line:
    """One direction of all connections: open, or stalled; and how late bytes arrive."""

    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0


class Cable:
    """`with Cable("127.0.0.1", server.port) as cable:` then connect to `cable.host`, `cable.port`."""

    host = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = 0
        self.accepted = 0
        self._target = (target_host, target_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cable", daemon=True)
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines: dict[Direction, _Line] = {"to_server": _Line(), "to_client": _Line()}

    def start(self) -> Cable:
        self._thread.start()
        for line in self._lines.values():
            line.flowing.set()
        self._call(self._listen())
        return self

    def close(self) -> None:
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_DEADLINE_S)
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection and refuse new ones, until restore()."""
        self._call(self._cut())

    def reset_connections(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._call(self._reset())

    def stall(self, direction: Direction | None = None) -> None:
        """Forward nothing more (one direction, or both) while connections stay up; new ones are silent."""
        self._change(direction, lambda line: line.flowing.clear())

    def resume(self) -> None:
        """End a stall: what was kept back is delivered."""
        self._change(None, lambda line: line.flowing.set())

    def delay(self, ms: float, direction: Direction | None = None) -> None:
        """Deliver bytes that arrive from now on this much later; order and throughput stay."""

        def set_delay(line: _Line) -> None:
            line.delay_s = ms / 1000

        self._change(direction, set_delay)

    def restore(self) -> None:
        """A sound cable again: accept, forward, no delay."""
        self.delay(0)
        self.resume()
        self._call(self._listen())

    @property
    def connections(self) -> int:
        """Client connections that are up now."""
        return len(self._tasks)

    def __enter__(self) -> Cable:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_DEADLINE_S)

    def _change(self, direction: Direction | None, change: Callable[[_Line], None]) -> None:
        async def work() -> None:
            for name, line in self._lines.items():
                if direction in (None, name):
                    change(line)

        self._call(work())

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self.host, self.port, reuse_address=True)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._reset()

    async def _reset(self) -> None:
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()
        await self._cancel_tasks()

    async def _shut(self) -> None:
        await self._cut()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._lines["to_server"].flowing.wait()
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            self._writers.add(server_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, server_writer, self._lines["to_server"]))
                    group.create_task(_pump(server_reader, writer, self._lines["to_client"]))
            finally:
                self._writers.discard(server_writer)
                server_writer.close()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # either end is gone, or the test cut the cable
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line) -> None:
    """Copy one direction; reading runs ahead of writing, so that a delay does not slow a stream down."""
    due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_BACKLOG_CHUNKS)
    loop = asyncio.get_running_loop()

    async def deliver() -> None:
        while True:
            at, chunk = await due.get()
            await asyncio.sleep(max(0.0, at - loop.time()))
            await line.flowing.wait()
            if not chunk:
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(deliver())
        while chunk := await reader.read(_CHUNK):
            await due.put((loop.time() + line.delay_s, chunk))
        await due.put((loop.time() + line.delay_s, b""))
