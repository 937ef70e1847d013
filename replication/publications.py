"""The publisher's list of tables: made by us table by table, or somebody else's that we add the marker to."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from .errors import StreamError, listed
from .registry import Kind, find, forget, record
from .session import ControlSession
from .sqltext import identifier, qualified

MARKER = ("pgcutover", "marker")

# Each table is locked in SHARE UPDATE EXCLUSIVE mode, which waits behind VACUUM and CREATE INDEX
# CONCURRENTLY but holds up neither readers nor writers (PostgreSQL: ALTER PUBLICATION, explicit locking).
_LOCK_TIMEOUT_S = 60.0

_INSTEAD_OF_ALL_TABLES = (
    "Make a publication that lists the tables, wait until the subscriber has confirmed a later position, "
    "give it to the subscriber (ALTER SUBSCRIPTION ... SET PUBLICATION), and drop the other one."
)

# A partitioned parent is named together with its partitions: so that a partition attached later is
# published too, and one that is detached stays published. A parent with a partition that cannot be
# published (foreign, unlogged) is left out, its other partitions are not.
_PUBLISHABLE = """
SELECT n.nspname, c.relname, c.relkind = 'p' AS partitioned
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
  AND n.nspname NOT IN ('information_schema', 'pgcutover') AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  AND NOT (c.relkind = 'p' AND EXISTS (
      SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class leaf ON leaf.oid = t.relid
      WHERE t.isleaf AND (leaf.relkind <> 'r' OR leaf.relpersistence <> 'p')))
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        return qualified(self.schema, self.name)


async def publishable_tables(session: ControlSession, *, leaves_only: bool = False) -> list[TableName]:
    """Tables whose rows a stream carries: permanent, not an extension's, not ours.

    With `leaves_only` without partitioned parents, which hold no rows themselves.
    """
    rows = await session.fetch(_PUBLISHABLE)
    return [TableName(row["nspname"], row["relname"]) for row in rows if not (leaves_only and row["partitioned"])]


async def ensure_publication(session: ControlSession, publication: str) -> list[TableName]:
    """Make the publication, or add to ours the tables that came since; returns the tables that were added.

    All operations are published, truncate too, partition by partition, always with the marker.
    Raises StreamError where the name is taken by a publication that is not ours, or a lock is not had.
    """
    partitioned = session.major >= 13  # before, a partitioned table could not be published
    wanted = [*await publishable_tables(session, leaves_only=not partitioned), TableName(*MARKER)]
    existing = await published_tables(session, publication)
    if existing is None:
        await record(session, Kind.PUBLICATION, publication)
        await _with_lock_timeout(
            session,
            f"CREATE PUBLICATION {identifier(publication)} FOR TABLE {', '.join(t.sql for t in wanted)} "
            "WITH (publish = 'insert, update, delete, truncate'"
            + (", publish_via_partition_root = false)" if partitioned else ")"),
        )
        return wanted
    if await find(session, Kind.PUBLICATION, publication) is None:
        raise StreamError(
            f'publication "{publication}" exists on "{session.endpoint.name}" and was not made by pgcutover',
            hint="Drop or rename it, then run REPLICATE again.",
        )
    added = sorted(set(wanted) - existing)
    if added:
        await _with_lock_timeout(
            session,
            f"ALTER PUBLICATION {identifier(publication)} ADD TABLE {', '.join(t.sql for t in added)}",
        )
    return added


async def published_tables(session: ControlSession, publication: str) -> set[TableName] | None:
    """The tables named in a publication, parents and partitions as they were named; None: no such one."""
    rows = await session.fetch(
        """
        SELECT n.nspname, c.relname FROM pg_publication p
        LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid
        LEFT JOIN pg_class c ON c.oid = r.prrelid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE p.pubname = $1
        """,
        publication,
    )
    if not rows:
        return None
    return {TableName(row["nspname"], row["relname"]) for row in rows if row["relname"] is not None}


async def drop_publication(session: ControlSession, publication: str) -> None:
    """Drop a publication of ours; one that is gone already is no error."""
    await session.execute(f"DROP PUBLICATION IF EXISTS {identifier(publication)}")
    await forget(session, Kind.PUBLICATION, publication)


