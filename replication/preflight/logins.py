"""Whether the roles that log in to the source can log in to the destination, and are the same there."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg

from ..session import ControlSession
from ..sqltext import identifier
from .fragments import IS_CONTROL, need_activity, some
from .model import CheckContext, Finding, ProxiedUser, Severity, Where
from .registry import check

_Problem = tuple[Severity, str, str]
"""Severity, finding, remedy."""


@check("N03", "the proxy's users can log in to the destination", Severity.BLOCK, Where.BOTH)
async def check_logins(context: CheckContext) -> list[Finding]:
    here, there = [await _verifiers(session) for session in context.both]
    findings: list[Finding] = []
    for user in sorted(set(context.proxied_users), key=lambda u: (u.server_user, u.name)):
        source = await context.source.fetchrow(_ROLE, user.server_user, user.database_source)
        role = await context.destination.fetchrow(_ROLE, user.destination_user, user.database_destination)
        problems = list(role_problems(user, source, role))
        if role is not None and here is not None and there is not None:
            problems += password_problems(user, here.get(user.server_user), there.get(user.destination_user))
        object_ = context.on(context.destination, user.destination_user)
        findings += [Finding("N03", severity, object_, finding, remedy) for severity, finding, remedy in problems]
    if context.proxied_users and (here is None or there is None):
        finding = "the control user may not read pg_authid: the passwords of the two sides were not compared"
        remedy = "log in to the destination as each user of the proxy, with the password the proxy has"
        findings.append(Finding("N03", Severity.WARN, context.pair_name, finding, remedy))
    return findings


_ROLE = """
    select r.rolcanlogin as may_login, coalesce(r.rolvaliduntil <= now(), false) as expired,
        r.rolconnlimit as connections, d.oid is not null as database_exists, d.datallowconn as accepts,
        has_database_privilege(r.oid, d.oid, 'connect') as may_connect
    from pg_roles r left join pg_database d on d.datname = $2 where r.rolname = $1"""


def role_problems(user: ProxiedUser, source: asyncpg.Record | None, role: asyncpg.Record | None) -> Iterator[_Problem]:
    """What keeps `user` from logging in to the destination as it does to the source."""
    name, database = identifier(user.destination_user), identifier(user.database_destination)
    block = Severity.BLOCK
    if role is None:
        remedy = f"CREATE ROLE {name} LOGIN ...; (pg_dumpall --roles-only prints it)"
        yield block, f'the role is missing here; the proxy\'s user "{user.name}" logs in as it', remedy
        return
    if not role["may_login"]:
        yield block, "the role may not log in", f"ALTER ROLE {name} LOGIN;"
    if role["expired"]:
        yield (
            block,
            "the password of the role is no longer valid",
            f"ALTER ROLE {name} VALID UNTIL 'infinity';",
        )
    if not role["database_exists"]:
        yield block, f"there is no database {database} here", "correct database_name, or create it"
    elif not role["accepts"]:
        yield (
            block,
            f"database {database} accepts no connections",
            f"ALTER DATABASE {database} ALLOW_CONNECTIONS true;",
        )
    elif not role["may_connect"]:
        remedy = f"GRANT CONNECT ON DATABASE {database} TO {name};"
        yield block, f"the role may not connect to database {database}", remedy
    allowed = source["connections"] if source is not None else -1
    if role["connections"] >= 0 and (allowed < 0 or role["connections"] < allowed):
        words = "any number" if allowed < 0 else f"{allowed} connections"
        remedy = f"ALTER ROLE {name} CONNECTION LIMIT {allowed};"
        yield (
            block,
            f"the role may open {role['connections']} connections here, {words} on the source",
            remedy,
        )


async def _verifiers(session: ControlSession) -> dict[str, tuple[str, str]] | None:
    """Role -> kind and hash of its stored password; the verifier itself does not leave the server. None where
    the control user may not see it (managed services let nobody)."""
    try:
        rows = await session.fetch(
            "select rolname::text as name, md5(rolpassword) as hash,"
            " case when rolpassword like 'SCRAM-SHA-256$%' then 'scram'"
            "   when rolpassword is not null then 'md5' else '' end as kind"
            " from pg_authid where rolcanlogin"
        )
    except asyncpg.InsufficientPrivilegeError:
        return None
    return {row["name"]: (row["kind"], row["hash"] or "") for row in rows}


def password_problems(
    user: ProxiedUser, here: tuple[str, str] | None, there: tuple[str, str] | None
) -> Iterator[_Problem]:
    """Compare what the two servers store. Equal SCRAM verifiers prove an equal password; different ones prove
    nothing, for each has a salt of its own. md5 is salted with the role's name only."""
    if here is None or there is None or not here[0] or here == there:
        return
    name = identifier(user.destination_user)
    copy = f"ALTER ROLE {name} PASSWORD '<the verifier in pg_authid of the source>';"
    if not there[0]:
        yield Severity.BLOCK, "the role has no password here, on the source it has one", copy
    elif user.same_verifier_needed:
        finding = "the server stores another verifier than the source, and the proxy knows no password for it"
        yield Severity.BLOCK, finding, copy
    elif here[0] == there[0] == "md5" and user.server_user == user.destination_user:
        yield Severity.BLOCK, "the role has another password here", copy
    else:
        finding = "the stored verifiers differ: that is right only if the password is the same"
        yield Severity.WARN, finding, copy


