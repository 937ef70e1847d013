"""After the copy: planner statistics and materialized views, which replication does not bring."""

from __future__ import annotations

import asyncio

import asyncpg

from .errors import SchemaRefused
from .publications import TableName
from .session import ControlSession, connect

# How long a single table or view may take. There is no sign of life meanwhile.
_ONE_TIMEOUT_S = 6 * 3600.0

_NEVER_ANALYZED = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
  AND n.nspname NOT IN ('information_schema', 'pgcutover') AND n.nspname NOT LIKE 'pg\\_%'
  AND s.last_analyze IS NULL AND s.last_autoanalyze IS NULL
  AND NOT c.relispartition  -- ANALYZE of the parent does its partitions too
ORDER BY c.relpages DESC, 1, 2
"""

_VIEWS = """
SELECT n.nspname, c.relname, c.relispopulated FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.oid
"""


async def analyze_tables(destination: ControlSession, jobs: int) -> str:
    """ANALYZE every table that never was, `jobs` at a time; returns what was done in words."""
    rows = await destination.fetch(_NEVER_ANALYZED)
    queue = [TableName(row["nspname"], row["relname"]) for row in reversed(rows)]
    if not queue:
        return "all tables were analyzed before"

    async def worker() -> None:
        async with await connect(destination.endpoint) as session:
            while queue:
                await _run(session, f"ANALYZE {queue.pop().sql}")

    workers = [asyncio.create_task(worker()) for _ in range(min(jobs, len(queue)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return f"{len(rows)} tables analyzed"


async def refresh_materialized_views(source: ControlSession, destination: ControlSession) -> str:
    """Fill the views that are filled on the source and empty on the destination, oldest first.

    A view can only read what existed before it, so the order of creation is an order of dependency.
    Raises SchemaRefused, which names the view.
    """
    filled = {TableName(row["nspname"], row["relname"]) for row in await source.fetch(_VIEWS) if row["relispopulated"]}
    empty = [
        TableName(row["nspname"], row["relname"])
        for row in await destination.fetch(_VIEWS)
        if not row["relispopulated"]
    ]
    todo = [view for view in empty if view in filled]
    for view in todo:
        try:
            await _run(destination, f"REFRESH MATERIALIZED VIEW {view.sql}")
        except asyncpg.PostgresError as error:
            raise SchemaRefused(
                f'materialized view {view} on "{destination.endpoint.name}" could not be filled: {error}',
                detail="Everything before it is done; the stream works.",
                hint="Refresh it by hand, or mend the reason and run REPLICATE again.",
            ) from error
    return f"{len(todo)} filled" if todo else "none to fill"


async def _run(session: ControlSession, statement: str) -> None:
    await session.execute(statement, timeout_s=_ONE_TIMEOUT_S)
