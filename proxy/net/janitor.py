"""The time-outs of sessions, looked at a few times a second instead of one timer per request.

A client that a run holds is on no clock but the run's own; only where the outcome of a run is unknown does
query_wait_timeout apply to it (docs/CUTOVER.md, "the one exception").
"""

from __future__ import annotations

import asyncio
import time

import structlog

from config.model import General

from ..errors import IdleInTransactionTimeout, IdleTimeout, ProxyError, QueryTimeout, QueryWaitTimeout
from .frontend import Frontend
from .session import Session

log = structlog.get_logger("proxy")

SWEEP_S = 0.25


async def sweep_for_ever(frontend: Frontend) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        general = frontend.config.general
        now = time.monotonic()
        for session in tuple(frontend.sessions.values()):
            error = overdue(session, general, now)
            if error is not None:
                log.info("client_timed_out", client=session.id, sqlstate=error.sqlstate, reason=error.message)
                session.refuse(error)


def overdue(session: Session, general: General, now: float) -> ProxyError | None:
    """The time-out that has run out for a session, if any."""
    exchange = session.exchange
    sent = session.bytes_received, session.bytes_sent
    if sent != session.seen_bytes:  # it said something since the last sweep
        session.seen_bytes, session.seen_at = sent, now
    if session.held_since:
        held_by_run = any(owner.startswith("run ") for owner in session.route.gate.owners)
        if held_by_run and not session.route.outcome_unknown:
            return None
        if _past(now - session.held_since, general.query_wait_timeout):
            return QueryWaitTimeout(session.route.name, now - session.held_since)
        return None
    if exchange.quiet:
        if not session.stopped and _past(now - session.quiet_since, general.client_idle_timeout):
            return IdleTimeout()
        return None
    if exchange.copy_both:
        return None  # a replication stream has no end, and for PostgreSQL it is no statement either
    if exchange.owed:
        if session.request_since is None or session.requests_seen != exchange.queries:
            session.request_since, session.requests_seen = now, exchange.queries
        return QueryTimeout() if _past(now - session.request_since, general.query_timeout) else None
    session.request_since = None
    if exchange.in_transaction and _past(now - session.seen_at, general.client_idle_in_transaction_timeout):
        return IdleInTransactionTimeout()
    return None


def _past(elapsed_s: float, limit_ms: int) -> bool:
    return bool(limit_ms) and elapsed_s * 1000.0 > limit_ms
