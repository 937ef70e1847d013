"""Code that runs on a subscriber by itself, and rights that decide what is copied and applied."""

from __future__ import annotations

from ..session import ControlSession
from ..sqltext import identifier
from .fragments import OWN_SCHEMA, RELATIONS, not_of_extension, some, users_relation, users_schema
from .model import CheckContext, Finding, Severity, Where
from .registry import check
from .snapshot import destination_has_schema


@check("G01", "triggers that fire for replicated rows", Severity.WARN, Where.BOTH)
async def check_replica_triggers(context: CheckContext) -> list[Finding]:
    return [
        Finding(
            "G01",
            Severity.WARN,
            context.on(session, row["name"]),
            f"trigger is ENABLE {'ALWAYS' if row['enabled'] == 'A' else 'REPLICA'}: it fires for every row"
            " that is applied here; if it writes to replicated tables, rows are doubled",
            f"ALTER TABLE {row['relation']} ENABLE TRIGGER {row['trigger']};",
        )
        for session in context.both
        for row in await session.fetch(_REPLICA_TRIGGERS)
    ]


# The fence is made of such triggers, with names of ours.
_REPLICA_TRIGGERS = f"""
    select format('%I on %s', t.tgname, t.tgrelid::regclass) as name, quote_ident(t.tgname) as trigger,
        t.tgrelid::regclass::text as relation, t.tgenabled::text as enabled
    from {RELATIONS} join pg_trigger t on t.tgrelid = c.oid
    where not t.tgisinternal and t.tgenabled in ('A', 'R') and t.tgname not like '{OWN_SCHEMA}%'
        and {users_relation()}
    order by 1"""


@check("G02", "rules that act on replicated rows", Severity.WARN, Where.BOTH)
async def check_replica_rules(context: CheckContext) -> list[Finding]:
    query = (
        "select format('%I on %s', r.rulename, r.ev_class::regclass) as name"
        f" from {RELATIONS} join pg_rewrite r on r.ev_class = c.oid"
        f" where r.rulename <> '_RETURN' and r.ev_enabled in ('A', 'R') and {users_relation()} order by 1"
    )
    return [
        Finding(
            "G02",
            Severity.WARN,
            context.on(session, row["name"]),
            "the rule is ENABLE ALWAYS or REPLICA",
            "ALTER TABLE ... ENABLE RULE ...; makes it act for clients only",
        )
        for session in context.both
        for row in await session.fetch(query)
    ]


@check("G03", "event triggers", Severity.WARN, Where.BOTH)
async def check_event_triggers(context: CheckContext) -> list[Finding]:
    query = (
        "select quote_ident(e.evtname) as name, e.evtevent as event from pg_event_trigger e"
        f" where e.evtenabled <> 'D' and {not_of_extension('pg_event_trigger', 'e.oid')} order by 1"
    )
    return [
        Finding(
            "G03",
            Severity.WARN,
            context.on(session, row["name"]),
            f"an event trigger on {row['event']} sees, and may refuse, what a move creates",
            f"ALTER EVENT TRIGGER {row['name']} DISABLE; during REPLICATE, or see that it lets it pass",
        )
        for session in context.both
        for row in await session.fetch(query)
    ]


@check("G04a", "the initial copy sees every row", Severity.BLOCK, Where.SOURCE)
async def check_rls_on_copy(context: CheckContext) -> list[Finding]:
    """A role that row-level security applies to copies only the rows it may see, without any error."""
    session = context.source
    rows = await session.fetch(
        f"select c.oid::regclass::text as relation from {RELATIONS}"
        f" where c.relkind in ('r', 'p') and {users_relation()} and row_security_active(c.oid) order by 1"
    )
    user = session.endpoint.user
    return [
        Finding(
            "G04a",
            Severity.BLOCK,
            context.on(session, row["relation"]),
            f'row-level security hides rows of this table from "{user}", who copies it',
            f"ALTER ROLE {identifier(user)} BYPASSRLS; and copy again what was copied without it",
        )
        for row in rows
    ]


