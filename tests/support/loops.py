"""Running a test on asyncio's own event loop and on uvloop, which the daemon uses."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Turn a coroutine function into two tests. Its fixtures must be plain ones, not coroutines."""

    @functools.wraps(test)
    def on_loop(*, loop_name: str, **arguments: Any) -> None:
        async def run() -> None:
            await test(**arguments)

        with asyncio.Runner(loop_factory=_LOOPS[loop_name]) as runner:
            runner.run(run())

    signature = inspect.signature(test)
    extra = inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY)
    on_loop.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()),
            extra,
        ]
    )
    del on_loop.__wrapped__  # pytest would look through to the coroutine
    marked: Callable[..., None] = pytest.mark.parametrize("loop_name", sorted(_LOOPS))(on_loop)
    return marked
