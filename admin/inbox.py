"""What a client has sent, read ahead while a statement runs.

Reading goes on during a statement for one reason: a client that hangs up is noticed at once. What it has sent
meanwhile is kept in order, up to a bound; beyond that reading waits until the statement is done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from proxy.errors import ProxyError

from .services import Port

MAX_MESSAGE_BYTES: Final = 1024 * 1024
_AHEAD_MESSAGES: Final = 256
_AHEAD_BYTES: Final = 2 * MAX_MESSAGE_BYTES


class Inbox:
    """`on_gone` is called once, when nothing more will come: the client went away or broke the protocol."""

    def __init__(self, port: Port, on_gone: Callable[[], None]) -> None:
        self._port = port
        self._on_gone = on_gone
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._error: ProxyError | None = None
        self._reader = asyncio.get_running_loop().create_task(self._read(), name="console-inbox")

    async def next(self) -> tuple[int, bytes]:
        """The next message: type byte and body. Raises PeerClosed or ProtocolViolation when there is none."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._reader.done():
                self._reader.result()  # a fault of ours: show it
            self._changed.clear()
            await self._changed.wait()
        kind, body = self._waiting.popleft()
        self._bytes -= len(body)
        self._changed.set()
        return kind, body

    @property
    def gone(self) -> bool:
        """Nothing more will come."""
        return self._error is not None

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait((self._reader,))

    async def _read(self) -> None:
        try:
            while True:
                while len(self._waiting) >= _AHEAD_MESSAGES or self._bytes >= _AHEAD_BYTES:
                    self._changed.clear()
                    await self._changed.wait()
                kind, body = await self._port.read_message(MAX_MESSAGE_BYTES)
                self._waiting.append((kind, body))
                self._bytes += len(body)
                self._changed.set()
        except ProxyError as error:
            self._error = error
            self._on_gone()
        finally:
            self._changed.set()
