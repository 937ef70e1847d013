"""What to send to a link so that its session has the wanted state, given the state it has.

Each item is one statement run through the extended protocol, so that a text which holds several commands is
refused by the server instead of running twice (Parse accepts one command only). The order matters: the client
encoding before any text, settings before a change of user (some may be set by a superuser only), the user
before statements are parsed (parsing looks up schemas with the current user's rights).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .capture import Prepared, SessionState

SET_CONFIG = b"SELECT pg_catalog.set_config($1, $2, false)"

_PREPARE_ALONE = re.compile(rb"\s*prepare\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Run:
    """Run one SQL statement with text parameters."""

    what: str
    sql: bytes
    parameters: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ParseNamed:
    """Send a Parse message for a named protocol-level statement."""

    what: str
    name: bytes
    text: bytes
    type_oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CloseNamed:
    what: str
    name: bytes


Item = Run | ParseNamed | CloseNamed


class CannotReplay(Exception):
    """A piece of state that cannot be given to another link; the text names it."""


def type_names(state: SessionState) -> set[bytes]:
    """Qualified names of user-defined parameter types, whose OIDs differ from server to server."""
    return {t for statement in state.prepared.values() for t in statement.types if not t.isdigit()}


def items(have: SessionState, want: SessionState, type_oids: Mapping[bytes, int]) -> list[Item]:
    """The statements that lead from `have` to `want`. Raises CannotReplay."""
    result: list[Item] = []
    result += _settings(have.settings, want.settings)
    result += _settings(have.custom, want.custom)
    user_changed = have.session_user != want.session_user and have.session_user != b""
    if user_changed:
        result.append(Run("session authorization", b"SET SESSION AUTHORIZATION " + quoted(want.session_user)))
    if have.role != want.role or (user_changed and want.role != b"none"):
        role = b"NONE" if want.role == b"none" else quoted(want.role)
        result.append(Run("role", b"SET ROLE " + role))
    result += _prepared(have.prepared, want.prepared, type_oids)
    for channel in sorted(want.channels - have.channels):
        result.append(Run("LISTEN", b"LISTEN " + quoted(channel)))
    for channel in sorted(have.channels - want.channels):
        result.append(Run("UNLISTEN", b"UNLISTEN " + quoted(channel)))
    return result


def _settings(have: Mapping[bytes, bytes], want: Mapping[bytes, bytes]) -> list[Item]:
    result: list[Item] = []
    for name in sorted(want, key=lambda n: (n != b"client_encoding", n)):
        if have.get(name) != want[name]:
            result.append(Run(f"setting {name.decode('utf-8', 'replace')}", SET_CONFIG, (name, want[name])))
    for name in sorted(have.keys() - want.keys()):
        parts = b".".join(quoted(part) for part in name.split(b"."))
        result.append(Run(f"reset of {name.decode('utf-8', 'replace')}", b"RESET " + parts))
    return result


def _prepared(
    have: Mapping[bytes, Prepared], want: Mapping[bytes, Prepared], type_oids: Mapping[bytes, int]
) -> list[Item]:
    result: list[Item] = []
    for name in sorted(have):
        if want.get(name) != have[name]:
            result.append(CloseNamed("prepared statement", name))
    for name, statement in sorted(want.items()):
        if have.get(name) == statement:
            continue
        shown = name.decode("utf-8", "replace")
        if statement.from_sql:
            if not _PREPARE_ALONE.match(statement.text):
                raise CannotReplay(f'prepared statement "{shown}" was not made by a PREPARE of its own')
            result.append(Run(f"PREPARE {shown}", statement.text))
        else:
            oids = tuple(_oid(t, shown, type_oids) for t in statement.types)
            result.append(ParseNamed(f"prepared statement {shown}", name, statement.text, oids))
    return result


def _oid(name: bytes, statement: str, type_oids: Mapping[bytes, int]) -> int:
    if name.isdigit():
        return int(name)
    if name not in type_oids:
        raise CannotReplay(
            f'prepared statement "{statement}" has a parameter of type {name.decode("utf-8", "replace")}, '
            "which the other server does not have"
        )
    return type_oids[name]


def quoted(identifier: bytes) -> bytes:
    return b'"' + identifier.replace(b'"', b'""') + b'"'
