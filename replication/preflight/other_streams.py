"""Who else replicates from or into the two databases."""

from __future__ import annotations

from ..sqltext import identifier
from .fragments import some
from .model import CheckContext, Finding, Severity, Where
from .registry import ARM_ONLY, check
from .replication_state import required_slot, subscription_row


@check("P04e", "other logical slots", Severity.WARN, Where.BOTH)
async def check_other_slots(context: CheckContext) -> list[Finding]:
    own = set(context.own_slots)
    subscription = await subscription_row(context)
    if subscription is not None and subscription["slot"] is not None:
        own.add(subscription["slot"])
    if context.reverse_slot is not None:
        own.add(context.reverse_slot)
    # Slots of copy workers: pg_<subscription oid>_sync_<relation oid>_<system identifier> (tablesync.c).
    query = (
        "select slot_name::text as name, plugin::text, active from pg_replication_slots"
        " where slot_type = 'logical' and database = current_database() and slot_name <> all ($1::text[])"
        " and slot_name !~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$' order by 1"
    )
    return [
        Finding(
            "P04e",
            Severity.WARN,
            context.on(session, row["name"]),
            f"a logical slot of others ({row['plugin']}, {'in use' if row['active'] else 'not in use'})"
            + ("; after the cutover its reader sees no more changes" if session is context.source else ""),
            "move its reader: make its slot on the destination before the cutover"
            if session is context.source
            else "drop it if nobody needs it; it keeps WAL",
        )
        for session in context.both
        for row in await session.fetch(query, sorted(own))
    ]


@check("P04f", "no other subscription writes here, and none makes a loop", Severity.BLOCK, Where.BOTH)
async def check_other_subscriptions(context: CheckContext) -> list[Finding]:
    own = sorted(context.own_subscriptions | ({context.subscription} if context.subscription else set()))
    slots_there = {
        row["name"]
        for row in await context.destination.fetch(
            "select slot_name::text as name from pg_replication_slots where database = current_database()"
        )
    }
    findings: list[Finding] = []
    for session in context.both:
        from_16 = "s.suborigin" if session.major >= 16 else "'any'"
        rows = await session.fetch(
            f"select s.subname::text as name, s.subslotname::text as slot, {from_16} as origin"
            " from pg_subscription s join pg_database d on d.oid = s.subdbid"
            " where d.datname = current_database() and s.subenabled and s.subname <> all ($1::text[])"
            " order by 1",
            own,
        )
        for row in rows:
            loops = session is context.source and row["slot"] in slots_there and row["origin"] != "none"
            findings.append(
                Finding(
                    "P04f",
                    Severity.BLOCK if loops else Severity.WARN,
                    context.on(session, row["name"]),
                    "the source takes back from the destination what it sent there: changes go round for ever"
                    if loops
                    else "another subscription writes into this database",
                    f"ALTER SUBSCRIPTION {identifier(row['name'])} SET (origin = none); or DISABLE it"
                    if loops
                    else "move it to the destination, too, or end it before the cutover",
                )
            )
    return findings


@check("P04g", "the slot survives a failover of the source", Severity.WARN, Where.SOURCE, ARM_ONLY)
async def check_failover_slot(context: CheckContext) -> list[Finding]:
    row = await required_slot(context)
    standbys = await context.source.fetch(
        "select slot_name::text as name from pg_replication_slots where slot_type = 'physical' and active order by 1"
    )
    if not standbys or row["failover"] == "true":
        return []
    return [
        Finding(
            "P04g",
            Severity.WARN,
            context.on(context.source, row["name"]),
            f"the source has standbys ({some([s['name'] for s in standbys])}); a failover loses the slot",
            "from 17 on: ALTER SUBSCRIPTION ... SET (failover = true); else no failover while the move lasts",
        )
    ]
