"""Verbs that go on when their console goes away.

A cutover that was broken off because somebody closed a laptop would be a failure with a silly reason. So a
verb runs in a task of its own, its console only follows it, and the outcome is logged whether or not anybody
follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from config.problems import ConfigError
from cutover.api import MoveError
from proxy.errors import ProxyError

from .errors import ShuttingDown

T = TypeVar("T")
log = structlog.get_logger("admin")


class Background:
    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], str] = {}

    @property
    def running(self) -> list[str]:
        """Names of the verbs under way."""
        return list(self._running.values())

    async def follow(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end and return what it returns, or raise what it raises.

        A follower that is cancelled goes away alone; the work goes on. Raises ShuttingDown where the work
        itself was cancelled, which only `stop` does.
        """
        task = asyncio.get_running_loop().create_task(work, name=f"console-{name}")
        self._running[task] = name
        task.add_done_callback(self._ended)
        await asyncio.wait((task,))
        if task.cancelled():
            raise ShuttingDown()
        return task.result()

    async def finish(self, timeout_s: float) -> bool:
        """Wait for all verbs under way; False where some are not done in time."""
        if not self._running:
            return True
        _, pending = await asyncio.wait(tuple(self._running), timeout=timeout_s)
        return not pending

    async def stop(self) -> None:
        """Cancel what is left and wait until it has come to its end."""
        for task in tuple(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(tuple(self._running))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        name = self._running.pop(task)
        if task.cancelled():
            log.warning("verb broken off", verb=name)
            return
        error = task.exception()
        if error is None:
            log.info("verb done", verb=name)
        elif isinstance(error, MoveError | ProxyError):
            log.warning("verb failed", verb=name, sqlstate=error.sqlstate, reason=error.message)
        elif isinstance(error, ConfigError):
            log.warning("verb failed", verb=name, problems=len(error.problems))
        else:
            log.error("verb failed", verb=name, exc_info=error)