async def refuse_published_control_schema(session: ControlSession) -> None:
    """Call it before the control schema is made. Raises StreamError where somebody would be sent its rows.

    A publication FOR ALL TABLES takes the control tables in the moment they are made. A PostgreSQL subscriber
    has no such tables: its apply worker would stop at the first row, for good. Which publication a slot's
    consumer asks for is not known here, so any foreign slot of pgoutput counts.
    """
    everything = [
        row["pubname"]
        for row in await session.fetch("SELECT pubname FROM pg_publication WHERE puballtables ORDER BY 1")
    ]
    consumers = [
        row["slot_name"]
        for row in await session.fetch(
            "SELECT slot_name FROM pg_replication_slots "
            "WHERE database = current_database() AND plugin = 'pgoutput' ORDER BY 1"
        )
    ]
    if everything and consumers:
        raise StreamError(
            f'publication "{everything[0]}" on "{session.endpoint.name}" is for all tables and would carry '
            "the control schema to whoever reads it",
            detail="Replication slots that may be reading it: " + listed(consumers),
            hint=_INSTEAD_OF_ALL_TABLES,
        )


async def add_marker(session: ControlSession, publications: list[str]) -> str:
    """Let one of somebody's publications carry the marker as well; returns which one.

    A publication FOR ALL TABLES (or of our schema) is refused: it would carry the rest of the control
    schema too, whose rows differ between the two sides, and the next REFRESH PUBLICATION of the
    subscription would start to copy them.
    """
    name = session.endpoint.name
    rows = await session.fetch(
        """
        SELECT p.pubname, p.puballtables, p.pubinsert AND p.pubupdate AND p.pubdelete AS complete,
            EXISTS (SELECT FROM pg_publication_rel r
                    WHERE r.prpubid = p.oid AND r.prrelid = 'pgcutover.marker'::regclass) AS has_marker,
            EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname = p.pubname
                    AND t.schemaname = 'pgcutover' AND t.tablename <> 'marker') AS has_ours
        FROM pg_publication p WHERE p.pubname = ANY ($1::text[]) ORDER BY p.pubname
        """,
        publications,
    )
    missing = sorted(set(publications) - {row["pubname"] for row in rows})
    if missing:
        raise StreamError(f'publications that "{name}" does not have: {", ".join(missing)}')
    too_much = [row["pubname"] for row in rows if row["puballtables"] or row["has_ours"]]
    if too_much:
        raise StreamError(
            f'publication "{too_much[0]}" on "{name}" is for all tables and would carry the control schema',
            hint=_INSTEAD_OF_ALL_TABLES,
        )
    for row in rows:
        if row["has_marker"]:
            return str(row["pubname"])
    fit = [row["pubname"] for row in rows if row["complete"]]
    if not fit:
        raise StreamError(
            f'no publication of {", ".join(publications)} on "{name}" publishes insert, update and delete',
            hint="ALTER PUBLICATION ... SET (publish = 'insert, update, delete, truncate')",
        )
    await record(session, Kind.MARKER_PUBLICATION, fit[0])
    await _with_lock_timeout(session, f"ALTER PUBLICATION {identifier(fit[0])} ADD TABLE {TableName(*MARKER).sql}")
    return str(fit[0])


async def remove_marker(session: ControlSession, publication: str) -> None:
    """Undo add_marker; nothing to do is no error. The record stays until `forget`."""
    tables = await published_tables(session, publication)
    if tables is not None and TableName(*MARKER) in tables:
        await session.execute(f"ALTER PUBLICATION {identifier(publication)} DROP TABLE {TableName(*MARKER).sql}")


async def _with_lock_timeout(session: ControlSession, statement: str) -> None:
    milliseconds = int(_LOCK_TIMEOUT_S * 1000)
    try:
        await session.execute(
            f"BEGIN; SET LOCAL lock_timeout = {milliseconds}; {statement}; COMMIT",
            timeout_s=_LOCK_TIMEOUT_S * 10,
        )
    except asyncpg.LockNotAvailableError as error:
        await session.execute("ROLLBACK")
        raise StreamError(
            f'no lock on a table of "{session.endpoint.name}" within {_LOCK_TIMEOUT_S:g} s',
            detail="VACUUM, ANALYZE, CREATE INDEX CONCURRENTLY and DDL hold locks that publishing waits for.",
            hint="Try again when they are done.",
        ) from error
    except asyncpg.PostgresError as error:
        if not session.closed:
            await session.execute("ROLLBACK")
        raise StreamError(f'"{session.endpoint.name}" refused a publication: {error}') from error
