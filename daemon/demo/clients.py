"""Applications in miniature: the same writes through several drivers and protocol styles.

Each class is one style. All hold one connection for as long as it lives, as an application's pool does.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, LiteralString

import asyncpg
import psycopg

from .ledger import BOTH_SQL, INSERT_SQL, READ_SQL, UPDATE_SQL, Entry

_CLOSE_DEADLINE_S = 5.0

# Errors after which the server has closed the connection: 08 connection exceptions, 57P0x shutdown and the
# like, 25P03/25P04 and 57P05 session time-outs (PostgreSQL documentation, appendix A).
_FATAL_CLASSES = ("08", "57P", "25P03", "25P04", "53300", "28")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the application connects."""

    host: str
    port: int
    database: str
    user: str
    password: str | None = None


class Attempt:
    """How far one transaction got; kept outside of it, since it may end with any exception."""

    def __init__(self) -> None:
        self.may_be_committed = False


class StateLost(Exception):
    """A setting that the session made is not there any more."""

    sqlstate = "(state)"


class LedgerClient(ABC):
    """One application connection. Methods raise whatever the driver raises."""

    def __init__(self, target: Target, number: int) -> None:
        self.target = target
        self.number = number

    @abstractmethod
    async def connect(self) -> None: ...

    @abstractmethod
    async def read(self, account: int) -> int:
        """Read one account; returns the version number of the server that answered."""

    @abstractmethod
    async def write_statement(self, entry: Entry) -> None:
        """The write as one statement, or one batch, that commits by itself."""

    @abstractmethod
    async def write_transaction(self, entry: Entry, attempt: Attempt, think_s: float) -> None:
        """The write as BEGIN .. COMMIT, with `think_s` seconds of thought between statements."""

    @abstractmethod
    async def rollback(self) -> None:
        """After an error on a live connection: leave the transaction, if one is open."""

    @property
    @abstractmethod
    def is_open(self) -> bool: ...

    @abstractmethod
    async def close(self) -> None:
        """Say goodbye; never raises."""


def sqlstate_of(error: BaseException) -> str:
    """The error's SQLSTATE, or an empty text where it came from the driver or the network."""
    return str(getattr(error, "sqlstate", None) or "")


def ended_connection(error: BaseException) -> bool:
    state = sqlstate_of(error)
    return not state or state.startswith(_FATAL_CLASSES)


class AsyncpgPrepared(LedgerClient):
    """Named prepared statements, made once per connection and used for all its life."""

    def __init__(self, target: Target, number: int) -> None:
        super().__init__(target, number)
        self._connection: Any = None

    async def connect(self) -> None:
        self._connection = await _asyncpg_connect(self.target, cached_statements=100)
        self._read = await self._connection.prepare(READ_SQL)
        self._both = await self._connection.prepare(BOTH_SQL)
        self._insert = await self._connection.prepare(INSERT_SQL)
        self._update = await self._connection.prepare(UPDATE_SQL)

    async def read(self, account: int) -> int:
        row = await self._read.fetchrow(account)
        return int(row[1])

    async def write_statement(self, entry: Entry) -> None:
        await self._both.fetch(entry.client, entry.n, entry.account, entry.amount)

    async def write_transaction(self, entry: Entry, attempt: Attempt, think_s: float) -> None:
        transaction = self._connection.transaction()
        await transaction.start()
        await _think(think_s)
        await self._insert.fetch(entry.client, entry.n, entry.account, entry.amount)
        await _think(think_s)
        await self._update.fetch(entry.amount, entry.account)
        attempt.may_be_committed = True
        await transaction.commit()

    async def rollback(self) -> None:
        await self._connection.execute("ROLLBACK")

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def close(self) -> None:
        await _asyncpg_close(self._connection)


class AsyncpgPlain(LedgerClient):
    """Simple queries with several statements, unnamed statements with arguments, and a setting to keep."""

    def __init__(self, target: Target, number: int) -> None:
        super().__init__(target, number)
        self._connection: Any = None

    async def connect(self) -> None:
        self._connection = await _asyncpg_connect(self.target, cached_statements=0)
        await self._connection.execute(f"SET ledger.client = '{self.number}'; SET lock_timeout = '31s'")

    async def read(self, account: int) -> int:
        row = await self._connection.fetchrow(
            "SELECT balance, current_setting('server_version_num')::int,"
            " current_setting('ledger.client', true), current_setting('lock_timeout')"
            " FROM accounts WHERE id = $1",
            account,
        )
        if (row[2], row[3]) != (str(self.number), "31s"):
            raise StateLost(f"ledger.client is {row[2]!r} and lock_timeout is {row[3]!r}")
        return int(row[1])

    async def write_statement(self, entry: Entry) -> None:
        await self._connection.execute(
            f"INSERT INTO ledger (client, n, account, amount)"
            f" VALUES ({entry.client}, {entry.n}, {entry.account}, {entry.amount});"
            f" UPDATE accounts SET balance = balance + {entry.amount} WHERE id = {entry.account}"
        )

    async def write_transaction(self, entry: Entry, attempt: Attempt, think_s: float) -> None:
        await self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        await _think(think_s)
        await self._connection.execute(INSERT_SQL, entry.client, entry.n, entry.account, entry.amount)
        await _think(think_s)
        await self._connection.execute(UPDATE_SQL, entry.amount, entry.account)
        attempt.may_be_committed = True
        await self._connection.execute("COMMIT")

    async def rollback(self) -> None:
        await self._connection.execute("ROLLBACK")

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def close(self) -> None:
        await _asyncpg_close(self._connection)


