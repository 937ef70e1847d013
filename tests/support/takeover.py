"""What tests of session takeover share: a daemon before a pair that replicates, and clients of two drivers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from proxy.wire.framing import messages_in
from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair, run_sql
from tests.support.runs import Stop, figures, go_through

DEADLINE_S = 15.0


@dataclass
class Stage:
    """A daemon and its clients; they are closed at the end."""

    pair: Pair
    daemon: Daemon
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def asyncpg(self, user: str = "postgres", **options: Any) -> Any:
        connection = await self.daemon.connect(user=user, command_timeout=DEADLINE_S, **options)
        self._stack.callback(connection.terminate)
        return connection

    async def psycopg(self, user: str = "postgres", **options: Any) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(
            f"host=127.0.0.1 port={self.daemon.port} dbname=app user={user}",
            autocommit=True,
            connect_timeout=int(DEADLINE_S),
            **options,
        )
        self._stack.push_async_callback(connection.close)
        return connection

    async def waiting(self, count: int = 1) -> bool:
        """Whether this many clients are held."""
        rows = await self.daemon.command("SHOW CLIENTS")
        return sum(1 for row in rows if row["state"] == "waiting") >= count

    async def until(self, stop: Stop, verb: str) -> asyncio.Task[list[dict[str, Any]]]:
        """Begin a run and let it come to `stop`; the task ends with its rows once the stop is open again."""
        stop.shut()
        run = asyncio.create_task(self.daemon.command(verb))
        reached = asyncio.create_task(stop.reached(self.daemon))
        await asyncio.wait({run, reached}, return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            reached.cancel()
            raise AssertionError(f"{verb} ended before {stop.step}: {run.exception() or run.result()}")
        await reached
        return run

    def keep(self, close: Callable[[], object]) -> None:
        """Called at the end."""
        self._stack.callback(close)

    async def cutover(self) -> dict[str, str]:
        """The figures of a CUTOVER that goes through."""
        return figures(await go_through(self.daemon, "CUTOVER"))

    async def revert(self) -> dict[str, str]:
        return figures(await go_through(self.daemon, "REVERT"))


@contextlib.asynccontextmanager
async def stage(
    pair: Pair,
    directory: Path,
    *,
    schema: str = "",
    users: Sequence[str] = ("postgres",),
    failpoint: str = "",
    **general: Any,
) -> AsyncIterator[Stage]:
    """`schema` is made on both sides, then everything is replicated; `general` is for the daemon."""
    await pair.both_sql(f"CREATE TABLE public.note (id int PRIMARY KEY, text text);{schema}")
    await replicate_directly(pair)
    options = DaemonOptions(general=general, users=users, failpoint=failpoint)
    async with Daemon(pair, directory / "daemon", options) as daemon:
        made = Stage(pair, daemon)
        async with made._stack:
            yield made


@contextlib.asynccontextmanager
async def roles(pair: Pair, statements: str, names: Sequence[str]) -> AsyncIterator[None]:
    """Roles belong to a whole server, so they are made on both and taken away afterwards. They may own nothing."""
    servers = (pair.source_server, pair.destination_server)
    try:
        for server in servers:
            await run_sql(server, "postgres", statements)
        yield
    finally:
        for server in servers:
            for name in names:
                await run_sql(server, "postgres", f'DROP ROLE "{name}"')


class Raw:
    """A client that speaks the protocol by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._unread = b""

    @classmethod
    async def open(cls, on: Stage, *, buffer_bytes: int = 2**16) -> Raw:
        reader, writer = await asyncio.open_connection("127.0.0.1", on.daemon.port, limit=buffer_bytes)
        on.keep(writer.close)
        body = b"\0\3\0\0user\0postgres\0database\0app\0\0"
        writer.write((len(body) + 4).to_bytes(4, "big") + body)
        raw = cls(reader, writer)
        await raw.until(b"Z")
        return raw

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def until(self, last: bytes, at_least: int = 1) -> list[tuple[bytes, bytes]]:
        """Every message up to and with the first of this kind, but no fewer than `at_least`."""
        found: list[tuple[bytes, bytes]] = []
        async with asyncio.timeout(DEADLINE_S):
            while True:
                position = 0
                for kind, start, end in messages_in(self._unread):
                    found.append((bytes([kind]), self._unread[start + 5 : end]))
                    position = end
                    if found[-1][0] == last and len(found) >= at_least:
                        self._unread = self._unread[position:]
                        return found
                data = await self.reader.read(65536)
                if not data:
                    raise ConnectionResetError(f"the proxy closed the connection; before that: {found[-3:]}")
                self._unread = self._unread[position:] + data
