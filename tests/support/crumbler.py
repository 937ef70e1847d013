"""A relay that cuts what passes into small pieces, so that messages arrive split anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import random
from types import TracebackType
from typing import Self


class Crumbler:
    """`async with Crumbler(host, port, seed=1) as crumbler:`, then connect to its `host` and `port`."""

    host = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int, *, seed: int) -> None:
        self.port = 0
        self._target = (target_host, target_port)
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far))
                group.create_task(self._pass(far_reader, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # either end hung up, or the test is over
        finally:
            for end in (writer, far):
                if end is not None:
                    end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            position = 0
            while position < len(data):
                size = self._random.randint(1, self._random.choice((6, 300)))
                writer.write(data[position : position + size])
                await writer.drain()
                await asyncio.sleep(0)
                position += size
        with contextlib.suppress(OSError):
            writer.write_eof()
