"""Who the two databases are, whether they reach each other, and what the control user may do there."""

from __future__ import annotations

import secrets

import asyncpg

from ..session import ControlSession, ControlUnavailable
from ..sqltext import identifier, literal
from .model import CheckContext, Finding, Severity, Where, redact
from .registry import check

# Sessions beyond the proxy's links that should still find room: subscriptions, monitoring, the operator.
_SPARE_CONNECTIONS = 10

# libpq gives up after the connect_timeout of 10 s in the connection string; the server's answer comes then.
_SUBSCRIBE_TIMEOUT_S = 14.0

# Roles of managed services that stand for a superuser there.
_MANAGED_SUPERUSERS = ("rds_superuser", "cloudsqlsuperuser", "azure_pg_admin", "alloydbsuperuser")


@check("N01", "source and destination are different databases", Severity.BLOCK, Where.BOTH)
async def check_different_databases(context: CheckContext) -> list[Finding]:
    """Shared locks prove it; the fingerprint finds it, too, where something between us keeps locks apart."""
    source, destination = await _fingerprint(context.source), await _fingerprint(context.destination)
    same_lock_space = await _share_advisory_locks(context)
    object_ = f"{context.source.endpoint.name} and {context.destination.endpoint.name}"
    if same_lock_space or (source is not None and source == destination):
        return [
            Finding(
                "N01",
                Severity.BLOCK,
                object_,
                "both names lead to the same database of the same server",
                "correct host, port or database_name of one of them",
            )
        ]
    if source is not None and destination is not None and source[:2] == destination[:2]:
        return [
            Finding(
                "N01",
                Severity.INFO,
                object_,
                "the destination is a physical clone of the source (same system identifier and database oid)",
                "nothing to do where that is intended",
            )
        ]
    return []


async def _fingerprint(session: ControlSession) -> tuple[object, ...] | None:
    """System identifier, database oid and start time; None where the server keeps them to itself. A clone
    shares the first two with its original."""
    try:
        row = await session.fetchrow(
            "select c.system_identifier, d.oid, pg_postmaster_start_time()"
            " from pg_control_system() c, pg_database d where d.datname = current_database()"
        )
    except asyncpg.InsufficientPrivilegeError:
        return None
    return tuple(row) if row is not None else None


async def _share_advisory_locks(context: CheckContext) -> bool:
    """Whether a lock taken on the one side is seen on the other; locks are per database of one server."""
    key = secrets.randbits(63)
    await context.source.fetchval("select pg_advisory_lock($1)", key)
    try:
        if await context.destination.fetchval("select pg_try_advisory_lock($1)", key):
            await context.destination.fetchval("select pg_advisory_unlock($1)", key)
            return False
        return True
    finally:
        await context.source.fetchval("select pg_advisory_unlock($1)", key)


@check("S03", "both servers are primaries", Severity.BLOCK, Where.BOTH)
async def check_primaries(context: CheckContext) -> list[Finding]:
    """Only recovery counts: a database that moved away is read-only by default, on purpose."""
    return [
        Finding(
            "S03",
            Severity.BLOCK,
            context.on(session),
            "the server is in recovery: a standby can neither be written nor subscribe",
            "give the address of its primary, or promote it",
        )
        for session in context.both
        if await session.fetchval("select pg_is_in_recovery()")
    ]


@check("S04", "the control user may replicate and administer", Severity.BLOCK, Where.BOTH)
async def check_rights(context: CheckContext) -> list[Finding]:
    """Both directions are needed: the way back is made before the pause of every run."""
    findings: list[Finding] = []
    for session in context.both:
        row = await session.fetchrow(_RIGHTS, list(_MANAGED_SUPERUSERS))
        assert row is not None
        findings += [
            Finding("S04", Severity.BLOCK, context.on(session, session.endpoint.user), lacks, remedy)
            for right, lacks, remedy in _rights_and_remedies(session)
            if not row[right]
        ]
    return findings


def _rights_and_remedies(session: ControlSession) -> list[tuple[str, str, str]]:
    user, database = identifier(session.endpoint.user), identifier(session.endpoint.database)
    if session.major >= 16:
        subscribe = ("may not subscribe", f"GRANT pg_create_subscription TO {user};")
    else:
        subscribe = (
            "may not subscribe: takes a superuser before version 16",
            f"ALTER ROLE {user} SUPERUSER;",
        )
    return [
        ("may_replicate", "may not replicate", f"ALTER ROLE {user} REPLICATION;"),
        (
            "may_create",
            "may not create schemas and publications",
            f"GRANT CREATE ON DATABASE {database} TO {user};",
        ),
        ("may_subscribe", *subscribe),
    ]


_RIGHTS = """
    select super or r.rolreplication or member as may_replicate,
        super or has_database_privilege(current_database(), 'create') as may_create,
        super or managed or subscriber as may_subscribe
    from pg_roles r,
        lateral (select r.rolsuper as super) s,
        lateral (select exists (select from pg_roles m where m.rolname = any ($1)
            and pg_has_role(r.oid, m.oid, 'member')) as managed) g,
        lateral (select managed or exists (select from pg_roles m where m.rolname = 'rds_replication'
            and pg_has_role(r.oid, m.oid, 'member')) as member) p,
        lateral (select exists (select from pg_roles m where m.rolname = 'pg_create_subscription'
            and pg_has_role(r.oid, m.oid, 'usage')) as subscriber) c
    where r.rolname = current_user"""


