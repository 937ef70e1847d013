"""What tests of runs share: a gate at a failpoint, an error that is expected, what is left on a database."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg

from tests.support.daemon import Daemon
from tests.support.wait import eventually


class Stop:
    """A failpoint that stops a run, every time, while it is shut. Open at first, so that runs go through."""

    def __init__(self, directory: Path, step: str, moment: str = "before") -> None:
        self._path = directory / f"{moment} {step}"
        self._go = Path(f"{self._path}.go")
        self._reached = Path(f"{self._path}.reached")
        self.step = step
        self.failpoint = f"{moment}:{step}=wait:{self._path}*"
        self.open()

    def shut(self) -> None:
        self._reached.unlink(missing_ok=True)
        self._go.unlink(missing_ok=True)

    def open(self) -> None:
        self._go.touch()

    async def reached(self, daemon: Daemon | None = None, timeout_s: float = 20) -> None:
        log = f"\n{daemon.log()}" if daemon is not None else ""
        await eventually(self._reached.exists, f"the run reaches {self.step}{log}", timeout_s=timeout_s)


async def refused(daemon: Daemon, sql: str, timeout_s: float = 60) -> asyncpg.PostgresError:
    """The error that a console command must end with."""
    try:
        rows = await daemon.command(sql, timeout_s)
    except asyncpg.PostgresError as error:
        return error
    raise AssertionError(f"{sql} went through: {rows}")


def told(error: asyncpg.PostgresError) -> str:
    """All that an operator reads of an error."""
    parts = (str(error.args[0]), getattr(error, "detail", None), getattr(error, "hint", None))
    return "\n".join(part for part in parts if part)


async def go_through(daemon: Daemon, verb: str, timeout_s: float = 30) -> list[dict[str, Any]]:
    """Run a verb that needs nothing but the time in which an earlier run's clean-up is done by itself."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await daemon.command(verb)
        except asyncpg.PostgresError as error:
            if "not cleaned up yet" not in str(error) or time.monotonic() > deadline:
                raise AssertionError(f"{told(error)}\n{daemon.log()}") from error
            await asyncio.sleep(0.2)


def figures(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The last rows of a run by their names."""
    return {row["step"]: row["detail"] for row in rows if row["status"] == "total"}


def step_row(rows: list[dict[str, Any]], step: str) -> dict[str, Any]:
    return next(row for row in rows if row["step"] == step)


async def with_notices(daemon: Daemon, sql: str, timeout_s: float = 60) -> list[str]:
    """The NOTICEs of a console command that goes through."""
    heard: list[str] = []
    connection = await daemon.console()
    connection.add_log_listener(lambda _connection, message: heard.append(str(message.message)))
    try:
        async with asyncio.timeout(timeout_s):
            await connection.fetch(sql)
    finally:
        await connection.close(timeout=5)
    return heard
