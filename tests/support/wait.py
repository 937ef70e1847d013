"""Waiting with a deadline that says what was waited for."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

_POLL_S = 0.02


async def eventually(predicate: Callable[[], Any], what: str, timeout_s: float = 10, *, poll_s: float = _POLL_S) -> Any:
    """Ask `predicate` (a function or a coroutine function) until its answer is true; returns that answer.

    Raises AssertionError, which names `what` and the last answer, after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        pending = predicate()
        if inspect.isawaitable(pending):
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                    answer = await pending
            except TimeoutError:
                raise AssertionError(f"waited {timeout_s:g} s for {what}: asking itself took too long") from None
        else:
            answer = pending
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; last answer: {answer!r}")
        await asyncio.sleep(poll_s)
