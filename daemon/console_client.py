"""A session with the admin database, for the command line: one command, its notices, its answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from math import isfinite
from typing import Any

import asyncpg

CONNECT_TIMEOUT_S = 10.0
_ASK_AGAIN_S = 0.1

Value = str | int | float | bool | None
Row = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Door:
    """Where the console answers, and as whom to log in."""

    host: str
    port: int
    user: str
    database: str
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of one command; values as JSON knows them."""

    columns: tuple[str, ...]
    rows: list[Row]


class ConsoleFailure(Exception):
    """No answer, or an ERROR, in words for the operator. `sqlstate` is empty where no server sent one."""

    def __init__(self, message: str, *, sqlstate: str = "", detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint


class ConnectionBroken(ConsoleFailure):
    """The session ended after the command was sent and before its answer came."""

    def __init__(self, reason: object) -> None:
        super().__init__(
            f"the connection broke before the answer came: {reason}",
            detail="Whether the command was carried out is not known.",
            hint='"pgcutover show cutover" says how a move stands.',
        )


async def ask(door: Door, command: str, notify: Callable[[str], None]) -> Answer:
    """Run one command of the console and wait for its answer, however long that takes.

    `notify` is called with each NOTICE as it arrives. Raises ConsoleFailure, or ConnectionBroken where nobody
    knows what became of the command.
    """
    connection = await _connect(door)
    connection.add_log_listener(lambda _connection, message: notify(str(message.message)))
    try:
        statement = await connection.prepare(command)
        columns = tuple(attribute.name for attribute in statement.get_attributes())
        records = await statement.fetch()
        return Answer(columns, [{name: _plain(record[name]) for name in columns} for record in records])
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
        raise ConnectionBroken(error) from error
    except asyncpg.PostgresError as error:
        raise _failure(error) from error
    finally:
        await _close(connection)


async def is_gone(door: Door, timeout_s: float = 10.0) -> bool:
    """Whether nobody listens there any more; waits that long for it. Anything but a refusal is not a yes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while loop.time() < deadline:
        try:
            async with asyncio.timeout_at(deadline):
                _, writer = await _open(door)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except (OSError, TimeoutError):
            return False
        writer.close()
        await asyncio.sleep(_ASK_AGAIN_S)
    return False


async def _open(door: Door) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if door.host.startswith("/"):
        return await asyncio.open_unix_connection(f"{door.host}/.s.PGSQL.{door.port}")
    return await asyncio.open_connection(door.host, door.port)


async def _connect(door: Door) -> Any:
    where = f"{door.host}:{door.port}"
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncpg.connect(
                host=door.host,
                port=door.port,
                user=door.user,
                password=door.password,
                database=door.database,
                statement_cache_size=0,
                server_settings={"application_name": "pgcutover"},
            )
    except TimeoutError as error:
        message = f"no login at {where} within {CONNECT_TIMEOUT_S:.0f} s"
        raise ConsoleFailure(message, hint="Does pgcutover listen there?") from error
    except asyncpg.PostgresError as error:
        failure = _failure(error)
        failure.message = f'cannot log in at {where} as "{door.user}": {failure.message}'
        raise failure from error
    except (OSError, asyncpg.InterfaceError, ValueError) as error:
        # asyncio puts the address into strerror, which is named here already.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        hint = "Is the daemon running? --host and --port, or --config, say where it is."
        raise ConsoleFailure(f"cannot connect to {where}: {reason}", hint=hint) from error


def _failure(error: asyncpg.PostgresError) -> ConsoleFailure:
    return ConsoleFailure(
        str(error.args[0]) if error.args else type(error).__name__,
        sqlstate=getattr(error, "sqlstate", None) or "",
        detail=getattr(error, "detail", None) or "",
        hint=getattr(error, "hint", None) or "",
    )


def _plain(value: object) -> Value:
    """A column's value for a table or for JSON, which has no dates and no numbers beyond the finite."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if isfinite(value) else None
        case Decimal():
            if not value.is_finite():
                return None
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


async def _close(connection: Any) -> None:
    """Say farewell if that is quick; a cancelled or broken session is dropped."""
    task = asyncio.current_task()
    if connection.is_closed():
        return
    if task is not None and task.cancelling():
        connection.terminate()
        return
    try:
        await connection.close(timeout=2.0)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
