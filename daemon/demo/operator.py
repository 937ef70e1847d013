"""The operator: one psql-like session with the admin database, and nothing that an operator does not have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from .clients import Target
from .figures import RunFigures, run_figures

QUICK_S = 15.0
VERB_S = 300.0

Row = dict[str, Any]
Notice = Callable[[str], None]


class CommandFailed(Exception):
    """The console answered with an ERROR, or not at all; the text has its detail and hint."""

    def __init__(self, command: str, error: BaseException) -> None:
        diagnosis = getattr(error, "diag", None)
        primary = getattr(diagnosis, "message_primary", None)
        lines = [f"{command} failed: {primary or str(error) or type(error).__name__}"]
        for label, attribute in (("DETAIL", "message_detail"), ("HINT", "message_hint")):
            text = getattr(diagnosis, attribute, None)
            if text:
                lines.append(f"{label}: {text}")
        super().__init__("\n".join(lines))
        self.sqlstate = str(getattr(error, "sqlstate", None) or "")


class Operator:
    """An admin session. One command at a time; a second session watches what the first one does."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, target: Target, notice: Notice | None = None) -> Operator:
        """Log in to the admin database. Raises CommandFailed."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                host=target.host,
                port=target.port,
                dbname=target.database,
                user=target.user,
                password=target.password,
                sslmode="disable",
                connect_timeout=10,
                autocommit=True,
                prepare_threshold=None,
                row_factory=dict_row,
            )
        except psycopg.Error as error:
            raise CommandFailed("login to the admin database", error) from error
        if notice is not None:
            hear = notice
            connection.add_notice_handler(lambda diagnosis: hear(diagnosis.message_primary or ""))
        return cls(connection)

    async def ask(self, command: str, timeout_s: float = QUICK_S) -> list[Row]:
        """The rows a command answers with. Raises CommandFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                cursor = psycopg.AsyncClientCursor(self._connection, row_factory=dict_row)
                # Commands are ours, never a user's: nothing is merged into them.
                await cursor.execute(command.encode())
                return await cursor.fetchall() if cursor.description is not None else []
        except (psycopg.Error, TimeoutError) as error:
            raise CommandFailed(command, error) from error

    async def run(self, command: str) -> RunFigures:
        """CUTOVER or REVERT; returns the figures also of a run that was aborted.

        Raises CommandFailed where the command began no run at all.
        """
        known = {row["id"] for row in await self.ask("SHOW CUTOVER_HISTORY")}
        failure: CommandFailed | None = None
        sent_s = time.monotonic()
        try:
            steps = await self.ask(command, VERB_S)
        except CommandFailed as error:
            failure, steps = error, []
        answered_s = time.monotonic()
        fresh = [row for row in await self.ask("SHOW CUTOVER_HISTORY") if row["id"] not in known]
        if not fresh:
            raise failure or CommandFailed(command, RuntimeError("SHOW CUTOVER_HISTORY has no new row"))
        if failure is not None and not fresh[0]["error"]:
            fresh[0]["error"] = str(failure)
        return run_figures(fresh[0], steps, sent_s, answered_s)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(QUICK_S):
                await self._connection.close()
        except (psycopg.Error, OSError, TimeoutError):
            pass