@check("G04b", "applying is not stopped by row-level security", Severity.BLOCK, Where.BOTH)
async def check_rls_on_apply(context: CheckContext) -> list[Finding]:
    """15 and newer refuse to apply to a table where row-level security holds for the applying role: the owner
    of the subscription, from 16 on the owner of the table (worker.c: TargetPrivilegesCheck)."""
    findings: list[Finding] = []
    for session in context.both:
        if session.major < 15:
            continue
        rows = await session.fetch(_rls_on_apply(session), _subscription_of(context, session))
        findings += [
            Finding(
                "G04b",
                Severity.BLOCK,
                context.on(session, row["relation"]),
                f'row-level security holds for "{row["role"]}", as whom changes are applied: applying fails',
                f"ALTER ROLE {identifier(row['role'])} BYPASSRLS; or ALTER TABLE {row['relation']}"
                " NO FORCE ROW LEVEL SECURITY;",
            )
            for row in rows
        ]
    return findings


def _subscription_of(context: CheckContext, session: ControlSession) -> str:
    """The one that applies on this side; for the way back none is there yet, the control user will own it."""
    return context.subscription or "" if session is context.destination else ""


def _applier(session: ControlSession) -> str:
    """FROM item: who owns the subscription $1, or will, and whether changes are applied as that role."""
    runs_as_owner = "coalesce(s.subrunasowner, false)" if session.major >= 16 else "true"
    return f"""(select o.oid, o.rolname, o.rolsuper, {runs_as_owner} as runs_as_owner
        from pg_roles me left join pg_subscription s on s.subname = $1
            and s.subdbid = (select oid from pg_database where datname = current_database())
        join pg_roles o on o.oid = coalesce(s.subowner, me.oid)
        where me.rolname = current_user)"""


def _rls_on_apply(session: ControlSession) -> str:
    return f"""
        select c.oid::regclass::text as relation, r.rolname::text as role
        from {RELATIONS},
            {_applier(session)} a,
            lateral (select * from pg_roles x
                where x.oid = case when a.runs_as_owner then a.oid else c.relowner end) r
        where c.relkind in ('r', 'p') and c.relrowsecurity and {users_relation()}
            and not r.rolsuper and not r.rolbypassrls
            and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'usage'))
        order by 1"""


@check("G04c", "the subscription may act as the owners of tables", Severity.BLOCK, Where.BOTH)
async def check_apply_as_owner(context: CheckContext) -> list[Finding]:
    """From 16 on every change is applied as the owner of its table, unless run_as_owner is set."""
    findings: list[Finding] = []
    for session in context.both:
        if session.major < 16:
            continue
        rows = await session.fetch(_foreign_owners(session), _subscription_of(context, session))
        findings += [
            Finding(
                "G04c",
                Severity.BLOCK,
                context.on(session, row["owner"]),
                f'"{row["role"]}", who owns the subscription, may not SET ROLE to the owner of'
                f" {some(row['relations'])}: applying fails",
                f"GRANT {identifier(row['owner'])} TO {identifier(row['role'])} WITH SET TRUE;",
            )
            for row in rows
        ]
    return findings


def _foreign_owners(session: ControlSession) -> str:
    return f"""
        select o.rolname::text as owner, a.rolname::text as role,
            array_agg(c.oid::regclass::text order by c.oid::regclass::text) as relations
        from {RELATIONS} join pg_roles o on o.oid = c.relowner,
            {_applier(session)} a
        where c.relkind in ('r', 'p') and {users_relation()}
            and not a.rolsuper and not a.runs_as_owner and not pg_has_role(a.oid, c.relowner, 'set')
        group by 1, 2 order by 1"""


@check("G05", "functions that apply can run find what they name", Severity.WARN, Where.BOTH)
async def check_function_search_path(context: CheckContext) -> list[Finding]:
    """Apply workers run with an empty search_path: unqualified names in such a function are not found."""
    return [
        Finding(
            "G05",
            Severity.WARN,
            context.on(session, row["name"]),
            f"used by a {row['user']}, and its search_path is not fixed: unqualified names in it"
            " are not found when changes are applied",
            f"ALTER FUNCTION {row['name']} SET search_path = ...; or qualify every name in it",
        )
        for session in context.both
        for row in await session.fetch(_BARE_FUNCTIONS)
    ]


