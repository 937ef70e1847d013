"""SELECT of constants, and of the functions that drivers and health checks ask by themselves. No more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import InvalidCommand
from ..lexer import Kind
from ..result import Column, Columns, Rows, Type
from ..settings import SERVER_VERSION_NUMBER
from ..statement import Arguments, Command, Context, Statement, habit

Answer = Callable[[Context], Any]
_UNNAMED: Final = "?column?"
_LARGEST_INT4: Final = 2**31 - 1
_LARGEST_INT8: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Item:
    column: Column
    answer: Answer


def version_text(daemon_version: str) -> str:
    return f"PostgreSQL {SERVER_VERSION_NUMBER} (pgcutover {daemon_version} admin console)"


_FUNCTIONS: Final[dict[str, tuple[Type, Answer]]] = {
    "version": (Type.TEXT, lambda context: version_text(context.services.version)),
    "current_database": (Type.TEXT, lambda context: context.session.database),
    "current_schema": (Type.TEXT, lambda _context: "public"),
    "pg_backend_pid": (Type.INT4, lambda context: context.session.pid),
    "pg_is_in_recovery": (Type.BOOL, lambda _context: False),
    "pg_advisory_unlock_all": (Type.VOID, lambda _context: ""),
    "pg_postmaster_start_time": (Type.TIMESTAMPTZ, lambda context: context.services.started_at),
    "now": (Type.TIMESTAMPTZ, lambda _context: datetime.now(UTC)),
}
_BARE: Final[dict[str, tuple[Type, Answer]]] = {
    "current_user": (Type.TEXT, lambda context: context.session.user),
    "session_user": (Type.TEXT, lambda context: context.session.user),
    "user": (Type.TEXT, lambda context: context.session.user),
    "current_catalog": (Type.TEXT, lambda context: context.session.database),
    "current_schema": _FUNCTIONS["current_schema"],
    "current_timestamp": _FUNCTIONS["now"],
}
_LITERALS: Final[dict[str, tuple[str, Type, Any]]] = {
    "true": ("bool", Type.BOOL, True),
    "false": ("bool", Type.BOOL, False),
    "null": (_UNNAMED, Type.TEXT, None),
}


@dataclass(frozen=True)
class Select(Statement):
    items: tuple[_Item, ...]
    tag = "SELECT"

    def described(self) -> Columns:
        return tuple(item.column for item in self.items)

    async def execute(self, context: Context) -> Rows:
        return [tuple(item.answer(context) for item in self.items)]

    def completion(self, row_count: int) -> str:
        return f"SELECT {row_count}"


def _parse(arguments: Arguments) -> Statement:
    items = [_item(arguments)]
    while arguments.symbol(","):
        items.append(_item(arguments))
    if arguments.left:
        raise InvalidCommand("SELECT")
    return Select(tuple(items))


def _item(arguments: Arguments) -> _Item:
    name, type, answer = _expression(arguments)
    if arguments.keyword("AS"):
        name = arguments.name()
    return _Item(Column(name, type), answer)


def _expression(arguments: Arguments) -> tuple[str, Type, Answer]:
    token = arguments.take(Kind.STRING, Kind.NUMBER, Kind.WORD)
    if token is None:
        raise InvalidCommand("SELECT")
    if token.kind is Kind.STRING:
        return _constant(_UNNAMED, Type.TEXT, token.value)
    if token.kind is Kind.NUMBER:
        return _number(token.value)
    name = token.value.lower().removeprefix("pg_catalog.")
    if arguments.symbol("("):
        if not arguments.symbol(")") or name not in _FUNCTIONS:
            raise InvalidCommand("SELECT")
        return name, *_FUNCTIONS[name]
    if name in _LITERALS:
        return _constant(*_LITERALS[name])
    if name in _BARE:
        return name, *_BARE[name]
    raise InvalidCommand("SELECT")


def _number(digits: str) -> tuple[str, Type, Answer]:
    # The length first: reading thousands of digits is costly.
    if not digits.isdecimal() or len(digits) > len(str(_LARGEST_INT8)) or int(digits) > _LARGEST_INT8:
        raise InvalidCommand("SELECT")
    value = int(digits)
    return _constant(_UNNAMED, Type.INT4 if value <= _LARGEST_INT4 else Type.INT8, value)


def _constant(name: str, type: Type, value: Any) -> tuple[str, Type, Answer]:
    return name, type, lambda _context: value


COMMANDS: Final[tuple[Command, ...]] = (habit("SELECT", _parse),)