class PsycopgClient(LedgerClient):
    """What the psycopg styles share. They differ in the cursor and in what is prepared."""

    prepare: bool | None = False

    def __init__(self, target: Target, number: int) -> None:
        super().__init__(target, number)
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def connect(self) -> None:
        self._connection = await psycopg.AsyncConnection.connect(
            host=self.target.host,
            port=self.target.port,
            dbname=self.target.database,
            user=self.target.user,
            password=self.target.password,
            sslmode="disable",
            autocommit=True,
            application_name=f"ledger {self.number}",
        )

    async def read(self, account: int) -> int:
        cursor = await self._run(_READ, (account,))
        row = await cursor.fetchone()
        if row is None:
            raise StateLost(f"account {account} is not there")
        return int(row[1])

    async def write_statement(self, entry: Entry) -> None:
        await self._run(_BOTH, (entry.client, entry.n, entry.account, entry.amount))

    async def write_transaction(self, entry: Entry, attempt: Attempt, think_s: float) -> None:
        await self._run("BEGIN")
        await _think(think_s)
        await self._run(_INSERT, (entry.client, entry.n, entry.account, entry.amount))
        await _think(think_s)
        await self._run(_UPDATE, (entry.amount, entry.account))
        attempt.may_be_committed = True
        await self._run("COMMIT")

    async def rollback(self) -> None:
        await self._run("ROLLBACK")

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    async def close(self) -> None:
        if self._connection is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_DEADLINE_S):
                await self._connection.close()
        except (psycopg.Error, OSError, TimeoutError):
            pass

    def _live(self) -> psycopg.AsyncConnection[Any]:
        assert self._connection is not None
        return self._connection

    def _cursor(self) -> psycopg.AsyncCursor[Any]:
        return self._live().cursor()

    async def _run(self, sql: LiteralString, arguments: tuple[int, ...] | None = None) -> psycopg.AsyncCursor[Any]:
        cursor = self._cursor()
        # BEGIN and the like are not worth a prepared statement.
        prepare = self.prepare if arguments is not None else False
        return await cursor.execute(sql, arguments, prepare=prepare)


class PsycopgSimple(PsycopgClient):
    """Arguments merged into the text by the client: the simple query protocol."""

    def _cursor(self) -> psycopg.AsyncCursor[Any]:
        return psycopg.AsyncClientCursor(self._live())


class PsycopgPrepared(PsycopgClient):
    """psycopg's own named prepared statements."""

    prepare = True


class PsycopgPipeline(PsycopgClient):
    """Whole transactions sent in one go, before the first answer is read."""

    prepare = True

    async def write_transaction(self, entry: Entry, attempt: Attempt, think_s: float) -> None:
        attempt.may_be_committed = True
        async with self._live().pipeline():
            await super().write_transaction(entry, attempt, think_s)


DRIVERS: dict[str, type[LedgerClient]] = {
    "asyncpg prepared": AsyncpgPrepared,
    "asyncpg plain": AsyncpgPlain,
    "psycopg simple": PsycopgSimple,
    "psycopg prepared": PsycopgPrepared,
    "psycopg pipeline": PsycopgPipeline,
}

# Slow transactions think between statements, so a pipeline would be a contradiction.
SLOW_DRIVERS = ("asyncpg prepared", "psycopg simple", "asyncpg plain", "psycopg prepared")


def _to_psycopg(sql: LiteralString, order: tuple[int, ...]) -> LiteralString:
    """asyncpg's $1 as psycopg's %s; `order` asserts that the arguments already come in order."""
    for number in order:
        sql = sql.replace(f"${number}", "%s")
    return sql


_READ = _to_psycopg(READ_SQL, (1,))
_BOTH = _to_psycopg(BOTH_SQL, (1, 2, 3, 4))
_INSERT = _to_psycopg(INSERT_SQL, (1, 2, 3, 4))
_UPDATE = _to_psycopg(UPDATE_SQL, (1, 2))


async def _asyncpg_connect(target: Target, cached_statements: int) -> Any:
    return await asyncpg.connect(
        host=target.host,
        port=target.port,
        database=target.database,
        user=target.user,
        password=target.password,
        ssl=False,
        statement_cache_size=cached_statements,
    )


async def _asyncpg_close(connection: Any) -> None:
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=_CLOSE_DEADLINE_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        connection.terminate()


async def _think(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