# Names in a body of SQL-standard form (14+: prosqlbody) were resolved when the function was made.
_BARE_FUNCTIONS = f"""
    select distinct p.oid::regprocedure::text as name,
        case d.classid when 'pg_constraint'::regclass then 'check constraint'
            when 'pg_attrdef'::regclass then 'default or generated column'
            when 'pg_class'::regclass then 'index' else 'trigger' end as user
    from pg_depend d join pg_proc p on p.oid = d.refobjid and d.refclassid = 'pg_proc'::regclass
        join pg_namespace n on n.oid = p.pronamespace
        left join pg_trigger t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
    where d.classid in ('pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_class'::regclass,
            'pg_trigger'::regclass)
        and {users_schema("n")} and {not_of_extension("pg_proc", "p.oid")}
        and p.prolang not in (select oid from pg_language where lanname in ('c', 'internal'))
        and to_jsonb(p) ->> 'prosqlbody' is null
        and not exists (select from unnest(p.proconfig) x where x like 'search_path=%')
        and (t.oid is null or t.tgenabled in ('A', 'R'))
    order by 1, 2"""


@check("X01", "extensions exist on the destination", Severity.BLOCK, Where.BOTH)
async def check_extensions(context: CheckContext) -> list[Finding]:
    source, destination = [
        {row["name"]: row["version"] for row in await session.fetch(_EXTENSIONS)} for session in context.both
    ]
    offered = {row["name"] for row in await context.destination.fetch("select name::text from pg_available_extensions")}
    installed_too = await destination_has_schema(context)
    findings: list[Finding] = []
    for name, version in source.items():
        quoted = identifier(name)
        object_ = context.on(context.destination, name)
        if name not in destination and name not in offered:
            finding = "the server does not offer this extension of the source"
            remedy = "install its package on the server of the destination"
            findings.append(Finding("X01", Severity.BLOCK, object_, finding, remedy))
        elif name not in destination and installed_too:
            remedy = f"CREATE EXTENSION {quoted}; on the destination"
            findings.append(Finding("X01", Severity.BLOCK, object_, "the extension is not installed here", remedy))
        elif name in destination and destination[name] != version:
            finding = f"version {version} on the source, {destination[name]} here"
            remedy = f"ALTER EXTENSION {quoted} UPDATE; on the older side"
            findings.append(Finding("X01", Severity.WARN, object_, finding, remedy))
    return findings


_EXTENSIONS = "select extname::text as name, extversion as version from pg_extension order by 1"

# What they keep in their own catalogue, or replicate themselves, does not come along.
_OWN_STATE = {
    "pglogical": "replicates by itself",
    "pgactive": "replicates by itself",
    "spock": "replicates by itself",
    "bdr": "replicates by itself",
    "citus": "keeps tables on other servers",
    "timescaledb": "keeps its chunks in a catalogue of its own",
    "pgq": "keeps queues in tables made at run time",
    "age": "keeps graphs in a catalogue of its own",
}
_ACTING = {
    "pg_cron": "runs jobs by itself",
    "pg_partman": "makes partitions by itself",
    "pgmq": "keeps queues in tables made at run time",
    "pg_ivm": "keeps views up to date by triggers",
    "pg_repack": "exchanges tables while it runs",
    "pg_squeeze": "exchanges tables while it runs",
}


@check("X02", "extensions that act by themselves", Severity.BLOCK, Where.BOTH)
async def check_acting_extensions(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for session in context.both:
        for row in await session.fetch(_EXTENSIONS):
            name = row["name"]
            object_ = context.on(session, name)
            if name in _OWN_STATE:
                finding = f"the extension {_OWN_STATE[name]}; logical replication does not carry that"
                remedy = "move its data by its own means and remove it from the pair, or do not move this database"
                findings.append(Finding("X02", Severity.BLOCK, object_, finding, remedy))
            elif name in _ACTING:
                jobs = await _active_jobs(session) if name == "pg_cron" else 0
                writes = jobs > 0 and session is context.destination
                finding = f"the extension {_ACTING[name]}" + (f"; {jobs} jobs are active" if jobs else "")
                remedy = "pause it on both sides during the move; start it on the destination after the cutover"
                severity = Severity.BLOCK if writes else Severity.WARN
                findings.append(Finding("X02", severity, object_, finding, remedy))
    return findings


async def _active_jobs(session: ControlSession) -> int:
    return int(await session.fetchval("select count(*) from cron.job where active"))
