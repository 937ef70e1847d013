"""Functions, views, triggers, policies and rights that one side has and the other lacks."""

from __future__ import annotations

from collections.abc import Iterable

from ..session import ControlSession
from ..sqltext import identifier
from .fragments import RELATIONS, not_of_extension, some, users_relation, users_schema
from .model import CheckContext, Finding, Severity, Where
from .registry import EVER, check
from .snapshot import snapshots


@check("D06", "functions, views, triggers and policies exist on the destination", Severity.BLOCK, Where.BOTH)
async def check_code(context: CheckContext) -> list[Finding]:
    if await snapshots(context) is None:
        return []
    findings: list[Finding] = []
    here, there = [await _functions(session) for session in context.both]
    for name, (body, users) in here.items():
        object_ = context.on(context.destination, name)
        if name not in there:
            findings.append(
                Finding(
                    "D06",
                    Severity.BLOCK if users else Severity.WARN,
                    object_,
                    "the function is missing here" + (f"; on the source {some(users)} needs it" if users else ""),
                    "create it here, too",
                )
            )
        elif body != there[name][0]:
            remedy = "compare the two; make them the same where that is not intended"
            findings.append(Finding("D06", Severity.WARN, object_, "the function's text is another one", remedy))
    for kind, query in _OTHER_CODE.items():
        source, destination = [
            {row["name"]: row["text"] for row in await session.fetch(query)} for session in context.both
        ]
        for name, text in source.items():
            if name not in destination:
                finding = f"the {kind} is missing here"
            elif text != destination[name]:
                finding = f"the {kind} is another one here"
            else:
                continue
            object_ = context.on(context.destination, name)
            findings.append(Finding("D06", Severity.WARN, object_, finding, "create it here as it is on the source"))
    return findings


async def _functions(session: ControlSession) -> dict[str, tuple[str, list[str]]]:
    """Signature -> hash of the text, and which default, constraint or index calls it."""
    return {row["name"]: (row["body"], row["users"]) for row in await session.fetch(_FUNCTIONS)}


_FUNCTIONS = f"""
    select format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as name,
        md5(p.prosrc) as body,
        array(select distinct pg_describe_object(d.classid, d.objid, 0) from pg_depend d
            where d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid
                and d.classid in ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_class'::regclass)
        ) as users
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where {users_schema("n")} and {not_of_extension("pg_proc", "p.oid")} order by 1"""

# Views and triggers are printed by the server, and versions print differently: only their existence counts.
_OTHER_CODE = {
    "view": f"""
        select c.oid::regclass::text as name, '' as text
        from {RELATIONS}
        where c.relkind in ('v', 'm') and {users_relation()} order by 1""",
    "trigger": f"""
        select format('%I on %s', t.tgname, t.tgrelid::regclass) as name, t.tgenabled::text as text
        from {RELATIONS} join pg_trigger t on t.tgrelid = c.oid
        where not t.tgisinternal and t.tgname not like 'pgcutover%' and {users_relation()} order by 1""",
    "policy": f"""
        select format('%I on %s', p.polname, p.polrelid::regclass) as name, p.polcmd::text as text
        from {RELATIONS} join pg_policy p on p.polrelid = c.oid
        where {users_relation()} order by 1""",
}


@check("D07", "owners and grantees exist on the destination", Severity.BLOCK, Where.BOTH, EVER)
async def check_roles_and_grants(context: CheckContext) -> list[Finding]:
    """Roles belong to the server, not to the database, so this is asked before the schema is copied, too."""
    names = [row["name"] for row in await context.source.fetch(_ROLES)]
    known = {row["name"] for row in await context.destination.fetch("select rolname::text as name from pg_roles")}
    findings = [
        Finding(
            "D07",
            Severity.BLOCK,
            context.on(context.destination, name),
            "the role is missing here; on the source it owns objects or has rights",
            f"CREATE ROLE {identifier(name)} ...; (pg_dumpall --roles-only prints it)",
        )
        for name in names
        if name not in known
    ]
    if await snapshots(context) is not None:
        here, there = [await _rights(session) for session in context.both]
        for relation in sorted(here.keys() & there.keys()):
            findings += _different_rights(context, relation, here[relation], there[relation])
    return findings


# The bootstrap superuser has no rows in pg_shdepend (its objects are pinned): owners are read as well.
_ROLES = f"""
    select r.rolname::text as name from pg_roles r
    where r.rolname !~ '^pg_' and (
        exists (select from pg_shdepend s, pg_database d
            where d.datname = current_database()
                and s.refclassid = 'pg_authid'::regclass and s.refobjid = r.oid
                and (s.dbid = d.oid or (s.classid = 'pg_database'::regclass and s.objid = d.oid)))
        or exists (select from {RELATIONS}
            where c.relowner = r.oid and {users_relation()}))
    order by 1"""


async def _rights(session: ControlSession) -> dict[str, tuple[str, frozenset[str]]]:
    """Relation -> owner, and the rights of all others."""
    return {row["relation"]: (row["owner"], frozenset(row["grants"])) for row in await session.fetch(_GRANTS)}


_GRANTS = f"""
    select c.oid::regclass::text as relation, pg_get_userbyid(c.relowner)::text as owner,
        array(select format('%s to %s', a.privilege_type, coalesce(g.rolname, 'PUBLIC'))
            from aclexplode(c.relacl) a left join pg_roles g on g.oid = a.grantee
            where a.grantee <> c.relowner) as grants
    from {RELATIONS}
    where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and {users_relation()}"""


def _different_rights(
    context: CheckContext, relation: str, here: tuple[str, Iterable[str]], there: tuple[str, Iterable[str]]
) -> list[Finding]:
    object_ = context.on(context.destination, relation)
    findings: list[Finding] = []
    if here[0] != there[0]:
        finding = f"owned by {there[0]}, on the source by {here[0]}"
        remedy = f"ALTER TABLE {relation} OWNER TO {identifier(here[0])};"
        findings.append(Finding("D07", Severity.WARN, object_, finding, remedy))
    missing = sorted(set(here[1]) - set(there[1]))
    if missing:
        finding = f"rights missing here: {some(missing)}"
        findings.append(Finding("D07", Severity.WARN, object_, finding, "GRANT them here, too"))
    return findings
