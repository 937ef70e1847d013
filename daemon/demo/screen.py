"""What the demo shows while it runs: headings, notices with their time, one live line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

_LIVE_S = 0.1
_PIPE_WIDTH = 120


class Screen:
    """The terminal. On a pipe only whole lines are printed, without the live one."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if console is None and not self.console.is_terminal:
            self.console.width = _PIPE_WIDTH
        self._began_s = time.monotonic()

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def line(self, text: str, style: str = "") -> None:
        stamp = Text(f"{time.monotonic() - self._began_s:7.2f} s  ", style="dim")
        self.console.print(stamp + Text(text, style=style))

    def notice(self, text: str) -> None:
        """A NOTICE of the admin database."""
        self.line(text, "cyan")

    @asynccontextmanager
    async def live(self, text: Callable[[], str]) -> AsyncIterator[None]:
        """While inside, ask `text` ten times a second and show it in the last line."""
        with self.console.status(escape(text())) as status:
            refreshing = asyncio.create_task(_refresh(status, text))
            try:
                yield
            finally:
                refreshing.cancel()
                await asyncio.gather(refreshing, return_exceptions=True)


async def _refresh(status: Status, text: Callable[[], str]) -> None:
    while True:
        await asyncio.sleep(_LIVE_S)
        status.update(escape(text()))
