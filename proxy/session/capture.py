"""The question put to an idle backend, and its answer as a SessionState.

The backend itself is asked, over the client's own link, because nobody else can know: `pg_settings where source
= 'session'`, `pg_prepared_statements`, `pg_listening_channels()`, the current role, holdable cursors and
temporary objects exist only inside it. The question goes through the extended protocol with a statement name of
its own: a simple Query would destroy the client's unnamed statement (PostgreSQL documentation, 55.2.3).

Every name is qualified, operators too: the client's search_path may hold anything. Values travel as the bytes of
the client's encoding, which the new link shares, so nothing is converted.

Customized options (`my.tenant`) are not listed by pg_settings; their names have to be known (footprint.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ASK_STATEMENT = b"_pgcutover_ask"
"""The name of our prepared statement on the client's link; it is closed again in the same round trip."""

SEPARATOR = b"\x1f"

UNHURRIED_SQL = b"""
SELECT 'statement_timeout'::pg_catalog.text, pg_catalog.current_setting('statement_timeout'),
  pg_catalog.set_config('statement_timeout', '0', true), ''
WHERE pg_catalog.current_setting('statement_timeout')::pg_catalog.interval
  OPERATOR(pg_catalog.>) '0'::pg_catalog.interval
AND pg_catalog.current_setting('statement_timeout')::pg_catalog.interval
  OPERATOR(pg_catalog.<) '10 s'::pg_catalog.interval
""".strip()
"""Goes ahead of ASK_SQL in the same implicit transaction: a client's short statement_timeout must not hit our
question. It is lifted for that transaction only, and its value reported, for ASK_SQL then sees the lifted one."""

ASK_SQL = b"""
WITH s AS MATERIALIZED (SELECT name, setting, source FROM pg_catalog.pg_settings)
SELECT 'role'::pg_catalog.text, pg_catalog.current_setting('role'), session_user::pg_catalog.text, ''
UNION ALL SELECT 'setting', name, setting, '' FROM s
  WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>)
    ALL ('{transaction_isolation,transaction_read_only,transaction_deferrable}'::pg_catalog.text[])
UNION ALL SELECT 'custom', n, pg_catalog.current_setting(n, true), '' FROM pg_catalog.unnest($1::pg_catalog.text[]) n
  WHERE pg_catalog.current_setting(n, true) IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM s WHERE s.name OPERATOR(pg_catalog.=) n)
UNION ALL SELECT CASE WHEN p.from_sql THEN 'prepared_sql' ELSE 'prepared' END, p.name, p.statement,
  coalesce((SELECT pg_catalog.string_agg(
      CASE WHEN t.oid OPERATOR(pg_catalog.<) 10000::pg_catalog.oid THEN t.oid::pg_catalog.text
      ELSE pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.'
           OPERATOR(pg_catalog.||) pg_catalog.quote_ident(t.typname) END, pg_catalog.chr(31) ORDER BY a.nr)
    FROM pg_catalog.unnest(p.parameter_types) WITH ORDINALITY a(type, nr)
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.type::pg_catalog.oid
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace), '')
  FROM pg_catalog.pg_prepared_statement() p WHERE p.name OPERATOR(pg_catalog.<>) '_pgcutover_ask'
UNION ALL SELECT 'listen', c, '', '' FROM pg_catalog.pg_listening_channels() c
UNION ALL SELECT 'cursor', c.name, '', '' FROM pg_catalog.pg_cursor() c WHERE c.is_holdable
UNION ALL SELECT 'temp', c.relname::pg_catalog.text, '', '' FROM pg_catalog.pg_class c
  WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
    AND c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
    AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,S,f,m,c}'::pg_catalog."char"[])
UNION ALL SELECT 'temp', p.proname::pg_catalog.text, '', '' FROM pg_catalog.pg_proc p
  WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
    AND p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
UNION ALL SELECT 'temp', t.typname::pg_catalog.text, '', '' FROM pg_catalog.pg_type t
  WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
    AND t.typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
    AND t.typrelid OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND t.typelem OPERATOR(pg_catalog.=) 0::pg_catalog.oid
""".strip()
"""Rows of kind, name, value, extra. OIDs below 10000 were given by hand and are the same on every server
(src/include/access/transam.h, FirstGenbkiObjectId); other types travel by name."""


OWN_READ_ONLY_SQL = b"""
SELECT setting FROM pg_catalog.pg_db_role_setting s
JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) s.setrole, pg_catalog.unnest(s.setconfig) setting
WHERE r.rolname OPERATOR(pg_catalog.=) session_user
  AND setting OPERATOR(pg_catalog.~~) 'default_transaction_read_only=%'
  AND (s.setdatabase OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR s.setdatabase OPERATOR(pg_catalog.=)
    (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()))
""".strip()
"""Whether the role has a read-only default of its own."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One prepared statement: its text, and its parameter types as decimal OIDs or qualified names."""

    text: bytes
    types: tuple[bytes, ...]
    from_sql: bool


@dataclass(frozen=True, slots=True)
class SessionState:
    """What a session has set, as bytes in its own client encoding."""

    settings: dict[bytes, bytes] = field(default_factory=dict)
    custom: dict[bytes, bytes] = field(default_factory=dict)
    role: bytes = b"none"
    session_user: bytes = b""
    prepared: dict[bytes, Prepared] = field(default_factory=dict)
    channels: frozenset[bytes] = frozenset()
    cursors: tuple[bytes, ...] = ()
    temporary: tuple[bytes, ...] = ()

    @property
    def immovable(self) -> str:
        """Why no other server can take this session over; empty where one can."""
        reasons = []
        if self.temporary:
            reasons.append("temporary objects: " + _names(self.temporary))
        if self.cursors:
            reasons.append("WITH HOLD cursors: " + _names(self.cursors))
        return "; ".join(reasons)


def _names(names: Sequence[bytes]) -> str:
    shown = ", ".join(name.decode("utf-8", "replace") for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def state_from_rows(rows: Iterable[Sequence[bytes | None]]) -> SessionState:
    """The answer to ASK_SQL. Raises ValueError for a row it does not know."""
    settings: dict[bytes, bytes] = {}
    custom: dict[bytes, bytes] = {}
    prepared: dict[bytes, Prepared] = {}
    channels: set[bytes] = set()
    cursors: list[bytes] = []
    temporary: list[bytes] = []
    role, session_user = b"none", b""
    for row in rows:
        kind, name, value, extra = (column if column is not None else b"" for column in row)
        if kind == b"setting":
            settings.setdefault(name, value)
        elif kind == b"statement_timeout":  # comes first, see UNHURRIED_SQL
            settings[kind] = name
        elif kind == b"custom":
            custom[name] = value
        elif kind == b"role":
            role, session_user = name, value
        elif kind in (b"prepared", b"prepared_sql"):
            types = tuple(extra.split(SEPARATOR)) if extra else ()
            prepared[name] = Prepared(value, types, from_sql=kind == b"prepared_sql")
        elif kind == b"listen":
            channels.add(name)
        elif kind == b"cursor":
            cursors.append(name)
        elif kind == b"temp":
            temporary.append(name)
        else:
            raise ValueError(f"unknown kind of session state {kind!r}")
    return SessionState(
        settings, custom, role, session_user, prepared, frozenset(channels), tuple(cursors), tuple(temporary)
    )


def array_literal(names: Iterable[bytes]) -> bytes:
    """A text[] in its text form; names are quoted."""
    quoted = (b'"' + name.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"' for name in sorted(names))
    return b"{" + b",".join(quoted) + b"}"
