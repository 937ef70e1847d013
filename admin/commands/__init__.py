"""The registry: every command of the console, in the order in which SHOW HELP lists them.

One file per command or close family; each ends with its part of the registry.
"""

from __future__ import annotations

from typing import Final

from ..statement import Command
from . import (
    databases,
    general,
    help,
    links,
    lists,
    moves,
    pause,
    select,
    session,
    set,
    shutdown,
    sockets,
    stats,
    streams,
    transaction,
)

COMMANDS: Final[tuple[Command, ...]] = (
    *moves.COMMANDS,
    *streams.COMMANDS,
    help.help_command(lambda: COMMANDS),
    *databases.COMMANDS,
    *sockets.COMMANDS,
    *lists.COMMANDS,
    *stats.COMMANDS,
    *general.COMMANDS,
    *pause.COMMANDS,
    *links.COMMANDS,
    *set.COMMANDS,
    *shutdown.COMMANDS,
    *transaction.COMMANDS,
    *session.COMMANDS,
    *select.COMMANDS,
)
