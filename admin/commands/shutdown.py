"""SHUTDOWN: asks for the end of the daemon and answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..result import Rows
from ..services import ShutdownMode
from ..statement import Arguments, Context, Statement, command


@dataclass(frozen=True)
class Shutdown(Statement):
    mode: ShutdownMode
    tag = "SHUTDOWN"
    changes = True

    async def execute(self, context: Context) -> Rows:
        context.services.shutdown(self.mode)
        return ()


def _parse(arguments: Arguments) -> Statement:
    word = arguments.keyword("WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS")
    arguments.end()
    return Shutdown(ShutdownMode(word.lower()) if word is not None else ShutdownMode.NOW)


COMMANDS: Final = (
    command(
        "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
        "end the daemon: at once, when links are released, or when clients have left",
        _parse,
    ),
)
