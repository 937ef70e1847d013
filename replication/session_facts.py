"""What the takeover of sessions needs to know about both databases: types, options, functions, advisory locks."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from .session import ControlSession

# OIDs below 10000 are the same on every server (src/include/access/transam.h, FirstGenbkiObjectId).
_TYPES = """
SELECT t.oid::bigint AS oid, quote_ident(n.nspname) || '.' || quote_ident(t.typname) AS name
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.oid >= 10000 AND n.nspname NOT LIKE 'pg\\_t%'
"""

# Every text the server keeps in which an option of its own might be named or session state be changed.
_CODE = """
SELECT p.proname AS name, p.prosrc AS body FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'pgcutover')
  AND p.prolang NOT IN (SELECT oid FROM pg_language WHERE lanname IN ('c', 'internal'))
"""

# The same in expressions, with the relation whose use evaluates them.
_EXPRESSIONS = """
SELECT c.relname AS name,
  coalesce(pg_get_expr(polqual, polrelid), '') || ' ' || coalesce(pg_get_expr(polwithcheck, polrelid), '') AS body
FROM pg_policy JOIN pg_class c ON c.oid = polrelid
UNION ALL SELECT c.relname, pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_class c ON c.oid = adrelid
UNION ALL SELECT viewname, definition FROM pg_views WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
UNION ALL SELECT NULL, unnest(setconfig) FROM pg_db_role_setting
"""

_TRIGGER_FUNCTIONS = """
SELECT DISTINCT p.proname, c.relname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
"""

_STATEFUL = re.compile(
    r"set_config|advisory_lock|\blisten\b|\bprepare\b|\bdiscard\b|create\s+(?:local\s+|global\s+)?temp|\bwith\s+hold\b"
    r"|\bset\s+(?:session\s+)?(?:role|session|[a-z_]+\s*(?:=|\bto\b))|\bexecute\b",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"""(?:set_config|current_setting)\s*\(\s*e?'([a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)+)'""", re.IGNORECASE
)
_SET_OPTION = re.compile(
    r"""(?:\bset\s+(?:session\s+|local\s+)?|^)"?([a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)+)"?\s*(?:=|\bto\b)""",
    re.IGNORECASE,
)

_LOCKS = """
SELECT pid, classid::bigint AS classid, objid::bigint AS objid, objsubid::int AS objsubid, mode
FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = ANY ($1::int[])
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True, slots=True)
class CodeFacts:
    """`functions`: names (lower case) of functions, and of tables with triggers, whose use may change session
    state. `options`: names of customized options that code mentions."""

    functions: frozenset[bytes]
    options: frozenset[bytes]


async def type_maps(source: ControlSession, destination: ControlSession) -> tuple[dict[bytes, int], dict[int, int]]:
    """User-defined types: the destination's OID by qualified name, and by the source's OID."""
    there = {row["name"]: int(row["oid"]) for row in await destination.fetch(_TYPES)}
    by_oid = {int(row["oid"]): there[row["name"]] for row in await source.fetch(_TYPES) if row["name"] in there}
    return {name.encode(): oid for name, oid in there.items()}, by_oid


async def code_facts(source: ControlSession) -> CodeFacts:
    """Which functions may change session state, directly, through one another, or through a trigger."""
    bodies: dict[str, str] = {}
    for row in await source.fetch(_CODE):
        bodies[row["name"].lower()] = bodies.get(row["name"].lower(), "") + "\n" + (row["body"] or "").lower()
    expressions = [(row["name"], row["body"] or "") for row in await source.fetch(_EXPRESSIONS)]
    stateful = {name for name, body in bodies.items() if _STATEFUL.search(body)}
    while True:
        more = {
            name for name, body in bodies.items() if name not in stateful and any(called in body for called in stateful)
        }
        if not more:
            break
        stateful |= more
    words = {name.encode() for name in stateful}
    for row in await source.fetch(_TRIGGER_FUNCTIONS):
        if row["proname"].lower() in stateful:
            words.add(row["relname"].lower().encode())
    for relation, body in expressions:
        if relation is not None and (_STATEFUL.search(body) or any(name in body.lower() for name in stateful)):
            words.add(relation.lower().encode())
    options: set[bytes] = set()
    for text in [*bodies.values(), *(body for _, body in expressions)]:
        for pattern in (_OPTION, _SET_OPTION):
            options.update(name.lower().encode() for name in pattern.findall(text))
    return CodeFacts(frozenset(words), frozenset(options))


async def advisory_locks(
    source: ControlSession, pids: list[int], timeout_s: float = 5.0
) -> dict[int, list[tuple[int, int, int, bool]]]:
    """Session-level advisory locks by backend: (classid, objid, objsubid, shared). Call it when all are idle:
    then no transaction-level lock is left."""
    held: dict[int, list[tuple[int, int, int, bool]]] = defaultdict(list)
    for row in await source.fetch(_LOCKS, pids, timeout_s=timeout_s):
        held[row["pid"]].append((row["classid"], row["objid"], row["objsubid"], row["mode"] == "ShareLock"))
    return dict(held)
