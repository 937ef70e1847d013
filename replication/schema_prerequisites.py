"""What a schema needs that is not part of it: extensions' files, roles and tablespaces of the server."""

from __future__ import annotations

from .errors import listed
from .session import ControlSession

_EXTENSIONS = "SELECT extname AS name FROM pg_extension ORDER BY 1"
_AVAILABLE = "SELECT name FROM pg_available_extensions"

# pg_shdepend knows every role that owns something, or is named in rights and policies, but the bootstrap
# superuser (PostgreSQL: pinned objects are not recorded), whose name may differ on the other server.
_ROLES = """
SELECT DISTINCT r.rolname AS name FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
WHERE d.refclassid = 'pg_authid'::regclass
  AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND d.classid NOT IN ('pg_publication'::regclass, 'pg_largeobject'::regclass)
  AND (d.classid, d.objid) NOT IN (
      SELECT 'pg_class'::regclass::oid, oid FROM pg_class WHERE relnamespace = to_regnamespace('pgcutover')
      UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = to_regnamespace('pgcutover')
      UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = to_regnamespace('pgcutover')
      UNION ALL SELECT 'pg_namespace'::regclass, to_regnamespace('pgcutover')::oid
      WHERE to_regnamespace('pgcutover') IS NOT NULL)
UNION
SELECT pg_get_userbyid(10) WHERE EXISTS (
    SELECT FROM pg_class c WHERE relowner = 10 AND oid >= 16384
      AND relnamespace IS DISTINCT FROM to_regnamespace('pgcutover')
      AND relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\\_%')
    UNION ALL
    SELECT FROM pg_proc WHERE proowner = 10 AND oid >= 16384
      AND pronamespace IS DISTINCT FROM to_regnamespace('pgcutover')
    UNION ALL
    SELECT FROM pg_namespace WHERE nspowner = 10 AND oid >= 16384 AND nspname <> 'pgcutover')
"""
_ROLES_THERE = "SELECT rolname AS name FROM pg_roles"

_TABLESPACES = """
SELECT DISTINCT t.spcname AS name FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
WHERE c.oid >= 16384 AND t.spcname <> 'pg_global'
"""
_TABLESPACES_THERE = "SELECT spcname AS name FROM pg_tablespace"


async def missing_prerequisites(source: ControlSession, destination: ControlSession) -> list[str]:
    """What the destination lacks, all of it at once, one phrase for each kind; empty: nothing."""
    found = []
    for what, needed, present in (
        ("extensions that are not installed on that server", _EXTENSIONS, _AVAILABLE),
        ("roles (they own objects or have rights)", _ROLES, _ROLES_THERE),
        ("tablespaces", _TABLESPACES, _TABLESPACES_THERE),
    ):
        there = {row["name"] for row in await destination.fetch(present)}
        lacking = sorted({row["name"] for row in await source.fetch(needed)} - there)
        if lacking:
            found.append(f"{what}: {listed(lacking)}")
    return found
