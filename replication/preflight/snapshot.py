"""The tables, columns, keys and sequences of one side, read once per run of the checks, in four queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..session import ControlSession
from .fragments import RELATIONS, users_relation
from .model import CheckContext, Phase


@dataclass(frozen=True, slots=True)
class Column:
    name: str  # quoted where it must be
    type: str
    not_null: bool
    default: str  # its expression, "" without one
    identity: str  # "", "always" or "by default"
    generated: str  # the expression of a generated column, else ""
    collation: str  # "" where it is the type's own


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique index without its name: what it keeps unique. A primary key is one, too."""

    columns: tuple[str, ...]  # sorted: the order matters to the planner, not to uniqueness
    predicate: str
    nulls_not_distinct: bool

    def __str__(self) -> str:
        where = f" where {self.predicate}" if self.predicate else ""
        nulls = " nulls not distinct" if self.nulls_not_distinct else ""
        return f"unique ({', '.join(self.columns)}){nulls}{where}"


@dataclass(frozen=True, slots=True)
class Table:
    """A table or partition; `name` is schema-qualified and quoted where it must be."""

    name: str
    partitioned: bool
    parent: str  # of a partition, else ""
    bound: str  # of a partition, else ""
    unlogged: bool
    columns: Mapping[str, Column]
    unique_keys: frozenset[UniqueKey]
    exclusions: frozenset[str]
    constraints: frozenset[str]  # checks and foreign keys
    indexes: frozenset[str]  # the others, in the words of CREATE INDEX without the name


@dataclass(frozen=True, slots=True)
class Snapshot:
    tables: Mapping[str, Table]


async def snapshots(context: CheckContext) -> tuple[Snapshot, Snapshot] | None:
    """Both sides; None at setup where the destination has no table yet, since REPLICATE will make them."""
    destination = await context.once("snapshot destination", lambda: _load(context.destination))
    if context.phase == Phase.SETUP and not destination.tables:
        return None
    source = await context.once("snapshot source", lambda: _load(context.source))
    return source, destination


async def destination_has_schema(context: CheckContext) -> bool:
    return await snapshots(context) is not None


async def _load(session: ControlSession) -> Snapshot:
    tables = await session.fetch(_TABLES)
    columns: dict[str, dict[str, Column]] = {}
    for row in await session.fetch(_COLUMNS):
        columns.setdefault(row["relation"], {})[row["name"]] = Column(
            row["name"],
            row["type"],
            row["not_null"],
            row["default"],
            _IDENTITY[row["identity"]],
            row["generated"],
            row["collation"],
        )
    unique: dict[str, set[UniqueKey]] = {}
    indexes: dict[str, set[str]] = {}
    for row in await session.fetch(_INDEXES):
        if row["unique"]:
            key = UniqueKey(tuple(sorted(row["columns"])), row["predicate"], row["nulls_not_distinct"])
            unique.setdefault(row["relation"], set()).add(key)
        elif not row["exclusion"]:
            indexes.setdefault(row["relation"], set()).add(row["definition"])
    exclusions: dict[str, set[str]] = {}
    constraints: dict[str, set[str]] = {}
    for row in await session.fetch(_CONSTRAINTS):
        kind = exclusions if row["exclusion"] else constraints
        kind.setdefault(row["relation"], set()).add(row["definition"])
    return Snapshot(
        {
            row["relation"]: Table(
                row["relation"],
                row["partitioned"],
                row["parent"],
                row["bound"],
                row["unlogged"],
                columns.get(row["relation"], {}),
                frozenset(unique.get(row["relation"], ())),
                frozenset(exclusions.get(row["relation"], ())),
                frozenset(constraints.get(row["relation"], ())),
                frozenset(indexes.get(row["relation"], ())),
            )
            for row in tables
        }
    )


_IDENTITY = {"": "", "a": "always", "d": "by default"}

_FROM_TABLES = f"""
    from {RELATIONS}"""
_IS_TABLE = f"c.relkind in ('r', 'p') and c.relpersistence <> 't' and {users_relation()}"

_TABLES = f"""
    select c.oid::regclass::text as relation, c.relkind = 'p' as partitioned,
        c.relpersistence = 'u' as unlogged,
        case when c.relispartition
            then (select i.inhparent::regclass::text from pg_inherits i where i.inhrelid = c.oid limit 1)
            else '' end as parent,
        coalesce(pg_get_expr(c.relpartbound, c.oid), '') as bound
    {_FROM_TABLES} where {_IS_TABLE} order by 1"""

_COLUMNS = f"""
    select c.oid::regclass::text as relation, quote_ident(a.attname) as name,
        format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as not_null,
        case when a.attgenerated = '' then coalesce(pg_get_expr(d.adbin, d.adrelid), '') else '' end
            as default,
        a.attidentity::text as identity,
        case when a.attgenerated <> '' then pg_get_expr(d.adbin, d.adrelid) else '' end as generated,
        case when a.attcollation <> t.typcollation then a.attcollation::regcollation::text else '' end
            as collation
    {_FROM_TABLES}
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        join pg_type t on t.oid = a.atttypid
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where {_IS_TABLE} order by c.oid, a.attnum"""

# An index that is attached to an index of the parent table is made with it; its parent stands for both.
_INDEXES = f"""
    select c.oid::regclass::text as relation, i.indisunique as unique, i.indisexclusion as exclusion,
        array(select pg_get_indexdef(i.indexrelid, k, false)
            from generate_series(1, i.indnkeyatts) k) as columns,
        coalesce(pg_get_expr(i.indpred, i.indrelid), '') as predicate,
        coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) as nulls_not_distinct,
        replace(pg_get_indexdef(i.indexrelid), format(' INDEX %I ON ', x.relname), ' INDEX ON ') as definition
    {_FROM_TABLES}
        join pg_index i on i.indrelid = c.oid join pg_class x on x.oid = i.indexrelid
    where {_IS_TABLE} and not exists (select from pg_inherits h where h.inhrelid = i.indexrelid)"""

_CONSTRAINTS = f"""
    select c.oid::regclass::text as relation, k.contype = 'x' as exclusion,
        replace(pg_get_constraintdef(k.oid), ' NOT VALID', '') as definition
    {_FROM_TABLES} join pg_constraint k on k.conrelid = c.oid
    where {_IS_TABLE} and k.contype in ('c', 'f', 'x') and k.conparentid = 0 and k.coninhcount = 0"""
