"""SET and RELOAD: change the configuration of the running daemon; and SET of what drivers like to set."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from config.fields import fields_of
from config.model import General

from ..errors import FixedSetting, InvalidValue, UnknownSetting
from ..result import Rows
from ..settings import Setting, find_setting
from ..statement import Arguments, Context, Statement, command, without_arguments
from .general import LIVE_KEYS, as_text

_FIELDS: Final = fields_of(General)


@dataclass(frozen=True)
class SetKey(Statement):
    """A key of [general], until the next restart or until the files say otherwise at a RELOAD."""

    key: str
    value: str | None
    tag = "SET"
    changes = True
    goes_on = True

    async def execute(self, context: Context) -> Rows:
        if self.key not in LIVE_KEYS:
            raise FixedSetting(
                self.key,
                hint="Change it in the file and restart; SHOW CONFIG says which keys can be changed.",
            )
        value = _checked(context.services.config().general, self.key, self.value)
        await context.services.background.follow(self.tag, _set(context, self.key, value))
        return ()


async def _set(context: Context, key: str, value: object) -> None:
    await context.services.set_value(key, value)


def _checked(general: General, key: str, value: str | None) -> object:
    """The value with the type of its key; None stands for the default."""
    if value is None:
        return General.model_fields[key].default
    try:
        changed = General.model_validate({**general.model_dump(), key: value})
    except ValidationError as error:
        spec = _FIELDS[key]
        reason = error.errors(include_url=False)[0]["msg"]
        raise InvalidValue(
            f'invalid value for parameter "{key}": "{value}"',
            detail=f"{reason}." + (f" It counts {spec.unit}." if spec.unit else ""),
            hint=f"Choices: {', '.join(spec.choices)}." if spec.choices else f"Now: {as_text(getattr(general, key))}.",
        ) from None
    return getattr(changed, key)


@dataclass(frozen=True)
class SetSession(Statement):
    """A setting of this session; see settings.py. None is its value at log-in."""

    setting: Setting
    value: str | None
    tag = "SET"

    async def execute(self, context: Context) -> Rows:
        context.session.settings.set(self.setting, self.value)
        return ()


class SetNothing(Statement):
    """SET TRANSACTION and its like: there is no transaction that could have characteristics."""

    tag = "SET"

    async def execute(self, context: Context) -> Rows:
        return ()


class Reload(Statement):
    tag = "RELOAD"
    changes = True
    goes_on = True

    async def execute(self, context: Context) -> Rows:
        for line in await context.services.background.follow(self.tag, _reload(context)):
            context.tell(line)
        return ()


async def _reload(context: Context) -> Sequence[str]:
    return await context.services.reload()


def _parse_set(arguments: Arguments) -> Statement:
    arguments.keyword("SESSION", "LOCAL")
    if arguments.keyword("CHARACTERISTICS", "TRANSACTION"):
        arguments.skip()
        return SetNothing()
    if arguments.keyword("TIME"):
        if not arguments.keyword("ZONE"):
            raise arguments.problem()
        return _setting("TimeZone", _value(arguments, "LOCAL"))
    if arguments.keyword("NAMES"):
        return _setting("client_encoding", _value(arguments))
    name = arguments.name()
    if not (arguments.symbol("=") or arguments.keyword("TO")):
        raise arguments.problem()
    return _setting(name, _value(arguments))


def _value(arguments: Arguments, *words_for_default: str) -> str | None:
    """What follows up to the end; a list keeps its commas. None for DEFAULT."""
    if arguments.keyword("DEFAULT", *words_for_default):
        arguments.end()
        return None
    values = [arguments.value()]
    while arguments.symbol(","):
        values.append(arguments.value())
    arguments.end()
    return ", ".join(values)


def _setting(name: str, value: str | None) -> Statement:
    if name.lower() in _FIELDS:
        return SetKey(name.lower(), value)
    setting = find_setting(name)
    if setting is None:
        raise UnknownSetting(name, hint=_suggestion(name))
    return SetSession(setting, value)


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), _FIELDS, n=1)
    meant = f'Did you mean "{close[0]}"? ' if close else ""
    return f"{meant}SHOW CONFIG lists the keys."


COMMANDS: Final = (
    command(
        "SET key = value",
        "change a key of [general] until the next restart or RELOAD",
        _parse_set,
        words="SET",
    ),
    command("RELOAD", "read both files again and apply what changed", without_arguments(Reload)),
)
