"""What to send to a link so that its session has the wanted state, given the state it has.

Each item is one statement run through the extended protocol, so that a text which holds several commands is
refused by the server instead of running twice (Parse accepts one command only). The order matters: the client
encoding before any text, settings as the user who logged in (some may be set by a superuser only), then the user,
who is there before statements are parsed (parsing looks up schemas with the current user's rights). Time-outs
come last, so that they do not hit what is replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .capture import Prepared, SessionState
from .sqltext import prepare_command

SET_CONFIG = b"SELECT pg_catalog.set_config($1, $2, false)"

UNKNOWN_ROLE = b""
"""The role of a session that was never asked: ALTER ROLE ... SET role may have given it one at its start."""

_ENCODING = b"client_encoding"
_STATEMENT_TIMEOUT = b"statement_timeout"
_TIMEOUTS = (b"lock_timeout", b"transaction_timeout", _STATEMENT_TIMEOUT)


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


def items(have: SessionState, want: SessionState, type_oids: Mapping[bytes, int], login_user: bytes) -> list[Item]:
    """The statements that lead from `have` to `want`. `login_user` is who the link logged in as. Raises
    CannotReplay."""
    timeouts = _settings(_only(have.settings, _TIMEOUTS), _only(want.settings, _TIMEOUTS))
    settings = _settings(_without(have.settings, _TIMEOUTS), _without(want.settings, _TIMEOUTS))
    settings += _settings(have.custom, want.custom)
    user, role = have.session_user or login_user, have.role
    result: list[Item] = []
    if settings and user != login_user:
        result.append(Run("session authorization", b"RESET SESSION AUTHORIZATION"))
        user, role = login_user, b"none"
    if settings and role not in (b"none", UNKNOWN_ROLE):
        result.append(Run("role", b"SET ROLE NONE"))
        role = b"none"
    result += settings
    if user != want.session_user:
        result.append(Run("session authorization", b"SET SESSION AUTHORIZATION " + quoted(want.session_user)))
        role = b"none"
    if role != want.role:
        wanted = b"NONE" if want.role == b"none" else quoted(want.role)
        result.append(Run("role", b"SET ROLE " + wanted))
    result += _prepared(have.prepared, want.prepared, type_oids)
    result += [Run("LISTEN", b"LISTEN " + quoted(name)) for name in sorted(want.channels - have.channels)]
    result += [Run("UNLISTEN", b"UNLISTEN " + quoted(name)) for name in sorted(have.channels - want.channels)]
    return _unhurried(result, have.settings, want.settings) + timeouts


def _unhurried(rest: list[Item], have: Mapping[bytes, bytes], want: Mapping[bytes, bytes]) -> list[Item]:
    """The rest runs without the statement_timeout that an earlier replay has set."""
    timeout = have.get(_STATEMENT_TIMEOUT, b"0")
    if not rest or timeout == b"0":
        return rest
    before = Run("statement_timeout", SET_CONFIG, (_STATEMENT_TIMEOUT, b"0"))
    if want.get(_STATEMENT_TIMEOUT) != timeout:
        return [before, *rest]  # it is set or reset behind them anyway
    return [before, *rest, Run("statement_timeout", SET_CONFIG, (_STATEMENT_TIMEOUT, timeout))]


def _only(settings: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> dict[bytes, bytes]:
    return {name: value for name, value in settings.items() if name in names}


def _without(settings: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> dict[bytes, bytes]:
    return {name: value for name, value in settings.items() if name not in names}


def _settings(have: Mapping[bytes, bytes], want: Mapping[bytes, bytes]) -> list[Item]:
    changed = {name: _setting(name, value) for name, value in want.items() if have.get(name) != value}
    gone = {name: _reset(name) for name in have.keys() - want.keys()}
    return [item for _, item in sorted((changed | gone).items(), key=lambda pair: (pair[0] != _ENCODING, pair[0]))]


def _setting(name: bytes, value: bytes) -> Item:
    return Run(f"setting {name.decode('utf-8', 'replace')}", SET_CONFIG, (name, value))


def _reset(name: bytes) -> Item:
    parts = b".".join(quoted(part) for part in name.split(b"."))
    return Run(f"reset of {name.decode('utf-8', 'replace')}", b"RESET " + parts)


def _prepared(
    have: Mapping[bytes, Prepared], want: Mapping[bytes, Prepared], type_oids: Mapping[bytes, int]
) -> list[Item]:
    result: list[Item] = []
    result += [CloseNamed("prepared statement", name) for name in sorted(have) if want.get(name) != have[name]]
    for name, statement in sorted(want.items()):
        if have.get(name) == statement:
            continue
        shown = name.decode("utf-8", "replace")
        if statement.from_sql:
            command = prepare_command(statement.text, name)
            if command is None:
                raise CannotReplay(f'prepared statement "{shown}" cannot be told from the commands around it')
            result.append(Run(f"PREPARE {shown}", command))
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
