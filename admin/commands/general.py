"""SHOW CONFIG, SHOW VERSION and SHOW of one key: what [general] says. Nothing secret is in that section."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from config.fields import fields_of
from config.model import General

from ..result import Column, Columns, Rows, Type, columns
from ..statement import Context, Statement, command, without_arguments

CONFIG: Final[Columns] = columns(Type.TEXT, "key", "value", "default", "changeable")
VERSION: Final[Columns] = columns(Type.TEXT, "version")

LIVE_KEYS: Final = frozenset(
    {
        "max_client_conn",
        "default_pool_size",
        "client_login_timeout",
        "client_idle_timeout",
        "client_idle_in_transaction_timeout",
        "query_timeout",
        "query_wait_timeout",
        "connect_timeout",
        "shutdown_timeout",
        "log_level",
        "cutover_save_config",
        "cutover_max_pause",
        "cutover_transaction_timeout",
        "cutover_transaction_action",
        "cutover_traffic_stop_threshold",
        "cutover_session_policy",
        "cutover_missing_node",
        "cutover_fence",
    }
)
"""Keys that SET may change while the daemon runs. The others are bound to sockets, files or processes."""


class ShowConfig(Statement):
    tag = "SHOW"
    columns = CONFIG

    async def execute(self, context: Context) -> Rows:
        general = context.services.config().general
        return [
            (
                name,
                as_text(getattr(general, name)),
                as_text(spec.default),
                "yes" if name in LIVE_KEYS else "no",
            )
            for name, spec in fields_of(General).items()
        ]


class ShowVersion(Statement):
    tag = "SHOW"
    columns = VERSION

    async def execute(self, context: Context) -> Rows:
        return [(f"pgcutover {context.services.version}",)]


@dataclass(frozen=True)
class ShowKey(Statement):
    key: str
    tag = "SHOW"

    def described(self) -> Columns:
        return (Column(self.key, Type.TEXT),)

    async def execute(self, context: Context) -> Rows:
        return [(as_text(getattr(context.services.config().general, self.key)),)]


def as_text(value: object) -> str | None:
    """A value as the configuration file would have it; None for none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        value = value.value
    return None if value is None else str(value)


COMMANDS: Final = (
    command("SHOW CONFIG", "keys of [general], and which of them SET can change", without_arguments(ShowConfig)),
    command("SHOW VERSION", "version of the daemon", without_arguments(ShowVersion)),
)
