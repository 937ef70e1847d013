"""Which of the objects that are made after the data exist by now: long index builds are not done twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .schema_archive import TocEntry
from .session import ControlSession

Named = tuple[TocEntry, list[Any] | None]
"""An entry; for indexes, views, constraints and triggers the name to look for: kind, schema, table, name."""

_NAMES = """
SELECT 'pg_class'::regclass::oid::bigint AS classid, i.indexrelid::bigint AS objid, 'index' AS kind,
    n.nspname, t.relname AS table_name, x.relname AS name
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace WHERE x.oid >= 16384
UNION ALL
SELECT 'pg_class'::regclass::oid::bigint, c.oid::bigint, 'view', n.nspname, '', c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND c.oid >= 16384
UNION ALL
SELECT 'pg_constraint'::regclass::oid::bigint, c.oid::bigint, 'constraint', n.nspname, t.relname, c.conname
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE c.oid >= 16384
UNION ALL
SELECT 'pg_trigger'::regclass::oid::bigint, g.oid::bigint, 'trigger', n.nspname, t.relname, g.tgname
FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE NOT g.tgisinternal
"""


async def rest_names(source: ControlSession, entries: Sequence[TocEntry]) -> dict[int, list[Any]]:
    """By archive number, the names that indexes, views, constraints and triggers among the entries have."""
    rows = await source.fetch(_NAMES, timeout_s=120.0)
    names = {
        (row["classid"], row["objid"]): [row["kind"], row["nspname"], row["table_name"], row["name"]] for row in rows
    }
    return {
        entry.number: names[entry.classid, entry.objid] for entry in entries if (entry.classid, entry.objid) in names
    }


async def missing_rest(
    destination: ControlSession, entries: Sequence[Named], *, only_listed: bool = False
) -> list[Named]:
    """The entries that are not on the destination yet.

    Entries without a name to look for (rights, comments, rules, ...) are quick to make again and count as
    missing, unless `only_listed`.
    """
    rows = await destination.fetch(_NAMES, timeout_s=120.0)
    there = {(row["kind"], row["nspname"], row["table_name"], row["name"]) for row in rows}
    return [(entry, name) for entry, name in entries if (not only_listed if name is None else tuple(name) not in there)]
