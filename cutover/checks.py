"""CHECK for one pair: what replication/preflight looks at in both databases, and what only the proxy knows."""

from __future__ import annotations

from dataclasses import replace

from replication.control_schema import Identity
from replication.preflight import (
    CheckContext,
    ErrorBaseline,
    Phase,
    ProxiedUser,
    read_error_baseline,
    run_checks,
)
from replication.registry import Kind, find, record, recorded
from replication.session import ControlSession, own_pids
from replication.streams import find_subscription

from .api import Finding, Severity
from .pair import Pair
from .run_streams import RunStreams

PREPARED_TIMEOUT_S = 1.0


async def run_pair_checks(
    pair: Pair,
    source: ControlSession,
    destination: ControlSession,
    identity: Identity | None,
    *,
    setup: bool = False,
) -> list[Finding]:
    """All findings, worst first. `identity` is the source's, None before REPLICATE.
    With `setup` only what matters before replication is made."""
    context = await _context(pair, source, destination, identity)
    if setup:
        context = replace(context, phase=Phase.SETUP)
    await pair.control.end_prepared_batches(pair.source_name, PREPARED_TIMEOUT_S)
    found = [
        Finding(f.id, Severity(f.severity.value), f.object, f.finding, f.remedy) for f in await run_checks(context)
    ]
    found += _proxy_findings(pair)
    order = {severity: rank for rank, severity in enumerate(Severity)}
    return sorted(found, key=lambda f: (order[f.severity], f.id, f.object))


BASELINE = "error baseline"
"""Kind of the registry entry with a subscription's error counters at the end of REPLICATE: errors of the copy that
were overcome do not count against a run, later ones do."""


async def note_baseline(pair: Pair, identity: Identity, destination: ControlSession) -> None:
    """To be called when a stream has just been proven to work."""
    flow = await RunStreams.load(pair.name, identity, pair.source, pair.destination, destination)
    counters = await read_error_baseline(destination, flow.inbound.subscription)
    if counters is not None:
        await record(destination, BASELINE, flow.inbound.subscription, dict(counters.counters))


async def subscribed(pair: Pair, identity: Identity, destination: ControlSession) -> bool:
    """Whether the stream that a run would drain has its subscription already."""
    flow = await RunStreams.load(pair.name, identity, pair.source, pair.destination, destination)
    return await find_subscription(destination, flow.inbound.subscription) is not None


async def _context(
    pair: Pair, source: ControlSession, destination: ControlSession, identity: Identity | None
) -> CheckContext:
    general = pair.config.general
    publication = subscription = reverse = None
    slots: set[str] = set()
    subscriptions: set[str] = set()
    if identity is not None:
        flow = await RunStreams.load(pair.name, identity, pair.source, pair.destination, destination)
        if await find_subscription(destination, flow.inbound.subscription) is not None:
            publication, subscription = flow.inbound.publication, flow.inbound.subscription
        reverse = flow.outbound.slot
        slots = {flow.inbound.slot, flow.outbound.slot}
        subscriptions = {flow.inbound.subscription, flow.outbound.subscription}
        for session in (source, destination):
            for entry in await recorded(session, Kind.ADOPTED_SUBSCRIPTION):
                subscriptions.add(entry.name)
    clients = pair.control.client_count(pair.source_name)
    baseline = None
    if subscription is not None:
        noted = await find(destination, BASELINE, subscription)
        baseline = ErrorBaseline(subscription, noted.detail) if noted is not None else None
    return CheckContext(
        source=source,
        destination=destination,
        pair_name=pair.name,
        phase=Phase.ARM if subscription is not None else Phase.SETUP,
        publication=publication,
        subscription=subscription,
        reverse_slot=reverse,
        own_slots=frozenset(slots),
        own_subscriptions=frozenset(subscriptions),
        proxied_users=_users(pair),
        own_source_pids=frozenset(pair.control.backend_pids(pair.source_name) + own_pids(pair.source)),
        own_destination_pids=frozenset(own_pids(pair.destination)),
        links_needed=clients,
        pause_budget_ms=general.cutover_transaction_timeout,
        lag_threshold_bytes=general.cutover_traffic_stop_threshold,
        fence=general.cutover_fence,
        baseline=baseline,
    )


def _users(pair: Pair) -> tuple[ProxiedUser, ...]:
    config = pair.config
    found = []
    for user in config.users:
        if user.database != pair.source_name:
            continue
        there = config.user(user.name, pair.destination_name)
        if there is None:
            continue  # loading refuses this
        found.append(
            ProxiedUser(
                name=user.name,
                server_user=user.login_user,
                database_source=pair.source.database,
                database_destination=pair.destination.database,
                destination_server_user=there.login_user,
            )
        )
    return tuple(found)


def _proxy_findings(pair: Pair) -> list[Finding]:
    found: list[Finding] = []
    on_destination = pair.control.client_count(pair.destination_name)
    if on_destination:
        found.append(
            Finding(
                "P03b",
                Severity.BLOCK,
                pair.destination_name,
                f"{on_destination} clients are connected to the destination through the proxy",
                "Let them leave: what they write there would not be on the source.",
            )
        )
    streams = pair.control.replication_clients(pair.source_name)
    if streams:
        found.append(
            Finding(
                "P06",
                Severity.WARN,
                pair.source_name,
                f"{streams} replication connections run through the proxy; they cannot move",
                "cutover_session_policy says whether they are disconnected or stop the run.",
            )
        )
    for straggler in pair.control.stragglers(pair.source_name):
        if straggler.busy_ms > pair.config.general.cutover_transaction_timeout:
            found.append(
                Finding(
                    "P02b",
                    Severity.BLOCK,
                    pair.source_name,
                    f"longer than cutover_transaction_timeout: {straggler}",
                    "Wait for it, end it, or raise cutover_transaction_timeout.",
                )
            )
    return found
