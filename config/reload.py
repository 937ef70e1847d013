"""What a RELOAD would change, and whether it can be done without a restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from .model import Config, Section
from .problems import Problem

Effect = Literal["live", "restart"]

MASK = "***"

# A socket that listens stays where it is, and so does what was built around its name.
_RESTART_KEYS = frozenset({"general.host", "general.port", "general.workers", "admin.name"})
_RESTART_SECTIONS = ("http",)


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. None: the key, or its whole entry, is not there. Secrets are masked."""

    key: str
    old: str | None
    new: str | None
    effect: Effect

    def __str__(self) -> str:
        return f"{self.key}: {self.old or 'not set'} -> {self.new or 'not set'}"


def difference(old: Config, new: Config) -> list[Change]:
    """Every key in which the two differ: sections first, then entries that went, came or changed."""
    changes: list[Change] = []
    for name in ("general", "admin", "http", "replication"):
        changes += _compare(name, getattr(old, name), getattr(new, name))
    changes += _compare_entries("databases", _by_name(old.databases, "name"), _by_name(new.databases, "name"))
    changes += _compare_entries("cutover", _by_name(old.cutover, "source"), _by_name(new.cutover, "source"))
    users = [{f"{user.name}@{user.database}": user for user in config.users} for config in (old, new)]
    changes += _compare_entries("users", *users)
    return changes


def reloadable(old: Config, new: Config, file: str = "pgcutover.toml") -> list[Problem]:
    """Why `new` cannot replace `old` while the daemon runs; empty where it can.

    A RELOAD is all or nothing: one problem, and none of the changes is made.
    """
    return [
        Problem(
            file,
            0,
            change.key,
            f"is {change.old or 'not set'} in the running daemon and {change.new or 'not set'} in the file; "
            "it changes at a restart only, so nothing was reloaded: undo the edit, or restart",
        )
        for change in difference(old, new)
        if change.effect == "restart"
    ]


def _by_name(entries: tuple[Section, ...], key: str) -> dict[str, Section]:
    return {getattr(entry, key): entry for entry in entries}


def _compare_entries(section: str, old: Mapping[str, Section], new: Mapping[str, Section]) -> Iterator[Change]:
    for name in [*old, *(name for name in new if name not in old)]:
        key = f"{section}.{name}"
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            yield Change(key, _summary(before), _summary(after), "live")
        else:
            yield from _compare(key, before, after)


def _compare(key: str, old: Section | None, new: Section | None) -> Iterator[Change]:
    """Field by field; a section that is not there has no value in any field."""
    present = old if old is not None else new
    if present is None or old == new:
        return
    for name in type(present).model_fields:
        before, after = getattr(old, name, None), getattr(new, name, None)
        if before != after:
            yield Change(f"{key}.{name}", _shown(before), _shown(after), _effect(f"{key}.{name}"))


def _effect(key: str) -> Effect:
    return "restart" if key in _RESTART_KEYS or key.partition(".")[0] in _RESTART_SECTIONS else "live"


def _summary(entry: Section | None) -> str | None:
    """An entry that came or went, by what it says."""
    if entry is None:
        return None
    shown = ((name, _shown(getattr(entry, name))) for name in entry.model_fields_set)
    ordered = sorted((pair for pair in shown if pair[1] is not None), key=lambda pair: _order(entry, pair[0]))
    return ", ".join(f"{name} = {value}" for name, value in ordered)


def _order(entry: Section, name: str) -> int:
    return list(type(entry).model_fields).index(name)


def _shown(value: object) -> str | None:
    match value:
        case None:
            return None
        case SecretStr():
            return MASK
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case _:
            return f'"{value}"'
