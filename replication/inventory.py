"""The objects of a database that a schema copy makes one by one, under names that mean the same elsewhere.

Only what stands on its own is listed: an index, a trigger or a default comes and goes with its table, the
members of an extension with the extension.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .session import ControlSession

_TIMEOUT_S = 120.0

# 16384 is the first OID that initdb does not give away (PostgreSQL: FirstNormalObjectId).
_INVENTORY = """
WITH members AS MATERIALIZED (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
), inner_parts AS MATERIALIZED (
    SELECT DISTINCT classid, objid FROM pg_depend WHERE deptype = 'i' AND objid >= 16384
      AND (classid, objid) <> (refclassid, refobjid)  -- a partitioned table and the columns of its own key
), found (classid, objid) AS (
    SELECT 'pg_class'::regclass::oid, oid FROM pg_class
    WHERE relkind IN ('r', 'v', 'm', 'S', 'f', 'p') AND relpersistence <> 't'
    UNION ALL SELECT 'pg_type'::regclass, t.oid FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE c.oid IS NULL OR c.relkind = 'c'
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace
    UNION ALL SELECT 'pg_extension'::regclass, oid FROM pg_extension
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
    UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator
    UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily
    UNION ALL SELECT 'pg_cast'::regclass, oid FROM pg_cast
    UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation
    UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion
    UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language
    UNION ALL SELECT 'pg_transform'::regclass, oid FROM pg_transform
    UNION ALL SELECT 'pg_am'::regclass, oid FROM pg_am
    UNION ALL SELECT 'pg_ts_parser'::regclass, oid FROM pg_ts_parser
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
    UNION ALL SELECT 'pg_ts_template'::regclass, oid FROM pg_ts_template
    UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
    UNION ALL SELECT 'pg_user_mapping'::regclass, umid FROM pg_user_mappings
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext
    UNION ALL SELECT 'pg_default_acl'::regclass, oid FROM pg_default_acl
)
SELECT f.classid::bigint AS classid, f.objid::bigint AS objid,
    a.type, a.object_names, a.object_args, i.identity
FROM found f, pg_identify_object_as_address(f.classid, f.objid, 0) a,
    pg_identify_object(f.classid, f.objid, 0) i
WHERE f.objid >= 16384
  AND NOT EXISTS (SELECT FROM members m WHERE m.classid = f.classid AND m.objid = f.objid)
  AND NOT EXISTS (SELECT FROM inner_parts p WHERE p.classid = f.classid AND p.objid = f.objid)
  AND i.schema IS DISTINCT FROM 'pgcutover' AND coalesce(i.schema, '') NOT LIKE 'pg\\_%'
  AND NOT (a.type = 'schema' AND (a.object_names[1] = 'pgcutover' OR a.object_names[1] LIKE 'pg\\_%'))
"""


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """An object's address as pg_identify_object_as_address gives it."""

    type: str
    names: tuple[str, ...]
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        arguments = f"({', '.join(self.arguments)})" if self.arguments else ""
        return f"{self.type} {'.'.join(self.names)}{arguments}"

    def as_json(self) -> list[Any]:
        return [self.type, list(self.names), list(self.arguments)]

    @staticmethod
    def from_json(value: list[Any]) -> ObjectKey:
        return ObjectKey(value[0], tuple(value[1]), tuple(value[2]))


@dataclass(frozen=True, slots=True)
class Listed:
    """An object that is there: its place in the catalogs and its name as DROP takes it."""

    key: ObjectKey
    classid: int
    objid: int
    identity: str


async def inventory(session: ControlSession) -> dict[ObjectKey, Listed]:
    """Everything an operator or an application made in this database; not pgcutover, not built-in things."""
    rows = await session.fetch(_INVENTORY, timeout_s=_TIMEOUT_S)
    found = (
        Listed(
            ObjectKey(row["type"], tuple(row["object_names"] or ()), tuple(row["object_args"] or ())),
            row["classid"],
            row["objid"],
            row["identity"],
        )
        for row in rows
    )
    return {entry.key: entry for entry in found}


def tables_of(keys: Iterable[ObjectKey]) -> list[ObjectKey]:
    return sorted(key for key in keys if key.type == "table")
