"""What logical replication can carry of each table, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

from ..session import ControlSession
from .fragments import RELATIONS, nonempty_tables, not_of_extension, users_relation
from .model import CheckContext, Finding, Severity, Where
from .registry import check
from .snapshot import Column, Snapshot, snapshots

_TABLES = f"""
    from {RELATIONS}
    where c.relkind = 'r' and c.relpersistence = 'p' and {users_relation()}"""


@check("T01", "tables have a replica identity", Severity.BLOCK, Where.BOTH)
async def check_replica_identity(context: CheckContext) -> list[Finding]:
    """A published table without one refuses UPDATE and DELETE, on the source. The destination publishes for
    the way back, so it needs one as well. Only leaves count: rows are logged with the leaf's identity."""
    findings: list[Finding] = []
    for session in context.both:
        for row in await session.fetch(_IDENTITY):
            full = row["identity"] == "f"
            findings.append(
                Finding(
                    "T01",
                    Severity.WARN if full else Severity.BLOCK,
                    context.on(session, row["relation"]),
                    _IDENTITY_PROBLEMS[row["identity"]]
                    + (": every change is looked up by the whole row" if full else ": UPDATE and DELETE would fail"),
                    f"add a primary key, or a unique index on columns NOT NULL and ALTER TABLE"
                    f" {row['relation']} REPLICA IDENTITY USING INDEX ...;"
                    + ("" if full else f" last resort: ALTER TABLE {row['relation']} REPLICA IDENTITY FULL;"),
                )
            )
    return findings


_IDENTITY_PROBLEMS = {
    "n": "replica identity is NOTHING",
    "d": "there is no primary key, or it is deferrable, and no other replica identity",
    "i": "the index of the replica identity is missing or invalid",
    "f": "replica identity is FULL",
}

_IDENTITY = f"""
    select c.oid::regclass::text as relation, c.relreplident::text as identity {_TABLES}
        and not (c.relreplident = 'd' and exists (select from pg_index i
            where i.indrelid = c.oid and i.indisprimary and i.indimmediate))
        and not (c.relreplident = 'i' and exists (select from pg_index i
            where i.indrelid = c.oid and i.indisreplident and i.indisvalid))
    order by 1"""


@check("T02", "rows of replica identity FULL can be compared", Severity.BLOCK, Where.BOTH)
async def check_full_identity_types(context: CheckContext) -> list[Finding]:
    return [
        Finding(
            "T02",
            Severity.BLOCK,
            context.on(session, f"{row['relation']}.{row['attribute']}"),
            f"replica identity is FULL and type {row['type']} has no default equality: applying fails",
            f"give {row['relation']} a primary key or REPLICA IDENTITY USING INDEX",
        )
        for session in context.both
        for row in await session.fetch(_INCOMPARABLE)
    ]


# The apply worker looks for the default equality of a btree or hash operator class (execReplication.c).
_INCOMPARABLE = f"""
    select c.oid::regclass::text as relation, quote_ident(a.attname) as attribute,
        format_type(a.atttypid, a.atttypmod) as type
    from {RELATIONS}
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        join pg_type t on t.oid = a.atttypid
    where c.relkind = 'r' and c.relreplident = 'f' and {users_relation()}
        and not exists (select from pg_opclass o
            join pg_am m on m.oid = o.opcmethod join pg_type i on i.oid = o.opcintype
            where m.amname in ('btree', 'hash') and o.opcdefault
                and (o.opcintype = coalesce(nullif(t.typbasetype, 0), t.oid)
                    or (t.typtype = 'e' and i.typname = 'anyenum')
                    or (t.typcategory = 'A' and i.typname = 'anyarray')
                    or (t.typtype = 'r' and i.typname = 'anyrange')
                    or (t.typtype = 'm' and i.typname = 'anymultirange')
                    or (t.typtype = 'c' and i.typname = 'record')
                    or exists (select from pg_cast k where k.castsource = t.oid
                        and k.casttarget = o.opcintype and k.castmethod = 'b' and k.castcontext = 'i')))
    order by 1, 2"""


@check("T03", "no unlogged table holds rows", Severity.BLOCK, Where.SOURCE)
async def check_unlogged(context: CheckContext) -> list[Finding]:
    session = context.source
    rows = await session.fetch(
        f"select c.oid::regclass::text as relation from {RELATIONS}"
        f" where c.relkind = 'r' and c.relpersistence = 'u' and {users_relation()} order by 1"
    )
    names = [row["relation"] for row in rows]
    filled = set(await nonempty_tables(session, names))
    return [
        Finding(
            "T03",
            Severity.BLOCK if name in filled else Severity.WARN,
            context.on(session, name),
            "the table is unlogged: its rows are not replicated"
            + (", and it holds some" if name in filled else "; it is empty now"),
            f"ALTER TABLE {name} SET LOGGED; or empty it, if the application can do without its rows",
        )
        for name in names
    ]


