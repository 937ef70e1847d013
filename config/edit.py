"""The swap as an edit of the two texts: nothing but the exchanged names changes, to the byte.

A TOML library that writes the whole document back moves tables that are not next to their kind, and with
them the comments. Here only the stretches that change are replaced; `save` checks the result by reading it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import tomlkit

from .lines import LineIndex, Path, Place


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


def swap_config_text(text: str, source: str, destination: str) -> str:
    """The configuration file after the swap; see `Config.swapped` for what that means."""
    index, values = LineIndex(text), tomllib.loads(text)
    edits: list[_Edit] = []
    other = {source: destination, destination: source}
    for position, database in enumerate(values.get("databases", [])):
        name = database["name"]
        if name in other:
            place = _place(index, ("databases", position, "name"))
            edits.append(_value(place, other[name]))
            if "database_name" not in database:
                edits.append(_added(text, place, "database_name", name))
    for position, pair in enumerate(values.get("cutover", [])):
        if {pair["source"], pair["destination"]} == {source, destination}:
            edits.extend(_exchanged_addresses(index, ("cutover", position), pair))
    return _apply(text, edits)


def swap_users_text(text: str, source: str, destination: str) -> str:
    """The users file after the swap."""
    index, values = LineIndex(text), tomllib.loads(text)
    other = {source: destination, destination: source}
    return _apply(
        text,
        [
            _value(_place(index, ("users", position, "database")), other[user["database"]])
            for position, user in enumerate(values.get("users", []))
            if user["database"] in other
        ],
    )


def _exchanged_addresses(index: LineIndex, path: Path, pair: dict[str, object]) -> Iterator[_Edit]:
    """The keys change their names and the values stay, so that a comment stays with its address."""
    for what in ("replication_host", "replication_port"):
        for here, there in (("source", "destination"), ("destination", "source")):
            if f"{here}_{what}" in pair:
                place = _place(index, (*path, f"{here}_{what}"))
                yield _Edit(*place.key, f"{there}_{what}")


def _added(text: str, after: Place, key: str, value: str) -> _Edit:
    """A new key behind another one: on a line of its own, or inside the same braces."""
    pair = f"{key} = {_quoted(value)}"
    if after.inline:
        return _Edit(after.value[1], after.value[1], f", {pair}")
    line_end = text.find("\n", after.value[1])
    line_end = len(text) if line_end < 0 else line_end
    line_end -= text.endswith("\r", 0, line_end)
    newline = "\r\n" if "\r\n" in text else "\n"
    line_start = text.rfind("\n", 0, after.key[0]) + 1
    indent = text[line_start : after.key[0]]
    return _Edit(line_end, line_end, f"{newline}{indent}{pair}")


def _value(place: Place, value: str) -> _Edit:
    return _Edit(*place.value, _quoted(value))


def _quoted(value: str) -> str:
    return tomlkit.string(value).as_string()


def _place(index: LineIndex, path: Path) -> Place:
    place = index.place(path)
    assert place is not None, path
    return place


def _apply(text: str, edits: list[_Edit]) -> str:
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
