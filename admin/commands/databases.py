"""SHOW DATABASES, POOLS, USERS, STATE: PgBouncer's columns.

What does not exist here reads as PgBouncer writes "not set": 0 for a limit, NULL for a name.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from proxy.views import DatabaseView, PoolView

from ..result import Column, Columns, Row, Rows, Type, columns
from ..statement import Context, Statement, command, without_arguments

DATABASES: Final[Columns] = (
    *columns(Type.TEXT, "name", "host"),
    Column("port", Type.INT4),
    *columns(Type.TEXT, "database", "force_user"),
    *columns(Type.INT4, "pool_size", "min_pool_size", "reserve_pool_size", "server_lifetime"),
    *columns(Type.TEXT, "pool_mode", "load_balance_hosts"),
    *columns(
        Type.INT4,
        "max_connections",
        "current_connections",
        "max_client_connections",
        "current_client_connections",
        "paused",
        "disabled",
    ),
)
POOLS: Final[Columns] = (
    *columns(Type.TEXT, "database", "user"),
    *columns(
        Type.INT4,
        "cl_active",
        "cl_waiting",
        "cl_active_cancel_req",
        "cl_waiting_cancel_req",
        "sv_active",
        "sv_active_cancel",
        "sv_being_canceled",
        "sv_idle",
        "sv_used",
        "sv_tested",
        "sv_login",
        "maxwait",
        "maxwait_us",
    ),
    *columns(Type.TEXT, "pool_mode", "load_balance_hosts"),
)
USERS: Final[Columns] = (
    *columns(Type.TEXT, "name", "pool_size", "reserve_pool_size", "pool_mode"),
    *columns(
        Type.INT4,
        "max_user_connections",
        "current_connections",
        "max_user_client_connections",
        "current_client_connections",
    ),
)
STATE: Final[Columns] = columns(Type.TEXT, "key", "value")
_MICROSECONDS: Final = 1_000_000


class ShowDatabases(Statement):
    tag = "SHOW"
    columns = DATABASES

    async def execute(self, context: Context) -> Rows:
        return [_database(view) for view in context.services.proxy.databases()]


def _database(view: DatabaseView) -> Row:
    values: dict[str, object] = {
        "name": view.name,
        "host": view.host,
        "port": view.port,
        "database": view.database,
        "pool_size": view.pool_size,
        "min_pool_size": 0,
        "reserve_pool_size": 0,
        "server_lifetime": 0,
        "pool_mode": view.pool_mode,
        "max_connections": view.pool_size,
        "current_connections": view.current_connections,
        "max_client_connections": 0,
        "current_client_connections": view.current_client_connections,
        "paused": int(view.paused),
        "disabled": int(view.disabled),
    }
    return [values.get(column.name) for column in DATABASES]


class ShowPools(Statement):
    tag = "SHOW"
    columns = POOLS

    async def execute(self, context: Context) -> Rows:
        return [_pool(view) for view in context.services.proxy.pools()]


def _pool(view: PoolView) -> Row:
    """Cancels have connections of their own, and no links are tested or kept for later: those are 0."""
    values: dict[str, object] = {
        "database": view.database,
        "user": view.user,
        "cl_active": view.cl_active,
        "cl_waiting": view.cl_waiting,
        "sv_active": view.sv_active,
        "sv_idle": view.sv_idle,
        "sv_login": view.sv_login,
        "maxwait": view.maxwait_us // _MICROSECONDS,
        "maxwait_us": view.maxwait_us % _MICROSECONDS,
        "pool_mode": view.pool_mode,
    }
    return [values.get(column.name, 0 if column.type is Type.INT4 else None) for column in POOLS]


class ShowUsers(Statement):
    tag = "SHOW"
    columns = USERS

    async def execute(self, context: Context) -> Rows:
        links = Counter(view.user for view in context.services.proxy.servers())
        clients = Counter(view.user for view in context.services.proxy.clients())
        names = dict.fromkeys(user.name for user in context.services.config().users)
        return [(name, None, None, None, 0, links[name], 0, clients[name]) for name in names]


class ShowState(Statement):
    """`paused` where every database is: PgBouncer shows a PAUSE without a name here."""

    tag = "SHOW"
    columns = STATE

    async def execute(self, context: Context) -> Rows:
        views = context.services.proxy.databases()
        paused = bool(views) and all(view.paused for view in views)
        return [("active", _yes(not paused)), ("paused", _yes(paused)), ("suspended", _yes(False))]


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


COMMANDS: Final = (
    command(
        "SHOW DATABASES",
        "databases: where they lead, connections, paused, disabled",
        without_arguments(ShowDatabases),
    ),
    command("SHOW POOLS", "clients and links per database and user", without_arguments(ShowPools)),
    command("SHOW USERS", "users of users.toml with their connections", without_arguments(ShowUsers)),
    command("SHOW STATE", "active or paused", without_arguments(ShowState)),
)