@check("N02", "each server reaches the other as a subscriber", Severity.BLOCK, Where.BOTH)
async def check_reachable(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for subscriber, publisher in (
        (context.destination, context.source),
        (context.source, context.destination),
    ):
        error = await _try_subscription(subscriber, publisher)
        if error is not None:
            endpoint = publisher.endpoint
            address = f"{endpoint.replication_host or endpoint.host}:{endpoint.replication_port or endpoint.port}"
            findings.append(
                Finding(
                    "N02",
                    Severity.BLOCK,
                    f"{subscriber.endpoint.name} -> {endpoint.name}",
                    f"the server cannot subscribe to {address}: {redact(error, context)}",
                    "check address, firewall, pg_hba.conf and sslmode; where the servers reach each"
                    " other under another address than the proxy does, set *_replication_host and _port",
                )
            )
    return findings


async def _try_subscription(subscriber: ControlSession, publisher: ControlSession) -> str | None:
    """Make a subscription without a slot in a transaction that is rolled back; the server connects while it
    makes it. None where that worked, else the server's words."""
    name = f"pgcutover_probe_{secrets.token_hex(6)}"
    conninfo = literal(publisher.endpoint.replication_conninfo())
    try:
        await subscriber.execute("begin")
        try:
            await _keep_out_of_logs(subscriber)
            await subscriber.execute(
                f"create subscription {name} connection {conninfo} publication {name}"
                " with (enabled = false, create_slot = false, slot_name = none, copy_data = false)",
                timeout_s=_SUBSCRIBE_TIMEOUT_S,
            )
        finally:
            if not subscriber.closed:  # a closed connection has rolled back on its own
                await subscriber.execute("rollback")
    except (asyncpg.PostgresError, ControlUnavailable) as error:
        return str(error)
    return None


async def _keep_out_of_logs(session: ControlSession) -> None:
    """The statement holds a password, and no parameter can carry it; a superuser can keep it out of the log
    and of pg_stat_statements for this transaction."""
    if await session.fetchval("select rolsuper from pg_roles where rolname = current_user"):
        await session.execute(
            "set local log_statement = 'none'; set local log_min_error_statement = 'panic';"
            "set local log_min_duration_statement = -1; set local log_duration = off;"
            "set local pg_stat_statements.track_utility = off"
        )


@check("N04", "server versions", Severity.BLOCK, Where.BOTH)
async def check_versions(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for session in context.both:
        if session.major < context.minimum_major:
            findings.append(
                Finding(
                    "N04",
                    Severity.BLOCK,
                    context.on(session),
                    f"version {session.major} is too old: supported is {context.minimum_major} or newer",
                    "upgrade the server by other means first",
                )
            )
        elif session.major > context.maximum_major:
            findings.append(
                Finding(
                    "N04",
                    Severity.WARN,
                    context.on(session),
                    f"version {session.major} is newer than the newest tested one, {context.maximum_major}",
                    "look for a newer release of this program",
                )
            )
    source, destination = context.source.major, context.destination.major
    down = destination < source
    findings.append(
        Finding(
            "N04",
            Severity.WARN if down else Severity.INFO,
            context.pair_name,
            f"from version {source} to version {destination}",
            "check that the application needs nothing newer" if down else "nothing to do",
        )
    )
    return findings


@check("N05", "the destination has room for the proxy's links", Severity.BLOCK, Where.DESTINATION)
async def check_room(context: CheckContext) -> list[Finding]:
    session = context.destination
    row = await session.fetchrow(_ROOM, context.own_pids(session))
    assert row is not None
    needed = context.links_needed + _SPARE_CONNECTIONS
    findings: list[Finding] = []
    if row["usable"] - row["others"] < needed:
        findings.append(
            Finding(
                "N05",
                Severity.BLOCK,
                context.on(session),
                f"{needed} connections are needed, {_SPARE_CONNECTIONS} of them to spare;"
                f" of {row['usable']} for ordinary users, others use {row['others']}",
                "raise max_connections (restart), or lower the pool sizes",
            )
        )
    limit = row["datconnlimit"]
    if 0 <= limit < row["others_here"] + context.links_needed:
        findings.append(
            Finding(
                "N05",
                Severity.BLOCK,
                context.on(session),
                f"{context.links_needed} links are needed; the database allows {limit} connections"
                f" and others use {row['others_here']}",
                f"ALTER DATABASE {identifier(session.endpoint.database)} CONNECTION LIMIT -1;",
            )
        )
    return findings


# numbackends counts background workers of a database, too; that errs on the safe side and needs no rights.
_ROOM = """
    select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0) as usable,
        (select coalesce(sum(numbackends), 0)::int from pg_stat_database where datid <> 0) - ours as others,
        (select numbackends from pg_stat_database where datid = d.oid) - ours as others_here,
        d.datconnlimit
    from pg_database d,
        (select count(*)::int as ours from pg_stat_activity where pid = any ($1)) o
    where d.datname = current_database()"""
