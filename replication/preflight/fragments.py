"""Words of SQL that several checks share. Control sessions run with search_path = pg_catalog, so names of the
system catalogue need no schema here, and regclass and its kin print every other name with its schema."""

from __future__ import annotations

from ..session import ControlSession
from ..sqltext import identifier
from .model import CannotCheck, CheckContext

OWN_SCHEMA = "pgcutover"
CONTROL_APPLICATION = "pgcutover"
"""application_name of control sessions starts with this."""


IS_CONTROL = f"(a.application_name like '{CONTROL_APPLICATION}%' and a.usename = current_user)"
"""Condition on pg_stat_activity `a`: a control session of ours, logged in as the control user."""

WHO = "format('pid %s, %s%s', a.pid, a.usename, coalesce(', ' || nullif(a.application_name, ''), ''))"

RELATIONS = "pg_class c join pg_namespace n on n.oid = c.relnamespace"
"""FROM item: every relation `c` with its schema `n`; users_relation() tells which are the user's."""

HERE = "(select oid from pg_database where datname = current_database())"


def users_schema(namespace: str) -> str:
    """Condition: the schema (alias of pg_namespace) is the user's, not the server's and not ours."""
    others = f"('information_schema', '{OWN_SCHEMA}')"
    return f"({namespace}.nspname !~ '^pg_' and {namespace}.nspname not in {others})"


def not_of_extension(catalogue: str, oid: str) -> str:
    """Condition: no extension owns the object; CREATE EXTENSION makes those on the other side."""
    return (
        f"not exists (select from pg_depend of_ext where of_ext.classid = '{catalogue}'::regclass"
        f" and of_ext.objid = {oid} and of_ext.deptype = 'e')"
    )


def users_relation(relation: str = "c", namespace: str = "n") -> str:
    """Condition: pg_class `relation` in pg_namespace `namespace` belongs to the user."""
    return f"{users_schema(namespace)} and {not_of_extension('pg_class', relation + '.oid')}"


def some(names: list[str], limit: int = 20) -> str:
    """The names as one text, cut at `limit`, never without saying so."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


async def need_activity(context: CheckContext, session: ControlSession) -> None:
    """Raise CannotCheck unless the control user sees every row of pg_stat_activity in full.

    Without the right, other users' rows have backend_type, state and xact_start null, so that a condition on
    them would quietly find nobody (PostgreSQL: 27.2 Viewing Statistics).
    """
    allowed = await context.once(
        f"activity {session.endpoint.name}",
        lambda: session.fetchval("select pg_has_role(current_user, 'pg_read_all_stats', 'usage')"),
    )
    if not allowed:
        raise CannotCheck(
            f'"{session.endpoint.user}" may not see the sessions of others on "{session.endpoint.name}"',
            f"GRANT pg_monitor TO {identifier(session.endpoint.user)}; there",
        )


async def nonempty_tables(session: ControlSession, names: list[str], chunk: int = 100) -> list[str]:
    """Which of the tables (names already quoted) hold at least one row."""
    found: list[str] = []
    for start in range(0, len(names), chunk):
        part = names[start : start + chunk]
        branches = (f"select {index} where exists (select from only {name})" for index, name in enumerate(part))
        rows = await session.fetch(" union all ".join(branches))
        found += [part[row[0]] for row in rows]
    return found
