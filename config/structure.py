"""From parsed tables to models, entry by entry, so that one bad entry hides no other's problems."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from .document import Document
from .fields import CONFIG_SECTIONS, USERS_SECTIONS, FieldSpec, Kind, SectionSpec, keys_of
from .lines import Path
from .model import Section
from .problems import Problem
from .secret import resolve, type_name

S = TypeVar("S", bound=Section)

# What the same thing is called elsewhere (libpq, PgBouncer, habit), where spelling alone does not lead there.
_OTHER_WORDS = {
    ("general", "listen_addr"): "host",
    ("general", "listen_port"): "port",
    ("databases", "dbname"): "database_name",
    ("databases", "database"): "database_name",
    ("users", "user"): "name",
    ("users", "username"): "name",
    ("users", "dbname"): "database",
}


@dataclass(slots=True)
class Entry(Generic[S]):
    """One table of a file.

    Where keys are `bad`, `model` has their defaults instead, so that the other keys can still be checked; it
    is None where a required key is bad. Its names can be referred to in any case.
    """

    document: Document
    path: Path
    label: str
    table: dict[str, Any]
    model: S | None = None
    bad: set[str] = field(default_factory=set)

    def text(self, key: str) -> str | None:
        value = self.table.get(key)
        return value if isinstance(value, str) and value else None

    def problem(self, key: str, message: str) -> Problem:
        return self.document.problem((*self.path, key), f"{self.label}.{key}" if key else self.label, message)

    def sound(self, *keys: str) -> S | None:
        """The model, if what it says about all of `keys` is what the file says."""
        return None if self.bad & set(keys) else self.model

    @property
    def line(self) -> int:
        return self.document.index.line(self.path)


def unknown_sections(document: Document, known: tuple[SectionSpec, ...]) -> list[Problem]:
    """Top-level names that mean nothing in this file, each with where it may belong."""
    names = {spec.name: spec for spec in known}
    problems = []
    for name, value in document.values.items():
        if name in names:
            continue
        close = get_close_matches(name, names, n=1)
        homes = [s.header for s in CONFIG_SECTIONS if name in keys_of(s.model)]
        if any(spec.name == name for spec in USERS_SECTIONS):
            message = "belongs in the users file"
        elif any(spec.name == name for spec in CONFIG_SECTIONS):
            message = "belongs in the configuration file, not in the users file"
        elif close:
            message = f"unknown section; did you mean {names[close[0]].header}?"
        elif homes and not isinstance(value, dict | list):
            message = f"stands outside of any section; it belongs under {homes[0]}"
        else:
            message = f"unknown section; there is {_listed([spec.header for spec in known], 'and')}"
        problems.append(document.problem((name,), name, message))
    return problems


def read_table(
    document: Document, spec: SectionSpec, environ: Mapping[str, str], problems: list[Problem]
) -> Entry[Any] | None:
    """The one table `[name]`; None where the file has none."""
    value = document.values.get(spec.name)
    if value is None:
        return None
    if not isinstance(value, dict):
        what = f"write {spec.header} with one pair of brackets" if _is_array_of_tables(value) else "must be a table"
        problems.append(document.problem((spec.name,), spec.name, f"{what}; there is only one of it"))
        return None
    return _entry(document, (spec.name,), spec.name, spec, value, environ, problems)


def read_array(
    document: Document, spec: SectionSpec, environ: Mapping[str, str], problems: list[Problem]
) -> list[Entry[Any]]:
    """The entries of `[[name]]`, in file order."""
    value = document.values.get(spec.name, [])
    if isinstance(value, dict):
        message = f"write {spec.header} with two pairs of brackets; there can be several"
        problems.append(document.problem((spec.name,), spec.name, message))
        return []
    if not isinstance(value, list):
        problems.append(document.problem((spec.name,), spec.name, f"must be tables, each under {spec.header}"))
        return []
    entries = []
    for position, table in enumerate(value):
        label = _label(spec, table, position)
        if isinstance(table, dict):
            path: Path = (spec.name, position)
            entries.append(_entry(document, path, label, spec, table, environ, problems))
        else:
            message = f"must be a table, not {type_name(table)}"
            problems.append(document.problem((spec.name, position), label, message))
    return entries


def _label(spec: SectionSpec, table: Any, position: int) -> str:
    """How messages call an entry: by what identifies it to a person, else by its number."""
    keys = {"databases": ["name"], "cutover": ["source"], "users": ["name", "database"]}[spec.name]
    names = [table.get(key) for key in keys] if isinstance(table, dict) else []
    known = [name for name in names if isinstance(name, str) and name]
    return f"{spec.name}.{'@'.join(known)}" if known else f"{spec.name}[{position + 1}]"


def _entry(
    document: Document,
    path: Path,
    label: str,
    spec: SectionSpec,
    table: dict[str, Any],
    environ: Mapping[str, str],
    problems: list[Problem],
) -> Entry[Any]:
    entry: Entry[Any] = Entry(document, path, label, dict(table))
    for key in spec.fields.values():
        if key.kind is Kind.SECRET:
            failed = resolve(document, path, label, entry.table, key.name, environ)
            problems.extend(failed)
            entry.bad |= {key.name} if failed else set()
        elif key.path is not None and (path_text := entry.text(key.name)) not in (None, *key.path.words):
            entry.table[key.name] = os.path.normpath(document.folder / str(path_text))
    entry.model, errors = _validate(spec, entry.table)
    for key_name, kind in errors.items():
        if key_name not in entry.bad:
            problems.append(entry.problem(key_name, _message(spec, key_name, kind, entry.table.get(key_name))))
    entry.bad |= set(errors)
    if errors:
        entry.model, _ = _validate(spec, {key: v for key, v in entry.table.items() if key not in errors})
    return entry


def _validate(spec: SectionSpec, table: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """The model, or pydantic's kind of error for each key that it refuses."""
    try:
        # By way of JSON, since only there pydantic's strict mode takes a word for an enum.
        return spec.model.model_validate_json(json.dumps(table, default=_not_json), strict=True), {}
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return None, {str(detail["loc"][0]): detail["type"] for detail in details}


