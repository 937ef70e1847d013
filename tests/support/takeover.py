"""What tests of session takeover share: a daemon before a pair that replicates, and clients of two drivers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair, run_sql
from tests.support.runs import figures, go_through

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
