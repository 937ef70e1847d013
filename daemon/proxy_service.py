"""The proxy as the console sees it: admin's ProxyService on top of proxy.control."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from proxy.control import ProxyControl
from proxy.errors import AdminShutdown, FeatureNotSupported
from proxy.net.route import Route
from proxy.net.session import Session
from proxy.views import ClientView, DatabaseView, PoolView, ServerView, StatsView


class ProxyFacts:
    """Rows for SHOW, and the operator's verbs. Nothing here waits but the methods that say so."""

    def __init__(self, control: ProxyControl) -> None:
        self._control = control
        self._frontend = control.frontend

    # -- rows --------------------------------------------------------------------------------------------------

    def databases(self) -> Sequence[DatabaseView]:
        return [
            DatabaseView(
                name=route.name,
                host=route.target.host,
                port=route.target.port,
                database=route.target.database,
                pool_size=route.pool_size,
                pool_mode=route.pool_mode.value,
                current_connections=len(route.sessions),
                current_client_connections=len(route.sessions) + route.logging_in,
                paused=self._control.paused(route.name),
                disabled=route.disabled,
                gate=route.gate.state.value,
            )
            for route in self._frontend.routes.values()
        ]

    def clients(self) -> Sequence[ClientView]:
        now = time.monotonic()
        return [_client(session, now) for session in self._frontend.sessions.values()]

    def servers(self) -> Sequence[ServerView]:
        rows: list[ServerView] = []
        for session in self._frontend.sessions.values():
            for link, state in ((session.link, _link_state(session)), (session.twin, "twin")):
                if link is None or link.lost:
                    continue
                rows.append(
                    ServerView(
                        id=link.id,
                        user=session.login.user,
                        database=session.route.name,
                        state=state,
                        addr=link.target.host,
                        port=link.target.port,
                        local_addr=_host(link.local),
                        local_port=_port(link.local),
                        connect_time=link.connect_time,
                        request_time=time.time() - (time.monotonic() - session.quiet_since),
                        remote_pid=link.backend_pid,
                        client_id=session.id,
                        tls=link.tls,
                        application_name=session.told.get(b"application_name", b"").decode("utf-8", "replace"),
                    )
                )
        return rows

    def pools(self) -> Sequence[PoolView]:
        rows: list[PoolView] = []
        now = time.monotonic()
        for route in self._frontend.routes.values():
            by_user: dict[str, list[Session]] = defaultdict(list)
            for session in route.sessions:
                by_user[session.login.user].append(session)
            arriving: dict[str, list[float]] = defaultdict(list)
            for user, since in route.waiting.values():
                arriving[user].append(now - since)
            for user in sorted(by_user.keys() | arriving.keys()):
                sessions = by_user[user]
                busy = sum(1 for s in sessions if not s.exchange.quiet)
                held = [now - s.held_since for s in sessions if s.held_since]
                waits = held + arriving[user]
                rows.append(
                    PoolView(
                        database=route.name,
                        user=user,
                        cl_active=len(sessions) - len(held),
                        cl_waiting=len(waits),
                        sv_active=busy,
                        sv_idle=len(sessions) - busy,
                        sv_login=route.logging_in,
                        maxwait_us=int(max(waits, default=0.0) * 1_000_000),
                        pool_mode=route.pool_mode.value,
                    )
                )
        return rows

    def stats(self) -> Sequence[StatsView]:
        return [_stats(route) for route in self._frontend.routes.values()]

    # -- verbs -------------------------------------------------------------------------------------------------

    def pause(self, database: str) -> None:
        self._control.hold(database)

    async def wait_paused(self, database: str) -> bool:
        return await self._control.wait_paused(database)

    def resume(self, database: str) -> None:
        self._control.resume(database)

    def maintain(self, database: str, on: bool) -> None:
        if on:
            self._control.hold(database)
        else:
            self._control.resume(database)

    def enable(self, database: str, enabled: bool) -> None:
        self._frontend.routes[database].disabled = not enabled

    def reconnect(self, database: str) -> None:
        raise FeatureNotSupported(
            "RECONNECT needs pooled links; in session mode a link lives as long as its client",
            hint="KILL closes the clients, and with them their links.",
        )

    async def wait_close(self, database: str) -> None:
        """In session mode no link is ever marked to be closed, so there is nothing to wait for."""

    async def kill(self, database: str) -> int:
        self._control.hold(database)
        ended = self._control.end_sessions(database, AdminShutdown())
        while self._frontend.routes[database].sessions:
            await asyncio.sleep(0.01)
        return ended


def _host(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) and address else "unix"


def _port(address: Any) -> int:
    return int(address[1]) if isinstance(address, tuple) and len(address) >= 2 else 0


def _link_state(session: Session) -> str:
    return "idle" if session.exchange.quiet else "active"


def _client(session: Session, now: float) -> ClientView:
    state = "idle" if session.exchange.quiet else "active"
    if session.held_since:
        state = "waiting"
    busy_ms = (now - session.busy_since) * 1000.0 if session.busy_since else 0.0
    return ClientView(
        id=session.id,
        user=session.login.user,
        database=session.route.name,
        state=state,
        addr=_host(session.peer),
        port=_port(session.peer),
        local_addr=_host(session.local),
        local_port=_port(session.local),
        connect_time=session.connect_time,
        request_time=time.time() - (now - (session.busy_since or session.quiet_since)),
        wait_us=int((now - session.held_since) * 1_000_000) if session.held_since else 0,
        remote_pid=0 if session.link.lost else session.link.backend_pid,
        tls=session.login.tls,
        application_name=session.told.get(b"application_name", b"").decode("utf-8", "replace"),
        replication=session.login.replication,
        transaction_ms=busy_ms if session.exchange.in_transaction else 0.0,
    )


def _stats(route: Route) -> StatsView:
    sessions = route.sessions
    transactions = route.transaction_count + sum(s.exchange.transactions for s in sessions)
    return StatsView(
        database=route.name,
        xact_count=transactions,
        query_count=route.query_count + sum(s.exchange.queries for s in sessions),
        bytes_received=route.bytes_received + sum(s.bytes_received for s in sessions),
        bytes_sent=route.bytes_sent + sum(s.bytes_sent for s in sessions),
        xact_time_us=route.transaction_time_us,
        query_time_us=route.transaction_time_us,
        wait_time_us=route.wait_time_us,
        client_login_count=route.login_count,
        server_assignment_count=route.login_count,
    )
