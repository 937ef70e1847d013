"""SHOW HELP, from the registry itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..result import Columns, Rows, Type, columns
from ..statement import Arguments, Command, Context, Statement, command

HELP: Final[Columns] = columns(Type.TEXT, "command", "description")


@dataclass(frozen=True)
class ShowHelp(Statement):
    commands: Sequence[Command]
    tag = "SHOW"
    columns = HELP

    async def execute(self, context: Context) -> Rows:
        return [(entry.syntax, entry.summary) for entry in self.commands if entry.listed]


def help_command(commands: Callable[[], Sequence[Command]]) -> Command:
    """`commands` is asked when a statement is parsed: the registry has this command in it."""

    def parse(arguments: Arguments) -> Statement:
        arguments.end()
        return ShowHelp(commands())

    return command("SHOW HELP", "this list", parse)
