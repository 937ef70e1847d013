"""What drivers do to their session: SHOW of a setting, RESET ALL, DISCARD, DEALLOCATE, CLOSE, UNLISTEN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from config.model import General

from ..errors import InvalidCommand, UnknownStatement
from ..lexer import Kind
from ..result import Column, Columns, Rows, Type
from ..settings import Setting, find_setting
from ..statement import Arguments, Command, Context, Statement, habit, with_name, without_arguments
from .general import ShowKey


@dataclass(frozen=True)
class ShowSetting(Statement):
    setting: Setting
    tag = "SHOW"

    def described(self) -> Columns:
        return (Column(self.setting.name, Type.TEXT),)

    async def execute(self, context: Context) -> Rows:
        return [(context.session.settings.get(self.setting),)]


class ResetAll(Statement):
    """RESET ALL, in any case and unquoted. A pair called "all" is written in quotes."""

    tag = "RESET"

    async def execute(self, context: Context) -> Rows:
        context.session.settings.reset_all()
        return ()


@dataclass(frozen=True)
class Discard(Statement):
    what: str
    tag = "DISCARD"

    async def execute(self, context: Context) -> Rows:
        if self.what == "ALL":
            session = context.session
            session.settings.reset_all()
            session.prepared.clear()
            session.portals.clear()
        return ()

    def completion(self, row_count: int) -> str:
        return f"DISCARD {self.what}"


@dataclass(frozen=True)
class Deallocate(Statement):
    """None for all."""

    name: str | None
    tag = "DEALLOCATE"

    async def execute(self, context: Context) -> Rows:
        prepared = context.session.prepared
        if self.name is None:
            prepared.clear()
        elif prepared.pop(self.name, None) is None:
            raise UnknownStatement(self.name)
        return ()

    def completion(self, row_count: int) -> str:
        return "DEALLOCATE ALL" if self.name is None else "DEALLOCATE"


class CloseAll(Statement):
    tag = "CLOSE CURSOR ALL"

    async def execute(self, context: Context) -> Rows:
        context.session.portals.clear()
        return ()


@dataclass(frozen=True)
class Unlisten(Statement):
    """Nobody can listen here, so there is nothing to end."""

    channel: str
    tag = "UNLISTEN"

    async def execute(self, context: Context) -> Rows:
        return ()


def _show(arguments: Arguments) -> Statement:
    token = arguments.take(Kind.WORD, Kind.QUOTED)
    if token is None:
        raise InvalidCommand("SHOW")
    name = token.value
    if token.is_word("TIME") and arguments.keyword("ZONE"):
        name = "TimeZone"
    elif token.is_word("TRANSACTION") and arguments.keyword("ISOLATION") and arguments.keyword("LEVEL"):
        name = "transaction_isolation"
    elif token.is_word("SESSION") and arguments.keyword("AUTHORIZATION"):
        name = "session_authorization"
    setting = find_setting(name)
    if arguments.left or (setting is None and name.lower() not in General.model_fields):
        raise InvalidCommand(f"SHOW {name}")
    return ShowSetting(setting) if setting is not None else ShowKey(name.lower())


def _discard(arguments: Arguments) -> Statement:
    what = arguments.keyword("ALL", "PLANS", "SEQUENCES", "TEMP", "TEMPORARY")
    if what is None:
        raise arguments.problem()
    arguments.end()
    return Discard("TEMP" if what == "TEMPORARY" else what)


def _deallocate(arguments: Arguments) -> Statement:
    arguments.keyword("PREPARE")
    if arguments.keyword("ALL"):
        arguments.end()
        return Deallocate(None)
    return with_name(Deallocate)(arguments)


def _unlisten(arguments: Arguments) -> Statement:
    if arguments.symbol("*"):
        arguments.end()
        return Unlisten("*")
    return with_name(Unlisten)(arguments)


COMMANDS: Final[tuple[Command, ...]] = (
    habit("SHOW", _show),
    habit("RESET ALL", without_arguments(ResetAll)),
    habit("DISCARD", _discard),
    habit("DEALLOCATE", _deallocate),
    habit("CLOSE ALL", without_arguments(CloseAll)),
    habit("UNLISTEN", _unlisten),
)