@check("R01", "roles that log in to the source exist on the destination", Severity.BLOCK, Where.BOTH)
async def check_roles(context: CheckContext) -> list[Finding]:
    """Those of sessions that are open now; the proxy's own users are looked at by N03."""
    await need_activity(context, context.source)
    proxied = [user.server_user for user in context.proxied_users]
    connected = [row["name"] for row in await context.source.fetch(_CONNECTED_ROLES, proxied)]
    known = {row["name"] for row in await context.destination.fetch("select rolname::text as name from pg_roles")}
    findings = [
        Finding(
            "R01",
            Severity.BLOCK,
            context.on(context.destination, name),
            "the role is missing here, and it has a session on the source now",
            f"CREATE ROLE {identifier(name)} LOGIN ...; and let it connect to the proxy",
        )
        for name in connected
        if name not in known
    ]
    for kind, query in (("settings", _ROLE_SETTINGS), ("memberships", _MEMBERSHIPS)):
        here, there = [{row["name"] for row in await session.fetch(query, proxied)} for session in context.both]
        if missing := sorted(here - there):
            finding = f"{kind} of roles or of the database that the source has and this side lacks: {some(missing)}"
            remedy = "set them here, too (pg_dumpall --roles-only, ALTER ROLE/DATABASE ... SET)"
            findings.append(Finding("R01", Severity.WARN, context.on(context.destination, kind), finding, remedy))
    return findings


_CONNECTED_ROLES = f"""
    select distinct a.usename::text as name from pg_stat_activity a
    where a.datname = current_database() and a.backend_type = 'client backend'
        and a.usename <> all ($1::text[]) and not {IS_CONTROL} order by 1"""

# The fence sets default_transaction_read_only of the database, and takes it away itself.
_ROLE_SETTINGS = """
    select format('%s%s: %s', coalesce('role ' || r.rolname, 'all roles'),
        case when s.setdatabase <> 0 then ' in this database' else '' end, item) as name
    from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) item
    where (s.setrole = 0 or r.rolname = any ($1::text[]))
        and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
        and not (s.setrole = 0 and item like 'default_transaction_read_only=%')"""

_MEMBERSHIPS = """
    select format('%s in %s', m.rolname, g.rolname) as name
    from pg_auth_members a join pg_roles m on m.oid = a.member join pg_roles g on g.oid = a.roleid
    where m.rolname = any ($1::text[])"""
