"""BEGIN, COMMIT, ROLLBACK and savepoints: drivers send them; a command takes effect when it runs
(session.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import NoTransaction
from ..result import Rows
from ..statement import Arguments, Command, Context, Statement, habit, with_name

_ACTIVE: Final = "25001"
_NONE_ACTIVE: Final = "25P01"


@dataclass(frozen=True)
class Begin(Statement):
    started_by: str
    tag = "BEGIN"

    async def execute(self, context: Context) -> Rows:
        if context.session.in_transaction:
            context.tell("there is already a transaction in progress", severity="WARNING", sqlstate=_ACTIVE)
        context.session.in_transaction = True
        return ()

    def completion(self, row_count: int) -> str:
        return self.started_by


class Commit(Statement):
    tag = "COMMIT"

    async def execute(self, context: Context) -> Rows:
        session = context.session
        if not session.in_transaction:
            context.tell("there is no transaction in progress", severity="WARNING", sqlstate=_NONE_ACTIVE)
        session.end_transaction()
        return ()


class Rollback(Statement):
    tag = "ROLLBACK"

    async def execute(self, context: Context) -> Rows:
        session = context.session
        if not session.in_transaction:
            context.tell("there is no transaction in progress", severity="WARNING", sqlstate=_NONE_ACTIVE)
        elif session.effects:
            done = ", ".join(dict.fromkeys(session.effects))
            context.tell(
                f"not undone, commands take effect when they run: {done}",
                severity="WARNING",
                sqlstate="01000",
            )
        session.end_transaction()
        return ()


@dataclass(frozen=True)
class Savepoint(Statement):
    name: str
    tag = "SAVEPOINT"

    async def execute(self, context: Context) -> Rows:
        if not context.session.in_transaction:
            raise NoTransaction(self.words)
        return ()

    @property
    def words(self) -> str:
        return self.tag


class Release(Savepoint):
    tag = "RELEASE"

    @property
    def words(self) -> str:
        return "RELEASE SAVEPOINT"


class RollbackTo(Savepoint):
    tag = "ROLLBACK"

    @property
    def words(self) -> str:
        return "ROLLBACK TO SAVEPOINT"


def _begin(arguments: Arguments) -> Statement:
    arguments.skip()  # isolation level, READ ONLY, DEFERRABLE: nothing here depends on them
    return Begin("BEGIN")


def _start(arguments: Arguments) -> Statement:
    arguments.skip()
    return Begin("START TRANSACTION")


def _end(arguments: Arguments, statement: Statement) -> Statement:
    if arguments.keyword("AND") and not (arguments.keyword("NO") and arguments.keyword("CHAIN")):
        raise arguments.problem()
    arguments.end()
    return statement


def _commit(arguments: Arguments) -> Statement:
    arguments.keyword("WORK", "TRANSACTION")
    return _end(arguments, Commit())


def _rollback(arguments: Arguments) -> Statement:
    arguments.keyword("WORK", "TRANSACTION")
    if arguments.keyword("TO"):
        arguments.keyword("SAVEPOINT")
        return with_name(RollbackTo)(arguments)
    return _end(arguments, Rollback())


def _release(arguments: Arguments) -> Statement:
    arguments.keyword("SAVEPOINT")
    return with_name(Release)(arguments)


COMMANDS: Final[tuple[Command, ...]] = (
    habit("BEGIN", _begin),
    habit("START TRANSACTION", _start),
    habit("COMMIT", _commit),
    habit("END", _commit),
    habit("ROLLBACK", _rollback),
    habit("ABORT", _rollback),
    habit("SAVEPOINT", with_name(Savepoint)),
    habit("RELEASE", _release),
)
