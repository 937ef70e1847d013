"""Fresh databases on two servers for one test, and how to get rid of them whatever the test left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from config.model import SslMode
from daemon.demo.embedded import EmbeddedPostgres
from replication.endpoint import Endpoint
from replication.session import ControlSession, connect

_CLEAN_UP_DEADLINE_S = 20.0


@dataclass
class Pair:
    """The same database name on two servers; `source` and `destination` log in as superuser."""

    source_server: EmbeddedPostgres
    destination_server: EmbeddedPostgres
    database: str
    source: Endpoint
    destination: Endpoint
    _sessions: list[ControlSession] = field(default_factory=list)

    async def source_session(self) -> ControlSession:
        """A new control session; closed after the test."""
        return await self._open(self.source)

    async def destination_session(self) -> ControlSession:
        """A new control session; closed after the test."""
        return await self._open(self.destination)

    async def source_sql(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Run SQL on a connection of its own; without arguments it may hold several statements."""
        return await run_sql(self.source_server, self.database, sql, *args)

    async def destination_sql(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Run SQL on a connection of its own; without arguments it may hold several statements."""
        return await run_sql(self.destination_server, self.database, sql, *args)

    async def both_sql(self, sql: str) -> None:
        await self.source_sql(sql)
        await self.destination_sql(sql)

    async def close_sessions(self) -> None:
        for session in self._sessions:
            await session.close()

    async def _open(self, endpoint: Endpoint) -> ControlSession:
        session = await connect(endpoint)
        self._sessions.append(session)
        return session


def make_pair(source: EmbeddedPostgres, destination: EmbeddedPostgres, database: str) -> Pair:
    return Pair(
        source_server=source,
        destination_server=destination,
        database=database,
        source=server_endpoint(source, "source", database),
        destination=server_endpoint(destination, "destination", database),
    )


def server_endpoint(server: EmbeddedPostgres, name: str, database: str) -> Endpoint:
    return Endpoint(
        name=name,
        host=server.host,
        port=server.port,
        database=database,
        user=server.superuser,
        password=server.password,
        sslmode=SslMode.DISABLE,
    )


async def run_sql(server: EmbeddedPostgres, database: str, sql: str, *args: object) -> list[asyncpg.Record]:
    """One statement with its rows; or, without arguments, several separated by semicolons (no rows then)."""
    connection = await asyncpg.connect(server.dsn(database), ssl=False, timeout=10)
    try:
        if not args and ";" in sql.strip().rstrip(";"):
            await connection.execute(sql)
            return []
        return list(await connection.fetch(sql, *args))
    finally:
        await connection.close(timeout=5)


async def create_database(server: EmbeddedPostgres, database: str) -> None:
    await run_sql(server, "postgres", f'CREATE DATABASE "{database}" TEMPLATE template0')


async def drop_databases(servers: Sequence[EmbeddedPostgres], database: str) -> None:
    """Remove `database` from all servers with every subscription and slot in it.

    Subscriptions go first, on all servers, so that no apply worker comes back to a slot; a subscription is
    parted from its slot (slot_name = NONE), since the other server may be gone.
    """
    async with asyncio.timeout(_CLEAN_UP_DEADLINE_S):
        alive = [server for server in servers if server.running]
        for server in alive:
            await _drop_subscriptions(server, database)
        for server in alive:
            await _drop_slots_and_database(server, database)


async def _drop_subscriptions(server: EmbeddedPostgres, database: str) -> None:
    names = await run_sql(
        server,
        "postgres",
        "SELECT subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = $1",
        database,
    )
    for row in names:
        name = '"' + row["subname"].replace('"', '""') + '"'
        # A fence the test left behind would refuse these statements.
        for statement in ("DISABLE", "SET (slot_name = NONE)"):
            await _run_writable(server, database, f"ALTER SUBSCRIPTION {name} {statement}")
        await _run_writable(server, database, f"DROP SUBSCRIPTION {name}")


async def _run_writable(server: EmbeddedPostgres, database: str, sql: str) -> None:
    connection = await asyncpg.connect(
        server.dsn(database), ssl=False, timeout=10, server_settings={"default_transaction_read_only": "off"}
    )
    try:
        await connection.execute(sql)
    finally:
        await connection.close(timeout=5)


async def _drop_slots_and_database(server: EmbeddedPostgres, database: str) -> None:
    connection = await asyncpg.connect(server.dsn(), ssl=False, timeout=10)
    try:
        while True:
            rows = await connection.fetch(
                "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = $1", database
            )
            if not rows:
                break
            for row in rows:
                await _drop_slot(connection, row["slot_name"], row["active_pid"])
        await connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
    finally:
        await connection.close(timeout=5)


async def _drop_slot(connection: asyncpg.Connection, name: str, active_pid: int | None) -> None:
    if active_pid is not None:
        await connection.execute("SELECT pg_terminate_backend($1, 5000)", active_pid)
    try:
        await connection.execute("SELECT pg_drop_replication_slot($1)", name)
    except (asyncpg.ObjectInUseError, asyncpg.UndefinedObjectError):
        await asyncio.sleep(0.05)
