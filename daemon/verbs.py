"""The commands of the console as subcommands: they log in to a running daemon as an operator would.

Exit status 0 is a yes. A CHECK that found something blocking is a no, and so is every ERROR, every lost
connection, and a run whose answer does not end with its figures.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.problems import ConfigError

from . import output
from .verb_options import Connection, console_command

if TYPE_CHECKING:
    from .console_client import Answer, Door

SHUTDOWN = "SHUTDOWN"
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

Judge = Callable[["Answer"], bool]

PairArgument = Annotated[str | None, typer.Argument(help="The pair; needed where several are configured.")]
DatabaseArgument = Annotated[str | None, typer.Argument(help="The database. [default: all of them]")]


class OnOff(StrEnum):
    ON = "on"
    OFF = "off"


class Wait(StrEnum):
    SERVERS = "servers"
    CLIENTS = "clients"


def any_answer(_answer: Answer) -> bool:
    return True


def nothing_blocks(answer: Answer) -> bool:
    return all(row.get("severity") != "block" for row in answer.rows)


def run_committed(answer: Answer) -> bool:
    """A run that committed ends with its figures, rows of status "total"; any other is an ERROR.

    A step after the commit point may have failed in it: that is done later, and traffic has moved.
    """
    return any(row.get("status") == "total" for row in answer.rows)


def perform(connection: Connection, command: str, judge: Judge = any_answer) -> int:
    """Run one command of the console, print what comes back, and return the exit status."""
    from .console_client import ConsoleFailure

    notices: list[str] = []

    def notify(text: str) -> None:
        notices.append(text)
        output.tell(text)

    report: dict[str, Any] = {"ok": False, "command": command, "notices": notices}
    try:
        answer = asyncio.run(_ask(connection.door(), command, notify))
    except ConfigError as error:
        report["problems"] = [output.problem_json(problem) for problem in error.problems]
        output.print_problems(error.problems)
    except ConsoleFailure as error:
        texts = {"message": error.message, "detail": error.detail, "hint": error.hint}
        report["error"] = {"sqlstate": error.sqlstate, **texts}
        output.print_error(**texts)
    except KeyboardInterrupt:
        output.print_error("interrupted", hint='"pgcutover show cutover" says what goes on in the daemon.')
        return _INTERRUPTED
    else:
        report.update(ok=judge(answer), rows=answer.rows)
        if not connection.json:
            _print_answer(command, answer)
    if connection.json:
        output.print_json(report)
    return 0 if report["ok"] else 1


async def _ask(door: Door, command: str, notify: Callable[[str], None]) -> Answer:
    """As `ask`; but where SHUTDOWN ends our session before it could answer, the end itself is the answer."""
    from .console_client import Answer, ConnectionBroken, ask, is_gone

    try:
        return await ask(door, command, notify)
    except ConnectionBroken:
        if command == SHUTDOWN and await is_gone(door):
            return Answer((), [])
        raise


def name(text: str) -> str:
    """A name as the console takes it, whatever characters it has."""
    return '"' + text.replace('"', '""') + '"'


def sentence(words: str, *names: str | None) -> str:
    return " ".join([words, *(name(text) for text in names if text is not None)])


def show_sentence(what: str, pair: str | None) -> str:
    """SHOW takes a keyword, which must not be quoted. Raises typer.BadParameter for anything else."""
    if re.fullmatch(r"[A-Za-z][A-Za-z_]*", what) is None:
        raise typer.BadParameter(f'"{what}" is not a thing to show; "pgcutover show help" lists them')
    return sentence(f"SHOW {what.upper()}", pair)


def _print_answer(command: str, answer: Answer) -> None:
    if answer.columns:
        output.print_rows(answer.columns, answer.rows)
    else:
        output.tell(f"{command}: done")


def add_verbs(app: typer.Typer) -> None:
    """All verbs as subcommands of `app`."""
    for verb, (judge, help_text) in _PAIR_VERBS.items():
        app.command(verb, help=help_text)(console_command(_pair_verb(verb.upper(), judge)))
    for verb, help_text in _DATABASE_VERBS.items():
        app.command(verb, help=help_text)(console_command(_database_verb(verb.upper().replace("-", "_"))))
    for function in (show, maintenance, disable, enable, set_key, reload, shutdown):
        app.command(function.__name__.removesuffix("_key"))(console_command(function))


_PAIR_VERBS: dict[str, tuple[Judge, str]] = {
    "check": (nothing_blocks, "All preflight checks. Exit status 1 if one of them blocks."),
    "replicate": (any_answer, "Copy schema and data, then keep the destination in step."),
    "cutover": (run_committed, "Move all traffic to the destination. Exit status 0 only if it is there."),
    "revert": (run_committed, "Move all traffic back. Exit status 0 only if it is there."),
    "complete": (any_answer, "End the move; the old database stays fenced."),
    "reset": (any_answer, "Before a cutover: remove everything the move made, on both sides."),
}

_DATABASE_VERBS: dict[str, str] = {
    "pause": "Hold clients; answers when nothing is under way any more.",
    "resume": "End a pause or a kill.",
    "reconnect": "Replace links to servers when their sessions let them go.",
    "wait-close": "Wait until no link is left that reconnect marked.",
    "kill": "Close clients and links at once; the database stays paused.",
}


def _pair_verb(words: str, judge: Judge) -> Callable[..., int]:
    def verb(connection: Connection, pair: PairArgument = None) -> int:
        return perform(connection, sentence(words, pair), judge)

    return verb


def _database_verb(words: str) -> Callable[..., int]:
    def verb(connection: Connection, db: DatabaseArgument = None) -> int:
        return perform(connection, sentence(words, db))

    return verb


def show(
    connection: Connection,
    what: Annotated[str, typer.Argument(help='cutover, cutover_history, clients, ...; "help" lists all.')],
    pair: PairArgument = None,
) -> int:
    """What the daemon shows of itself: SHOW of the console."""
    return perform(connection, show_sentence(what, pair))


def maintenance(connection: Connection, state: OnOff, db: DatabaseArgument = None) -> int:
    """Hold clients that are not inside a transaction, without waiting for any; or let them go."""
    return perform(connection, sentence(f"MAINTENANCE {state.upper()}", db))


def disable(connection: Connection, db: Annotated[str, typer.Argument(help="The database.")]) -> int:
    """Refuse new clients of a database."""
    return perform(connection, sentence("DISABLE", db))


def enable(connection: Connection, db: Annotated[str, typer.Argument(help="The database.")]) -> int:
    """Accept new clients of a database again."""
    return perform(connection, sentence("ENABLE", db))


def set_key(
    connection: Connection,
    key: Annotated[str, typer.Argument(help="A key of [general]; show config lists them.")],
    value: Annotated[str, typer.Argument(help="As in the configuration file, without quotes.")],
) -> int:
    """Change a key of [general] until the next restart or reload."""
    literal = "'" + value.replace("'", "''") + "'"
    return perform(connection, f"SET {name(key)} = {literal}")


def reload(connection: Connection) -> int:
    """Have the daemon read both files again and apply what changed, all of it or nothing."""
    return perform(connection, "RELOAD")


def shutdown(
    connection: Connection,
    wait: Annotated[Wait | None, typer.Option(help="For links to be released, or for clients to leave.")] = None,
) -> int:
    """End the daemon."""
    return perform(connection, SHUTDOWN if wait is None else f"{SHUTDOWN} WAIT_FOR_{wait.upper()}")
