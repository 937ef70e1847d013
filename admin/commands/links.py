"""RECONNECT, WAIT_CLOSE, KILL: what becomes of links and of the clients on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..result import Rows
from ..statement import Context, Statement, command, with_optional_name
from .targets import targets


@dataclass(frozen=True)
class Reconnect(Statement):
    database: str | None
    tag = "RECONNECT"
    changes = True

    async def execute(self, context: Context) -> Rows:
        for view in targets(context, self.database):
            context.services.proxy.reconnect(view.name)
        return ()


@dataclass(frozen=True)
class WaitClose(Statement):
    database: str | None
    tag = "WAIT_CLOSE"

    async def execute(self, context: Context) -> Rows:
        for view in targets(context, self.database):
            await context.services.proxy.wait_close(view.name)
        return ()


@dataclass(frozen=True)
class Kill(Statement):
    database: str | None
    tag = "KILL"
    changes = True

    async def execute(self, context: Context) -> Rows:
        names = [view.name for view in targets(context, self.database)]
        closed = sum([await context.services.proxy.kill(name) for name in names])
        context.tell(f"{closed} clients closed; paused: {', '.join(names) or 'none'}; RESUME lets clients in again")
        return ()


COMMANDS: Final = (
    command("RECONNECT [db]", "replace links when their sessions let them go", with_optional_name(Reconnect)),
    command("WAIT_CLOSE [db]", "wait until no link is left that RECONNECT marked", with_optional_name(WaitClose)),
    command("KILL [db]", "close clients and links at once; the database stays paused", with_optional_name(Kill)),
)
