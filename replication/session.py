"""One control connection: asyncpg with the settings a control session needs and a deadline on every call.

Why not asyncpg's own `command_timeout`: when a server is silent (a stalled network, a stopped process),
asyncpg first sends a cancel request over a new connection and waits for it. Here a call that runs out of
time closes the connection at once, so that nothing waits on a peer that does not answer.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from typing import Any

import asyncpg

from config.model import SslMode

from .endpoint import Endpoint

DEFAULT_TIMEOUT_S = 30.0

_SETTINGS = {
    "application_name": "pgcutover",
    "search_path": "pg_catalog",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",
    "row_security": "off",
    "client_min_messages": "warning",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}


StatementFailed = asyncpg.PostgresError
"""The server refused a statement; for callers that must not import asyncpg themselves."""


class ControlUnavailable(Exception):
    """The server could not be asked, or did not answer in time. Says nothing about what it did."""


_open: weakref.WeakSet[ControlSession] = weakref.WeakSet()


def own_pids(endpoint: Endpoint) -> list[int]:
    """Backends of this process's control sessions on one database; the fence leaves them alone."""
    return [s.pid for s in _open if not s.closed and s.endpoint.place == endpoint.place]


class ControlSession:
    """A logged-in control connection. Not safe for two calls at once: use one session per parallel strand."""

    def __init__(self, endpoint: Endpoint, connection: Any) -> None:
        self.endpoint = endpoint
        self._connection = connection
        self.version: int = connection.get_server_version().major * 10000 + connection.get_server_version().minor
        self.pid: int = connection.get_server_pid()
        self.round_trips = 0
        _open.add(self)
        self.default_timeout_s = DEFAULT_TIMEOUT_S

    @property
    def major(self) -> int:
        return self.version // 10000

    @property
    def closed(self) -> bool:
        return bool(self._connection.is_closed())

    async def fetch(self, sql: str, *args: object, timeout_s: float | None = None) -> list[asyncpg.Record]:
        """All rows of one statement. Raises ControlUnavailable, or asyncpg.PostgresError from the server."""
        return list(await self._call(self._connection.fetch(sql, *args), timeout_s))

    async def fetchrow(self, sql: str, *args: object, timeout_s: float | None = None) -> asyncpg.Record | None:
        row: asyncpg.Record | None = await self._call(self._connection.fetchrow(sql, *args), timeout_s)
        return row

    async def fetchval(self, sql: str, *args: object, timeout_s: float | None = None) -> Any:
        return await self._call(self._connection.fetchval(sql, *args), timeout_s)

    async def execute(self, sql: str, *args: object, timeout_s: float | None = None) -> str:
        """Run a statement; without arguments `sql` may hold several (simple protocol, one transaction)."""
        return str(await self._call(self._connection.execute(sql, *args), timeout_s))

    async def _call(self, awaitable: Any, timeout_s: float | None) -> Any:
        self.round_trips += 1
        if timeout_s is None:
            timeout_s = self.default_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await awaitable
        except TimeoutError as error:
            self.abort()
            raise ControlUnavailable(f'"{self.endpoint.name}" did not answer within {timeout_s:.3g} s') from error
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError) as error:
            self.abort()
            raise ControlUnavailable(f'"{self.endpoint.name}": connection lost ({error})') from error
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self) -> None:
        """Close the socket now, without a farewell."""
        if not self._connection.is_closed():
            self._connection.terminate()

    async def close(self) -> None:
        if self._connection.is_closed():
            return
        try:
            async with asyncio.timeout(2.0):
                await self._connection.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.abort()

    async def __aenter__(self) -> ControlSession:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


async def connect(
    endpoint: Endpoint, *, timeout_s: float = 5.0, application_name: str = "pgcutover", plain: bool = False
) -> ControlSession:
    """Open a control connection. Raises ControlUnavailable (with the reason, never the password).

    `plain`: without the settings of a control session, to see what any client of the database gets.
    """
    try:
        async with asyncio.timeout(timeout_s):
            connection = await asyncpg.connect(
                host=endpoint.host,
                port=endpoint.port,
                user=endpoint.user,
                password=endpoint.password,
                database=endpoint.database,
                ssl=_ssl(endpoint),
                timeout=timeout_s,
                server_settings={**({} if plain else _SETTINGS), "application_name": application_name},
                statement_cache_size=64,
                max_cacheable_statement_size=0,
            )
    except TimeoutError as error:
        raise ControlUnavailable(
            f'"{endpoint.name}" at {endpoint.host}:{endpoint.port} did not accept a login within {timeout_s:.3g} s'
        ) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise ControlUnavailable(
            f'cannot log in to "{endpoint.name}" at {endpoint.host}:{endpoint.port} as "{endpoint.user}": {error}'
        ) from error
    return ControlSession(endpoint, connection)


def _ssl(endpoint: Endpoint) -> ssl.SSLContext | str | bool:
    if endpoint.sslmode is SslMode.DISABLE or endpoint.host.startswith("/"):
        return False
    if (
        endpoint.sslrootcert is None
        and endpoint.sslcert is None
        and endpoint.sslmode
        in (
            SslMode.ALLOW,
            SslMode.PREFER,
            SslMode.REQUIRE,
        )
    ):
        return endpoint.sslmode.value
    context = ssl.create_default_context(cafile=endpoint.sslrootcert)
    context.check_hostname = endpoint.sslmode is SslMode.VERIFY_FULL
    if endpoint.sslmode not in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL):
        context.verify_mode = ssl.CERT_NONE
    if endpoint.sslcert is not None:
        context.load_cert_chain(endpoint.sslcert, endpoint.sslkey)
    return context
