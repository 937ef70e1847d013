"""Rights on what every database has from the start (schema public, catalog functions), and putting them back.

A schema copy carries such rights over; they are no objects that could be dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .session import ControlSession
from .sqltext import identifier, literal

# The letter is what acldefault() calls the kind (PostgreSQL: acldefault, access privileges).
_KINDS = {"n": "SCHEMA", "r": "TABLE", "f": "ROUTINE"}

_RIGHTS = """
SELECT 'n' AS kind, format('%I', nspname) AS name, nspacl::text AS acl, pg_get_userbyid(nspowner) AS owner,
    obj_description(oid, 'pg_namespace') AS comment
FROM pg_namespace WHERE oid < 16384 AND nspname NOT LIKE 'pg\\_t%'
UNION ALL
SELECT 'r', format('%I.%I', n.nspname, c.relname), c.relacl::text, NULL, NULL
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid < 16384 AND c.relacl IS NOT NULL AND c.relkind IN ('r', 'v')
UNION ALL
SELECT 'f', p.oid::regprocedure::text, p.proacl::text, NULL, NULL
FROM pg_proc p WHERE p.oid < 16384 AND p.proacl IS NOT NULL
"""

_EXPLODE = """
SELECT x.privilege_type, x.is_grantable, x.grantee = 0 AS public, pg_get_userbyid(x.grantee) AS grantee
FROM aclexplode($1::text::aclitem[]) x
"""


@dataclass(frozen=True, slots=True)
class BuiltinRight:
    acl: str | None
    owner: str | None
    comment: str | None


async def builtin_rights(session: ControlSession) -> dict[str, BuiltinRight]:
    """All of them, by "kind name"."""
    return {
        f"{row['kind']} {row['name']}": BuiltinRight(row["acl"], row["owner"], row["comment"])
        for row in await session.fetch(_RIGHTS)
    }


def as_json(rights: dict[str, BuiltinRight]) -> dict[str, list[str | None]]:
    return {name: [right.acl, right.owner, right.comment] for name, right in rights.items()}


async def restore_builtin_rights(session: ControlSession, before: dict[str, list[Any]]) -> int:
    """Put back what `as_json` kept; returns how many objects had changed."""
    now = await builtin_rights(session)
    statements: list[str] = []
    changed = 0
    for name in sorted(set(now) | set(before)):
        old = BuiltinRight(*before[name]) if name in before else BuiltinRight(None, None, None)
        new = now.get(name, BuiltinRight(None, None, None))
        if old != new:
            changed += 1
            statements += await _restore(session, name, old, new)
    if statements:
        await session.execute("; ".join(statements))
    return changed


async def _restore(session: ControlSession, name: str, old: BuiltinRight, new: BuiltinRight) -> list[str]:
    kind, _, identity = name.partition(" ")
    target = f"{_KINDS[kind]} {identity}"
    statements = []
    if old.owner is not None and old.owner != new.owner:
        statements.append(f"ALTER {target} OWNER TO {identifier(old.owner)}")
    if kind == "n" and old.comment != new.comment:
        comment = literal(old.comment) if old.comment is not None else "NULL"
        statements.append(f"COMMENT ON {target} IS {comment}")
    if old.acl == new.acl:
        return statements
    old_acl = old.acl or await _default_acl(session, kind, identity)
    grantees = {_grantee(row) for row in await session.fetch(_EXPLODE, new.acl or old_acl)}
    statements += [f"REVOKE ALL ON {target} FROM {grantee}" for grantee in sorted(grantees)]
    for row in await session.fetch(_EXPLODE, old_acl):
        option = " WITH GRANT OPTION" if row["is_grantable"] else ""
        statements.append(f"GRANT {row['privilege_type']} ON {target} TO {_grantee(row)}{option}")
    return statements


def _grantee(row: Any) -> str:
    return "PUBLIC" if row["public"] else identifier(row["grantee"])


async def _default_acl(session: ControlSession, kind: str, identity: str) -> str:
    if kind == "n":
        sql = "SELECT acldefault('n', nspowner)::text FROM pg_namespace WHERE format('%I', nspname) = $1"
    elif kind == "r":
        sql = "SELECT acldefault('r', relowner)::text FROM pg_class WHERE oid = $1::text::regclass"
    else:
        sql = "SELECT acldefault('f', proowner)::text FROM pg_proc WHERE oid = $1::text::regprocedure"
    return str(await session.fetchval(sql, identity))


async def drop_default_privileges(session: ControlSession, role: str, schema: str | None, kind: str) -> None:
    """Undo ALTER DEFAULT PRIVILEGES for one role, schema and kind of object, as if nobody had used it.

    PostgreSQL removes the entry once it equals what would hold without it (ALTER DEFAULT PRIVILEGES).
    """
    rows = await session.fetch(
        """
        SELECT x.grantee = 0 AS public, pg_get_userbyid(x.grantee) AS grantee, false AS is_grantable,
            '' AS privilege_type
        FROM pg_default_acl d CROSS JOIN aclexplode(d.defaclacl) x
        LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
        WHERE pg_get_userbyid(d.defaclrole) = $1 AND n.nspname IS NOT DISTINCT FROM $2
          AND d.defaclobjtype = $3::text::"char"
        """,
        role,
        schema,
        kind,
    )
    where = f"FOR ROLE {identifier(role)}" + (f" IN SCHEMA {identifier(schema)}" if schema is not None else "")
    objects = _DEFAULT_ACL_KINDS[kind]
    statements = [
        f"ALTER DEFAULT PRIVILEGES {where} REVOKE ALL ON {objects} FROM {grantee}"
        for grantee in sorted({_grantee(row) for row in rows})
    ]
    if schema is None:
        default = await session.fetchval(
            'SELECT acldefault($1::text::"char", oid)::text FROM pg_roles WHERE rolname = $2',
            # acldefault calls a sequence "s", pg_default_acl "S".
            kind.lower() if kind == "S" else kind,
            role,
        )
        statements += [
            f"ALTER DEFAULT PRIVILEGES {where} GRANT {row['privilege_type']} ON {objects} TO {_grantee(row)}"
            for row in await session.fetch(_EXPLODE, default)
        ]
    if statements:
        await session.execute("; ".join(statements))


_DEFAULT_ACL_KINDS = {
    "r": "TABLES",
    "S": "SEQUENCES",
    "f": "FUNCTIONS",
    "T": "TYPES",
    "n": "SCHEMAS",
    "L": "LARGE OBJECTS",
}