@check("T07c", "materialized views", Severity.WARN, Where.BOTH)
async def check_materialized_views(context: CheckContext) -> list[Finding]:
    session = context.source
    rows = await session.fetch(
        f"select c.oid::regclass::text as relation from {RELATIONS}"
        f" where c.relkind = 'm' and {users_relation()} order by 1"
    )
    return [
        Finding(
            "T07c",
            Severity.WARN,
            context.on(session, row["relation"]),
            "a materialized view is not replicated",
            f"REFRESH MATERIALIZED VIEW {row['relation']}; on the destination, shortly before the cutover",
        )
        for row in rows
    ]


@check("T07d", "foreign tables and servers", Severity.BLOCK, Where.BOTH)
async def check_foreign_servers(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for session in context.both:
        for row in await session.fetch(_SERVERS):
            back = session is context.destination and _leads_to(context.source, row["options"])
            name = row["name"]
            findings.append(
                Finding(
                    "T07d",
                    Severity.BLOCK if back else Severity.WARN,
                    context.on(session, name),
                    "the foreign server leads to the source, which will be the old database"
                    if back
                    else f"foreign server with {row['tables']} foreign tables; their rows stay in place",
                    f"ALTER SERVER {name} OPTIONS (SET host ..., SET port ...); on the destination"
                    if back
                    else "see that the destination reaches it with the same user mappings",
                )
            )
    return findings


_SERVERS = f"""
    select quote_ident(s.srvname) as name, coalesce(s.srvoptions, '{{}}') as options,
        (select count(*) from pg_foreign_table t where t.ftserver = s.oid) as tables
    from pg_foreign_server s where {not_of_extension("pg_foreign_server", "s.oid")} order by 1"""


def _leads_to(session: ControlSession, options: list[str]) -> bool:
    endpoint = session.endpoint
    given = dict(option.split("=", 1) for option in options)
    hosts = {endpoint.host, endpoint.replication_host}
    ports = {str(endpoint.port), str(endpoint.replication_port or endpoint.port)}
    return (
        (given.get("host") in hosts or given.get("hostaddr") in hosts)
        and given.get("port", "5432") in ports
        and given.get("dbname") == endpoint.database
    )


@check("T08", "no large objects", Severity.BLOCK, Where.SOURCE)
async def check_large_objects(context: CheckContext) -> list[Finding]:
    session = context.source
    count = await session.fetchval("select count(*) from pg_largeobject_metadata")
    findings = [
        Finding(
            "T08",
            Severity.BLOCK,
            context.on(session, "large objects"),
            f"{count} large objects; logical replication does not carry them",
            "move them into bytea columns, or delete those that nothing refers to (vacuumlo)",
        )
    ]
    rows = await session.fetch(
        "select c.oid::regclass::text as relation, quote_ident(a.attname) as attribute"
        f" from {RELATIONS} join pg_attribute a on a.attrelid = c.oid where a.atttypid = 'oid'::regtype"
        f" and a.attnum > 0 and c.relkind = 'r' and {users_relation()} order by 1, 2"
    )
    references = [
        Finding(
            "T08",
            Severity.INFO,
            context.on(session, f"{row['relation']}.{row['attribute']}"),
            "a column of type oid: it may refer to large objects or to rows of the system catalogue",
            "see what it holds; such numbers mean nothing on another server",
        )
        for row in rows
    ]
    return (findings if count else []) + references


@check("T09", "generated columns are the same", Severity.BLOCK, Where.BOTH)
async def check_generated_columns(context: CheckContext) -> list[Finding]:
    """Generated columns are not published before 18: the destination computes them, or they stay null."""
    both = await snapshots(context)
    if both is None:
        return []
    findings: list[Finding] = []
    for name, column, other in _common_columns(*both):
        if column.generated == other.generated:
            continue
        expressions = column.generated and other.generated
        findings.append(
            Finding(
                "T09",
                Severity.WARN if expressions else Severity.BLOCK,
                context.on(context.destination, name),
                f"generated as ({column.generated}) on the source, ({other.generated}) here"
                if expressions
                else f"a generated column {'on the source' if column.generated else 'here'} only",
                "give the column the same definition on both sides",
            )
        )
    return findings


@check("T10", "identity columns are the same", Severity.BLOCK, Where.BOTH)
async def check_identity_columns(context: CheckContext) -> list[Finding]:
    both = await snapshots(context)
    if both is None:
        return []
    words = {"": "no identity column", "always": "GENERATED ALWAYS", "by default": "GENERATED BY DEFAULT"}
    return [
        Finding(
            "T10",
            Severity.BLOCK,
            context.on(context.destination, name),
            f"{words[column.identity]} on the source, {words[other.identity]} here",
            "ALTER TABLE ... ALTER COLUMN ... ADD GENERATED, SET GENERATED or DROP IDENTITY on one side",
        )
        for name, column, other in _common_columns(*both)
        if column.identity != other.identity
    ]


def _common_columns(source: Snapshot, destination: Snapshot) -> Iterator[tuple[str, Column, Column]]:
    """Every column that both sides have, with its qualified name."""
    for name, table in source.tables.items():
        other = destination.tables.get(name)
        if other is not None:
            for column in table.columns.values():
                if column.name in other.columns:
                    yield f"{name}.{column.name}", column, other.columns[column.name]
