"""Server settings that logical replication and the run depend on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..session import ControlSession
from .model import CheckContext, Finding, Severity, Where
from .registry import check

# What logical replication decodes with; 19 adds effective_wal_level, which rises by itself.
_LOGICAL = "logical"


async def _settings(context: CheckContext, session: ControlSession) -> Mapping[str, str]:
    async def load() -> dict[str, str]:
        rows = await session.fetch("select name, setting from pg_settings")
        return {row["name"]: row["setting"] for row in rows}

    return await context.once(f"settings {session.endpoint.name}", load)


@check("S01a", "wal_level is logical", Severity.BLOCK, Where.BOTH)
async def check_wal_level(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for session in context.both:
        settings = await _settings(context, session)
        level = settings.get("effective_wal_level", settings["wal_level"])
        may_rise = "effective_wal_level" in settings and settings["wal_level"] == "replica"
        if level != _LOGICAL and not may_rise:
            purpose = (
                "changes cannot be replicated"
                if session is context.source
                else "there is no way back, and every run prepares one"
            )
            findings.append(
                Finding(
                    "S01a",
                    Severity.BLOCK,
                    context.on(session, "wal_level"),
                    f"wal_level is {level}: {purpose}",
                    "ALTER SYSTEM SET wal_level = 'logical'; and restart (managed services have a switch of"
                    " their own: rds.logical_replication, cloudsql.logical_decoding)",
                )
            )
    return findings


@dataclass(frozen=True, slots=True)
class _Supply:
    """One resource that a stream takes, and how much of it is there."""

    setting: str
    free: int
    needed: int
    purpose: str

    def finding(self, id: str, context: CheckContext, session: ControlSession) -> Finding:
        return Finding(
            id,
            Severity.BLOCK,
            context.on(session, self.setting),
            f"{max(self.free, 0)} free, {self.needed} needed {self.purpose}",
            f"raise {self.setting} by {self.needed - self.free} (restart), or free some",
        )


@check("S02", "free replication slots and WAL senders", Severity.BLOCK, Where.BOTH)
async def check_slots_and_senders(context: CheckContext) -> list[Finding]:
    """At setup the source serves the stream and one copy worker each; the destination serves the way back."""
    copiers = int((await _settings(context, context.destination))["max_sync_workers_per_subscription"])
    supplies: list[tuple[ControlSession, _Supply]] = []
    if context.subscription is None:
        needed = 1 + max(copiers, 1)
        purpose = "for the stream and its copy workers"
        for setting, free in (await _free(context.source)).items():
            supplies.append((context.source, _Supply(setting, free, needed, purpose)))
    for setting, free in (await _free(context.destination)).items():
        made = setting == "max_replication_slots" and await reverse_slot_exists(context)
        if not made:
            supplies.append((context.destination, _Supply(setting, free, 1, "for the way back")))
    return [s.finding("S02", context, session) for session, s in supplies if s.free < s.needed]


async def _free(session: ControlSession) -> dict[str, int]:
    row = await session.fetchrow(
        "select current_setting('max_replication_slots')::int"
        "       - (select count(*) from pg_replication_slots)::int as slots,"
        "   current_setting('max_wal_senders')::int"
        "       - (select count(*) from pg_stat_replication)::int as senders"
    )
    assert row is not None
    return {"max_replication_slots": row["slots"], "max_wal_senders": row["senders"]}


async def reverse_slot_exists(context: CheckContext) -> bool:
    """Whether the slot of the way back is there already; making it is what can wait for others."""
    if context.reverse_slot is None:
        return False
    return bool(
        await context.destination.fetchval(
            "select exists (select from pg_replication_slots where slot_name = $1)", context.reverse_slot
        )
    )


@check("S01b", "workers and origins for subscriptions", Severity.BLOCK, Where.BOTH)
async def check_workers(context: CheckContext) -> list[Finding]:
    """The destination subscribes to the source, and the source to the destination for the way back."""
    findings: list[Finding] = []
    for session in context.both:
        forward = session is context.destination
        copying = forward and context.subscription is None
        settings = await _settings(context, session)
        row = await session.fetchrow(_SUBSCRIBERS, list(_own_subscriptions(context)))
        assert row is not None
        workers = row["others"] + 1 + (1 if copying else 0)
        copiers = int(settings["max_sync_workers_per_subscription"]) if copying else 0
        origins = _origin_setting(settings)
        purpose = (
            "for the subscription" + (" and its copy" if copying else "") + ("" if forward else " of the way back")
        )
        supplies = [
            _Supply(
                "max_logical_replication_workers",
                int(settings["max_logical_replication_workers"]),
                workers,
                purpose,
            ),
            # The launcher of logical replication takes a worker, too.
            _Supply(
                "max_worker_processes",
                int(settings["max_worker_processes"]) - row["other_workers"],
                workers + 1,
                purpose,
            ),
        ]
        if context.subscription is None or not forward:
            free_origins = int(settings[origins]) - row["origins"]
            supplies.append(_Supply(origins, free_origins, 1 + (max(copiers, 1) if copying else 0), purpose))
        findings += [s.finding("S01b", context, session) for s in supplies if s.free < s.needed]
    return findings


def _own_subscriptions(context: CheckContext) -> frozenset[str]:
    own = context.own_subscriptions
    return own | {context.subscription} if context.subscription is not None else own


def _origin_setting(settings: Mapping[str, str]) -> str:
    """18 gave replication origins a limit of their own (release notes of 18)."""
    own = "max_active_replication_origins"
    return own if own in settings else "max_replication_slots"


# pg_subscription covers the whole server, as the limits do.
_SUBSCRIBERS = """
    select (select count(*) from pg_subscription
            where subenabled and subname <> all ($1::text[]))::int as others,
        (select count(*) from pg_replication_origin)::int as origins,
        (select count(*) from pg_stat_activity
            where backend_type not like 'logical replication%' and backend_type not in ('client backend',
                'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer', 'startup',
                'walreceiver', 'walsender', 'walwriter', 'walsummarizer', 'archiver', 'logger',
                'standalone backend', 'slotsync worker', 'io worker', 'parallel worker'))::int
            as other_workers"""


@check("S01c", "the output plug-in pgoutput is allowed", Severity.BLOCK, Where.BOTH)
async def check_output_plugin(context: CheckContext) -> list[Finding]:
    """output_plugin_libraries came with minor releases of August 2026; older servers allow every plug-in."""
    findings: list[Finding] = []
    for session in context.both:
        allowed = (await _settings(context, session)).get("output_plugin_libraries")
        if allowed is not None and "pgoutput" not in _list_items(allowed):
            findings.append(
                Finding(
                    "S01c",
                    Severity.BLOCK,
                    context.on(session, "output_plugin_libraries"),
                    f"output_plugin_libraries is '{allowed}', without pgoutput",
                    "add pgoutput to output_plugin_libraries and reload",
                )
            )
    return findings


@check("S01d", "the slot is not dropped while it waits", Severity.WARN, Where.BOTH)
async def check_slot_survival(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for session in context.both:
        settings = await _settings(context, session)
        for name, harmless in (("max_slot_wal_keep_size", "-1"), ("idle_replication_slot_timeout", "0")):
            value = settings.get(name, harmless)
            if value != harmless:
                findings.append(
                    Finding(
                        "S01d",
                        Severity.WARN,
                        context.on(session, name),
                        f"{name} is {value}: a slot that falls behind this far is invalidated",
                        f"ALTER SYSTEM SET {name} = {harmless}; and watch the disk during the move",
                    )
                )
    return findings


@check("S01e", "time-outs that end an apply worker", Severity.WARN, Where.BOTH)
async def check_timeouts(context: CheckContext) -> list[Finding]:
    """Background workers start with the settings of their database and role; lock_timeout and
    transaction_timeout act in them, statement_timeout does not (it starts with a client's command)."""
    findings: list[Finding] = []
    for session in context.both:
        rows = await session.fetch(_TIMEOUTS)
        findings += [
            Finding(
                "S01e",
                Severity.WARN,
                context.on(session, row["setting"].split("=")[0]),
                f"{row['setting']} is set for {row['target']} and holds for apply workers, too",
                "reset it for the control user or the database while the move lasts",
            )
            for row in rows
        ]
    return findings


_TIMEOUTS = """
    select item as setting, case when s.setrole <> 0 then 'role ' || quote_ident(current_user) else '' end
        || case when s.setrole <> 0 and s.setdatabase <> 0 then ' in ' else '' end
        || case when s.setdatabase <> 0 then 'database ' || quote_ident(current_database()) else '' end
            as target
    from pg_db_role_setting s, unnest(s.setconfig) item
    where s.setrole in (0, (select oid from pg_roles where rolname = current_user))
        and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
        and item ~ '^(lock_timeout|transaction_timeout)=' and item !~ '=0[a-z]*$'
    order by 1, 2"""


@check("S01f", "nothing holds back logical WAL senders", Severity.BLOCK, Where.SOURCE)
async def check_standby_slots(context: CheckContext) -> list[Finding]:
    """synchronized_standby_slots (17+): a failover slot sends only what those standbys have confirmed."""
    session = context.source
    value = (await _settings(context, session)).get("synchronized_standby_slots", "")
    if not value:
        return []
    active = await session.fetch("select slot_name::text as name from pg_replication_slots where active")
    inactive = sorted(set(_list_items(value)) - {row["name"] for row in active})
    return [
        Finding(
            "S01f",
            Severity.BLOCK if inactive else Severity.WARN,
            context.on(session, "synchronized_standby_slots"),
            f"replication waits for the standbys of {value}"
            + (f"; not connected: {', '.join(inactive)}" if inactive else ""),
            "bring those standbys back, or empty synchronized_standby_slots while the move lasts",
        )
    ]


@check("S01g", "commits do not wait for our subscription", Severity.BLOCK, Where.BOTH)
async def check_synchronous_standbys(context: CheckContext) -> list[Finding]:
    """A subscription shows up under its own name as a standby; when a run disables it, commits would hang."""
    own = _own_subscriptions(context)
    findings: list[Finding] = []
    for session in context.both:
        value = (await _settings(context, session))["synchronous_standby_names"]
        items = _list_items(re.sub(r"^\s*(first|any)?\s*\d+\s*\(|\)\s*$", "", value, flags=re.IGNORECASE))
        named = [item for item in items if item in own]
        if named or "*" in items:
            findings.append(
                Finding(
                    "S01g",
                    Severity.BLOCK if named or not await _has_other_standby(session, own) else Severity.WARN,
                    context.on(session, "synchronous_standby_names"),
                    f"synchronous_standby_names is '{value}': commits can wait for our subscription",
                    "name only the physical standbys in synchronous_standby_names",
                )
            )
    return findings


async def _has_other_standby(session: ControlSession, own: frozenset[str]) -> bool:
    return bool(
        await session.fetchval(
            "select exists (select from pg_stat_replication"
            " where sync_state in ('sync', 'quorum', 'potential') and application_name <> all ($1::text[]))",
            list(own),
        )
    )


def _list_items(value: str) -> list[str]:
    return [item.strip().strip('"') for item in value.split(",") if item.strip()]
