"""PAUSE, RESUME, MAINTENANCE, ENABLE, DISABLE: who may go on, and who may come in.

As in PgBouncer PAUSE answers when nothing is under way any more, a PAUSE that is broken off (^C, or its
console goes away) is undone, and pausing what is paused is an error. Unlike there, RESUME without a name
resumes every paused database, whichever command paused it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import NotInThatState
from ..result import Rows
from ..statement import Arguments, Context, Statement, command, with_name, with_optional_name
from .targets import targets


@dataclass(frozen=True)
class Pause(Statement):
    database: str | None
    tag = "PAUSE"
    changes = True

    async def execute(self, context: Context) -> Rows:
        found = targets(context, self.database)
        names = [view.name for view in found if not view.paused]
        if found and not names:
            raise NotInThatState(f"already suspended/paused{_named(self.database)}", hint="RESUME ends a pause.")
        proxy = context.services.proxy
        try:
            for name in names:
                proxy.pause(name)
            resumed = [name for name in names if not await proxy.wait_paused(name)]
        except BaseException:
            _undo(context, names)
            raise
        if resumed:
            raise NotInThatState(
                f"the pause was ended by a RESUME before it was complete: {', '.join(resumed)}",
                detail=f"Still paused: {', '.join(sorted(set(names) - set(resumed))) or 'none'}.",
            )
        return ()


def _undo(context: Context, names: Sequence[str]) -> None:
    paused = {view.name for view in context.services.proxy.databases() if view.paused}
    for name in names:
        if name in paused:
            context.services.proxy.resume(name)


@dataclass(frozen=True)
class Resume(Statement):
    database: str | None
    tag = "RESUME"
    changes = True

    async def execute(self, context: Context) -> Rows:
        names = [view.name for view in targets(context, self.database) if view.paused]
        if not names:
            raise NotInThatState(f"not paused/suspended{_named(self.database)}")
        for name in names:
            context.services.proxy.resume(name)
        return ()


@dataclass(frozen=True)
class Maintenance(Statement):
    on: bool
    database: str | None
    tag = "MAINTENANCE"
    changes = True

    async def execute(self, context: Context) -> Rows:
        for view in targets(context, self.database):
            context.services.proxy.maintain(view.name, self.on)
        return ()


@dataclass(frozen=True)
class Enable(Statement):
    database: str
    tag = "ENABLE"
    enabled = True
    changes = True

    async def execute(self, context: Context) -> Rows:
        for view in targets(context, self.database):
            context.services.proxy.enable(view.name, self.enabled)
        return ()


class Disable(Enable):
    tag = "DISABLE"
    enabled = False


def _named(database: str | None) -> str:
    return f": {database}" if database is not None else ""


def _maintenance(arguments: Arguments) -> Statement:
    word = arguments.keyword("ON", "OFF")
    if word is None:
        raise arguments.problem()
    database = arguments.optional_name()
    arguments.end()
    return Maintenance(word == "ON", database)


COMMANDS: Final = (
    command("PAUSE [db]", "hold clients; answers when nothing is under way any more", with_optional_name(Pause)),
    command("RESUME [db]", "end a PAUSE or KILL", with_optional_name(Resume)),
    command(
        "MAINTENANCE ON|OFF [db]",
        "hold clients that are not inside a transaction, without waiting",
        _maintenance,
        words="MAINTENANCE",
    ),
    command("DISABLE db", "refuse new clients", with_name(Disable)),
    command("ENABLE db", "accept new clients again", with_name(Enable)),
)
