"""Commented files to start from, made from the model: every key with its description and its default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import tomlkit

from .fields import CONFIG_SECTIONS, USERS_SECTIONS, FieldSpec, Kind, SectionSpec

_WIDTH = 100

Value = str | int | bool
Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Files:
    """The texts of both files."""

    config: str
    users: str


_CONFIG_HEAD = """\
pgcutover.toml: where the proxy listens, which databases it leads to, and which move to which.

Times are whole milliseconds; 0 means off for a time-out and for a limit. A key behind "#" shows its
default or an example. Paths are relative to the folder of this file. A password can also be given as
password_file (a path) or password_env (a name). "pgcutover check-config" lists everything that is wrong.
RELOAD; (or SIGHUP) applies changes to a running daemon, all of them or none; [general] host, port and
workers, [admin] name and [http] need a restart."""

_USERS_HEAD = """\
users.toml: who may connect to which database, and how the proxy logs in there.

Every user of a database that moves needs an entry for both databases of the pair: the names change places
at a cutover. Keep this file readable for the daemon only (mode 0600 or 0640)."""

_INTRODUCTIONS = {
    "general": "",
    "admin": "The console: psql -p 6432 -U admin admin",
    "http": "Without this section there is no HTTP port.",
    "replication": "",
    "databases": "One section for each database, the old one and the new one alike.",
    "cutover": "One section for each pair. CUTOVER; moves the traffic of source to destination.",
    "users": "",
}

_SAMPLES: Mapping[str, Sequence[Values]] = {
    "general": [{}],
    "http": [{"host": "127.0.0.1", "port": 8432}],
    "replication": [{}],
    "databases": [
        {"name": "app", "host": "10.0.0.5", "port": 5432, "database_name": "app"},
        {"name": "app_next", "host": "10.0.0.9", "port": 5432, "database_name": "app"},
    ],
    "cutover": [{"source": "app", "destination": "app_next", "user": "replicator"}],
    "users": [
        {"name": "alice", "database": "app", "password": "change-me"},
        {"name": "alice", "database": "app_next", "password": "change-me"},
        {"name": "replicator", "database": "app", "password": "change-me"},
        {"name": "replicator", "database": "app_next", "password": "change-me"},
    ],
}


def render_init(*, admin_password: str) -> Files:
    """Both files with sample addresses, for the operator to replace. They load without a problem as is."""
    samples = {**_SAMPLES, "admin": [{"name": "admin", "user": "admin", "password": admin_password}]}
    return Files(
        config=_render(_CONFIG_HEAD, CONFIG_SECTIONS, samples),
        users=_render(_USERS_HEAD, USERS_SECTIONS, samples),
    )


def render_example() -> Files:
    """What deploy/ shows: the same with a password that is obviously none."""
    return render_init(admin_password="change-me")


def _render(head: str, sections: Sequence[SectionSpec], samples: Mapping[str, Sequence[Values]]) -> str:
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for section in sections:
        introduction = _INTRODUCTIONS[section.name]
        for position, values in enumerate(samples[section.name]):
            lines.append("")
            if position == 0:
                lines += [f"# {introduction}"] if introduction else []
                lines += [section.header, *_explained(section, values)]
            else:
                lines += [section.header, *(f"{key} = {_toml(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _explained(section: SectionSpec, values: Values) -> Iterator[str]:
    for position, field in enumerate(section.fields.values()):
        if position:
            yield ""
        yield from textwrap.wrap(_comment(field), _WIDTH, initial_indent="# ", subsequent_indent="# ")
        if field.name in values:
            yield f"{field.name} = {_toml(values[field.name])}"
        else:
            shown = field.default if field.default is not None else field.example
            assert shown is not None, f"{section.name}.{field.name} needs a default or an example"
            yield f"# {field.name} = {_toml(shown)}"


def _comment(field: FieldSpec) -> str:
    parts = [field.description]
    if field.choices:
        parts.append(f"one of: {', '.join(field.choices)}")
    if field.unit:
        parts.append(field.unit)
    if field.default is not None:
        parts.append(f"default: {_toml(field.default)}")
    elif field.required:
        parts.append("required")
    elif "default:" not in field.description:
        parts.append("default: not set")
    if field.kind is Kind.SECRET and "_file" not in field.description:
        parts.append(f"or {field.name}_file, {field.name}_env")
    return "; ".join(parts)


def _toml(value: Value) -> str:
    return tomlkit.item(value).as_string()
