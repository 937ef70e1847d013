"""cutover_fence = "triggers": one BEFORE trigger per table that refuses writes while its database does not serve.

The triggers look at the decision record, so raising and lifting the fence is one update of one row. They are made
before the pause and stay: a REVERT comes back to them. Ordinary triggers do not fire for the apply worker, which
runs with session_replication_role = replica.
"""

from __future__ import annotations

import asyncio

import asyncpg

from .errors import StreamError
from .publications import TableName, publishable_tables
from .session import ControlSession
from .sqltext import literal

TRIGGER = "pgcutover_fence"
LOCK_TIMEOUT_MS = 1000
"""CREATE TRIGGER locks out writers (SHARE ROW EXCLUSIVE), and they queue behind it while it waits itself."""
DROP_LOCK_TIMEOUT_MS = 100
DROP_TRIES = 20
"""DROP TRIGGER locks out readers too, so it waits for less, and more often."""

_GUARDED = """
SELECT n.nspname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = $1 AND NOT t.tgisinternal
"""


async def ensure_fence_triggers(session: ControlSession) -> int:
    """A trigger on every table that has none yet; returns how many were made. Raises StreamError.

    Partitions get their own: a statement on a partition does not fire the statement triggers of its parent.
    """
    guarded = {(row["nspname"], row["relname"]) for row in await session.fetch(_GUARDED, TRIGGER)}
    made = 0
    for table in await publishable_tables(session):
        if (table.schema, table.name) in guarded:
            continue
        try:
            await session.execute(
                f"SET lock_timeout = {literal(str(LOCK_TIMEOUT_MS))}; "
                f"CREATE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table.sql} "
                "FOR EACH STATEMENT EXECUTE FUNCTION pgcutover.refuse_write(); SET lock_timeout = 0"
            )
        except asyncpg.LockNotAvailableError as error:
            await session.execute("SET lock_timeout = 0")
            raise StreamError(
                f"the fence trigger on {table} could not be made within {LOCK_TIMEOUT_MS} ms: the table is in use",
                hint="Try again when no long transaction uses it; nobody was kept waiting longer than that.",
            ) from error
        made += 1
    return made


async def drop_fence_triggers(session: ControlSession) -> str:
    """Take the triggers away where no run comes back to; returns what was done in words. A table that is in use all
    the time keeps its trigger, which is no error: it lets everything pass on a database that serves."""
    guarded = [TableName(row["nspname"], row["relname"]) for row in await session.fetch(_GUARDED, TRIGGER)]
    left = [table for table in guarded if not await _drop(session, table)]
    if not left:
        return f"{len(guarded)} dropped" if guarded else "none"
    return f"{len(guarded) - len(left)} dropped; in use, and kept: " + ", ".join(table.sql for table in left)


async def _drop(session: ControlSession, table: TableName) -> bool:
    for _ in range(DROP_TRIES):
        try:
            await session.execute(
                f"SET lock_timeout = {literal(str(DROP_LOCK_TIMEOUT_MS))}; "
                f"DROP TRIGGER IF EXISTS {TRIGGER} ON {table.sql}; SET lock_timeout = 0"
            )
            return True
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(DROP_LOCK_TIMEOUT_MS / 1000.0)
    await session.execute("SET lock_timeout = 0")
    return False