def _not_json(value: object) -> Any:
    """A date or time becomes something that no key accepts."""
    return {"not JSON": str(value)}


def _message(spec: SectionSpec, key: str, kind: str, value: object) -> str:
    if kind == "extra_forbidden":
        return _unknown_key(spec, key)
    known = spec.fields[key]
    if kind == "missing":
        return f"is missing: {known.description}"
    match known.kind:
        case Kind.INTEGER:
            return _bad_integer(known, value)
        case Kind.BOOLEAN:
            return f"must be true or false, without quotes, not {_shown(value)}"
        case Kind.CHOICE:
            close = get_close_matches(value, known.choices, n=1) if isinstance(value, str) else []
            hint = f'; did you mean "{close[0]}"?' if close else ""
            return f"must be {_listed([json.dumps(c) for c in known.choices], 'or')}, not {_shown(value)}{hint}"
        case Kind.STRING | Kind.SECRET:
            return "must not be empty" if value == "" else f"must be a string in quotes, not {_shown(value)}"


def _bad_integer(known: FieldSpec, value: object) -> str:
    unit = f" of {known.unit}" if known.unit else ""
    if isinstance(value, bool) or not isinstance(value, int):
        hint = "; remove the quotes" if isinstance(value, str) and value.strip().isdecimal() else ""
        return f"must be a whole number{unit}, not {_shown(value)}{hint}"
    if known.maximum is None:
        return f"must be {known.minimum} or more, not {value}"
    return f"must be between {known.minimum} and {known.maximum}, not {value}"


def _unknown_key(spec: SectionSpec, key: str) -> str:
    known = list(keys_of(spec.model))
    close = [_OTHER_WORDS[spec.name, key]] if (spec.name, key) in _OTHER_WORDS else get_close_matches(key, known, n=1)
    homes = [other.header for other in (*CONFIG_SECTIONS, *USERS_SECTIONS) if key in keys_of(other.model)]
    if close:
        return f'unknown key in {spec.header}; did you mean "{close[0]}"?'
    if homes:
        return f"unknown key in {spec.header}; it belongs in {_listed(homes, 'or')}"
    if len(known) <= 12:
        return f"unknown key; {spec.header} has {_listed(known, 'and')}"
    return f'unknown key in {spec.header}; "pgcutover init" writes a file with all keys'


def _shown(value: object) -> str:
    """A value in a message: short ones as TOML would write them, others by their type."""
    if isinstance(value, str):
        return f"the string {json.dumps(value, ensure_ascii=False)}" if len(value) <= 40 else "a long string"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else type_name(value)


def _is_array_of_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _listed(words: list[str], conjunction: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
