"""The PostgreSQL settings that drivers set, show and expect to be told of. They change nothing in the daemon.

The console speaks UTF-8, ISO dates and UTC whatever is asked of it: what it sends is then always what it
says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from .errors import FixedSetting, InvalidValue, Unsupported

SERVER_VERSION_NUMBER: Final = "12.0"
"""psql warns when a server is newer than itself, and drivers refuse very old ones; 12 is neither for any of
them. (psql: connection_warnings in src/bin/psql/command.c.)"""

Check = Callable[[str], str]


def _any_value(value: str) -> str:
    return value


def _utf8_only(value: str) -> str:
    if value.strip("'\"").upper().replace("-", "").replace("_", "") not in ("UTF8", "UNICODE"):
        raise Unsupported(f'the console speaks UTF8 only, not "{value}"')
    return "UTF8"


def _iso_only(value: str) -> str:
    if not value.strip("'\"").upper().startswith("ISO"):
        raise Unsupported(f'the console writes dates in ISO style only, not "{value}"')
    return "ISO, MDY"


def _on_only(value: str) -> str:
    if value.lower() not in ("on", "true", "yes", "1"):
        raise InvalidValue(f'the console reads strings the standard way only, not "{value}"')
    return "on"


@dataclass(frozen=True, slots=True)
class Setting:
    """`reported` ones are told at log-in and whenever they change (ParameterStatus); `fixed` ones cannot be
    set.
    """

    name: str
    default: str
    reported: bool = False
    fixed: bool = False
    check: Check = _any_value


_SETTINGS: Final = (
    Setting("application_name", "", reported=True),
    Setting("client_encoding", "UTF8", reported=True, check=_utf8_only),
    Setting("DateStyle", "ISO, MDY", reported=True, check=_iso_only),
    Setting("default_transaction_read_only", "off", reported=True),
    Setting("in_hot_standby", "off", reported=True, fixed=True),
    Setting("integer_datetimes", "on", reported=True, fixed=True),
    Setting("IntervalStyle", "postgres", reported=True),
    Setting("is_superuser", "on", reported=True, fixed=True),
    Setting("server_encoding", "UTF8", reported=True, fixed=True),
    Setting("server_version", SERVER_VERSION_NUMBER, reported=True, fixed=True),
    Setting("session_authorization", "", reported=True, fixed=True),
    Setting("standard_conforming_strings", "on", reported=True, check=_on_only),
    Setting("TimeZone", "UTC", reported=True),
    Setting("bytea_output", "hex"),
    Setting("client_min_messages", "notice"),
    Setting("default_transaction_deferrable", "off"),
    Setting("default_transaction_isolation", "read committed"),
    Setting("extra_float_digits", "1"),
    Setting("idle_in_transaction_session_timeout", "0"),
    Setting("idle_session_timeout", "0"),
    Setting("jit", "off"),
    Setting("lock_timeout", "0"),
    Setting("max_identifier_length", "63", fixed=True),
    Setting("search_path", '"$user", public'),
    Setting("server_version_num", "120000", fixed=True),
    Setting("statement_timeout", "0"),
    Setting("synchronous_commit", "on"),
    Setting("transaction_deferrable", "off"),
    Setting("transaction_isolation", "read committed"),
    Setting("transaction_read_only", "off"),
    Setting("transaction_timeout", "0"),
)
_BY_NAME: Final[Mapping[str, Setting]] = {setting.name.lower(): setting for setting in _SETTINGS}


def find_setting(name: str) -> Setting | None:
    """By name, in any case."""
    return _BY_NAME.get(name.lower())


class SessionSettings:
    """The values of one session. `pending` are reported settings that changed and have not been told yet."""

    def __init__(self, fixed: Mapping[str, str], startup: Mapping[str, str]) -> None:
        """`startup` comes from the start-up packet; what is unknown or refused there is passed over, since a
        driver's habits (extra_float_digits, another encoding) must not keep an operator out."""
        self._defaults = {setting.name: setting.default for setting in _SETTINGS} | dict(fixed)
        for name, value in startup.items():
            setting = find_setting(name)
            if setting is not None and not setting.fixed:
                try:
                    self._defaults[setting.name] = setting.check(value)
                except (InvalidValue, Unsupported):
                    continue
        self._values = dict(self._defaults)
        self._pending: list[str] = []

    def get(self, setting: Setting) -> str:
        return self._values[setting.name]

    def set(self, setting: Setting, value: str | None) -> None:
        """None is the value of the start of the session. Raises FixedSetting, InvalidValue, Unsupported."""
        if setting.fixed:
            raise FixedSetting(setting.name)
        self._change(setting, self._defaults[setting.name] if value is None else setting.check(value))

    def reset_all(self) -> None:
        for setting in _SETTINGS:
            self._change(setting, self._defaults[setting.name])

    def reported(self) -> list[tuple[str, str]]:
        """What a client is told at log-in."""
        return [(setting.name, self._values[setting.name]) for setting in _SETTINGS if setting.reported]

    def take_pending(self) -> list[tuple[str, str]]:
        pending, self._pending = self._pending, []
        return [(name, self._values[name]) for name in pending]

    def _change(self, setting: Setting, value: str) -> None:
        if setting.reported and self._values[setting.name] != value and setting.name not in self._pending:
            self._pending.append(setting.name)
        self._values[setting.name] = value
