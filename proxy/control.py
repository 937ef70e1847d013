"""The door of the proxy for the console and the run: hold, drain, take sessions over, swap, let go, look."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from config.model import Config, SessionPolicy

from .errors import AdminShutdown, ProxyError
from .net.frontend import Frontend
from .net.link import Link
from .net.route import Route
from .net.session import Session
from .net.takeover import AdvisoryLock, Takeover, TypeMap
from .routing.gate import GateState
from .session.capture import ASK_STATEMENT, OWN_READ_ONLY_SQL

__all__ = ["AdvisoryLock", "Drained", "ProxyControl", "RunHold", "Straggler", "TypeMap"]

SLOW_AT_LEAST_S = 0.025
SLOW_FACTOR = 4.0
"""A session is slow when its transactions usually take this many times what is usual among the sessions, and at
least SLOW_AT_LEAST_S. Slow ones are stopped first, the quick ones only once those are quiet."""

QUICK_ROUND_S = 0.075
"""How long the quick sessions wait for one another, at least, before those that turned out slow are waited for
alone."""

OWN_READ_ONLY_TIMEOUT_S = 5.0

log = structlog.get_logger("proxy")

_OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Straggler:
    """A client that did not become quiet in time."""

    id: int
    user: str
    application_name: str
    address: str
    backend_pid: int
    busy_ms: float
    state: str  # "in transaction", "in a request", "in a COPY or replication stream", "between Parse and Sync"

    def __str__(self) -> str:
        application = f" ({self.application_name})" if self.application_name else ""
        return (
            f"client {self.id} {self.user}{application} from {self.address}, backend {self.backend_pid}: "
            f"{self.state} for {self.busy_ms:.0f} ms"
        )


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drain went. `complete` alone says that every session is stopped and quiet; a straggler may have become
    quiet by the time it would have been named."""

    transactions_waited: int
    complete: bool
    stragglers: tuple[Straggler, ...] = ()


class RunHold:
    """What one run does to the sessions of one route. `release` undoes all of it, whatever was done."""

    def __init__(self, control: ProxyControl, run_id: str, source: str, destination: str) -> None:
        self._control = control
        self._frontend = control.frontend
        self.owner = f"run {run_id}"
        self.route: Route = self._frontend.routes[source]
        self.destination: Route = self._frontend.routes[destination]
        self.takeover: Takeover | None = None
        self.holds_ms: list[float] = []
        self.all_stopped_at = 0.0
        self._old_links: list[Link] = []
        self._sent_away = 0
        self._quiet = asyncio.Event()
        self._released = False

    # -- before the pause --------------------------------------------------------------------------------

    def sessions_on_destination(self) -> int:
        return len(self.destination.sessions)

    async def prepare_twins(
        self,
        types: TypeMap,
        custom_names: set[bytes],
        functions: set[bytes],
        timeout_s: float,
        *,
        wait_for_quiet: bool = True,
    ) -> None:
        """Open twins and give them their sessions' state. Failures are in `unopened` and `immovable`. Sessions that
        are busy are waited for a moment, or else left to `refresh`."""
        vocabulary = self.route.vocabulary
        vocabulary.learn_names(custom_names)
        vocabulary.learn_functions(functions)
        if self.takeover is None:
            self.takeover = Takeover(self._open_twin, types, self._login_users)
        missing = [s for s in self.route.sessions if s.twin is None or s.twin.lost]
        await self.takeover.prepare(missing, timeout_s, wait_for_quiet=wait_for_quiet)

    async def _open_twin(self, session: Session) -> Link:
        """A link to the destination as the client itself would open it.

        The destination of a REVERT is still fenced by its read-only default; the twin must not inherit that
        as the value a later RESET goes back to, so it is overridden the way a client could do it. Not where the
        client or its role have a default of their own: that one is stronger than the database's anyway.
        """
        startup = session.login.startup
        options = (startup.get("options") or "").replace("-", "_")
        if not self._override_read_only or "default_transaction_read_only" in options:
            return await self._frontend.open_link(self.destination, session.login)
        extra = {"default_transaction_read_only": "off"}
        twin = await self._frontend.open_link(self.destination, session.login, extra=extra)
        try:
            own = await twin.ask([(OWN_READ_ONLY_SQL, [])], statement=ASK_STATEMENT, timeout_s=OWN_READ_ONLY_TIMEOUT_S)
        except ProxyError:
            twin.close()
            raise
        if not own:
            return twin
        twin.close()
        return await self._frontend.open_link(self.destination, session.login)

    _override_read_only = False

    def destination_is_fenced(self) -> None:
        self._override_read_only = True

    def _login_users(self, session: Session) -> tuple[bytes, bytes]:
        config = self._frontend.config
        here = config.user(session.login.user, self.route.name)
        there = config.user(session.login.user, self.destination.name)
        return (
            here.login_user.encode() if here else b"",
            there.login_user.encode() if there else b"",
        )

    def unopened(self) -> list[str]:
        """Sessions whose twin could not be opened, with the reason."""
        if self.takeover is None:
            return []
        return [f"{_name(s)}: {e.message}" for s, e in self.takeover.unopened.items() if not s.ended]

    def immovable(self) -> list[str]:
        """Sessions whose state no other server can take over, with the reason."""
        if self.takeover is None:
            return []
        return [f"{_name(s)}: {reason}" for s, reason in self.takeover.immovable.items() if not s.ended]

    def without_twin(self) -> int:
        return sum(
            1
            for s in self.route.sessions
            if (s.twin is None or s.twin.lost) and (self.takeover is None or s not in self.takeover.immovable)
        )

    # -- the pause -----------------------------------------------------------------------------------------

    async def close_logins(self, timeout_s: float) -> bool:
        """No new link is opened; True when those half way have arrived."""
        self.route.close_logins()
        self.destination.close_logins()
        try:
            async with asyncio.timeout(timeout_s), self.route.link_given_back:
                await self.route.link_given_back.wait_for(lambda: self.route.logging_in == 0)
        except TimeoutError:
            return False
        return True

    def begin(self) -> None:
        """The gate begins to drain. Logins may still arrive; they are stopped as they come."""
        self.route.holds_ms = self.holds_ms
        self.route.on_quiet = lambda _session: self._quiet.set()
        for session in tuple(self.route.sessions):
            if session.login.replication != "none" and self._policy is SessionPolicy.DISCONNECT:
                session.refuse(AdminShutdown(detail="Replication connections cannot move to another server."))
                self._sent_away += 1
        self.route.gate.hold(self.owner)

    _policy = SessionPolicy.DISCONNECT

    def session_policy(self, policy: SessionPolicy) -> None:
        self._policy = policy

    async def drain(self, timeout_s: float, on_all_stopped: Callable[[], None] = lambda: None) -> Drained:
        """Stop long sessions first, the quick ones once those are quiet; see the constants above.

        `on_all_stopped` is called when every session has been stopped, before they are all quiet; perhaps again.
        """
        deadline = time.monotonic() + timeout_s
        waited = sum(1 for s in self.route.sessions if s.exchange.in_transaction or s.exchange.owed)
        while True:
            slow_s = _slow_from(self.route.sessions)
            slow = [s for s in self.route.sessions if _is_slow(s, slow_s)]
            for session in slow:
                session.stop()
            if not await self._all_quiet(slow, deadline):
                break
            self.all_stopped_at = time.monotonic()
            for session in self.route.sessions:
                session.stop()
            on_all_stopped()
            round_ends = min(deadline, time.monotonic() + max(QUICK_ROUND_S, slow_s))
            if await self._all_quiet(self.route.sessions, round_ends):
                self.route.gate.closed()
                return Drained(waited, complete=True)
            if time.monotonic() >= deadline:
                break
            self._let_quick_ones_go(slow_s)
        return Drained(waited, complete=False, stragglers=self.stragglers())

    def _let_quick_ones_go(self, slow_s: float) -> None:
        """Some that were taken for quick are not: wait for those alone."""
        for session in tuple(self.route.sessions):
            if not session.exchange.quiet:
                session.usual_s = max(session.usual_s, slow_s * 2)
            elif not _is_slow(session, slow_s) and self.route.gate.owners == {self.owner}:
                session.let_go()

    async def _all_quiet(self, sessions: Collection[Session], deadline: float) -> bool:
        while True:
            self._quiet.clear()
            if all(s.exchange.quiet or s.ended for s in sessions):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, 0.05)):
                    await self._quiet.wait()
            except TimeoutError:
                continue

    def _straggling(self) -> list[Session]:
        """Those that are waited for; quick ones that were not stopped yet just do their work meanwhile."""
        return [s for s in self.route.sessions if s.stopped and not s.exchange.quiet]

    def stragglers(self) -> tuple[Straggler, ...]:
        return tuple(map(_straggler, self._straggling()))

    def terminate_stragglers(self) -> int:
        """By policy: their transactions are rolled back with their links."""
        straggling = self._straggling()
        for session in straggling:
            session.refuse(
                AdminShutdown(detail="The transaction did not end in time for a cutover and was rolled back.")
            )
        return len(straggling)

    def expect_lost_links(self) -> None:
        """From the fence to the outcome, a link that dies does not end its session: the twin may take over."""
        self.route.keeps_lost_links = True

    def outcome_unknown(self, unknown: bool) -> None:
        """The commit was sent and not answered: only now may query_wait_timeout end a held client."""
        self.route.outcome_unknown = unknown

    def backend_pids(self) -> list[int]:
        return [s.link.backend_pid for s in self.route.sessions if not s.link.lost]

    def still_pids(self) -> list[int]:
        """Those whose backends must be idle once all sessions are quiet: not the ones that `refresh` asks, whose
        answers say the same."""
        return [
            s.link.backend_pid
            for s in self.route.sessions
            if s.link.free and not s.asking and not (self.takeover is not None and self.takeover.asks(s))
        ]

    def lost_links(self) -> int:
        return sum(1 for s in self.route.sessions if s.link.lost)

    async def refresh(self, timeout_s: float) -> int:
        return 0 if self.takeover is None else await self.takeover.refresh(tuple(self.route.sessions), timeout_s)

    async def take_locks(self, locks: Mapping[int, Sequence[AdvisoryLock]], timeout_s: float) -> None:
        """`locks` by the backend that holds them on the source."""
        if self.takeover is None:
            return
        async with asyncio.TaskGroup() as group:
            for session in tuple(self.route.sessions):
                mine = locks.get(session.link.backend_pid)
                if mine and session not in self.takeover.immovable:
                    group.create_task(self.takeover.take_locks(session, mine, timeout_s))

    # -- the end -------------------------------------------------------------------------------------------

    def swap(self, config: Config) -> int:
        """The names have changed places in `config`; every session goes to its twin. Returns how many were
        closed because they could not move. Nothing here waits, and it is not broken off by one session's trouble;
        the old links are closed by `release`."""
        self._frontend.apply(config)
        closed, self._sent_away = self._sent_away, 0
        for session in tuple(self.route.sessions):
            twin = session.twin
            immovable = self.takeover.immovable.get(session) if self.takeover is not None else None
            if immovable is not None or twin is None or twin.lost or not session.exchange.quiet:
                closed += 1
                reason = immovable or "its new link was lost"
                log.warning("session_not_moved", client=_name(session), reason=reason)
                session.refuse(AdminShutdown(detail=f"The database has moved to another server: {reason}."))
                continue
            try:
                self._old_links.append(session.take_twin())
                if self.takeover is not None:
                    self.takeover.revive_unnamed(session)
            except Exception:
                log.exception("session_not_moved", client=_name(session))
                closed += 1
                session.end()
        return closed

    def release_sessions(self) -> None:
        """The gate opens for those who are held; new logins still wait."""
        self.route.keeps_lost_links = False
        for session in tuple(self.route.sessions):
            if session.link.lost:
                session.end_without_link()
        self.route.gate.release(self.owner)
        self.route.on_quiet = None
        self.route.holds_ms = None

    def release(self) -> None:
        """Gates and logins open again, links that died in between end their sessions, twins go."""
        if self._released:
            return
        self._released = True
        self.release_sessions()
        self.route.open_logins()
        self.destination.open_logins()
        for link in self._old_links:
            link.close()
        self._old_links.clear()
        if self.takeover is not None:
            self.takeover.close(self.route.sessions)


def _slow_from(sessions: Collection[Session]) -> float:
    """From which usual duration on a session counts as slow, in seconds."""
    usual = [s.usual_s for s in sessions if s.usual_s]
    return max(SLOW_AT_LEAST_S, SLOW_FACTOR * statistics.median(usual)) if usual else SLOW_AT_LEAST_S


def _is_slow(session: Session, slow_s: float) -> bool:
    if session.usual_s > slow_s:
        return True
    return bool(session.busy_since) and time.monotonic() - session.busy_since > slow_s


def _name(session: Session) -> str:
    return f"client {session.id} {session.login.user} from {_address(session)}"


def _address(session: Session) -> str:
    peer = session.peer
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else "a Unix socket"


def _straggler(session: Session) -> Straggler:
    exchange = session.exchange
    if exchange.copy_in or exchange.copy_both:
        state = "in a COPY or replication stream"
    elif exchange.in_transaction:
        state = "in transaction"
    elif not exchange.sent_whole:
        state = "in the middle of a message"
    elif exchange.owed:
        state = "in a request"
    elif exchange.unsynced:
        state = "between Parse and Sync"
    else:
        state = "in the middle of a message"
    since = session.busy_since or time.monotonic()
    return Straggler(
        session.id,
        session.login.user,
        session.login.application_name,
        _address(session),
        session.link.backend_pid,
        (time.monotonic() - since) * 1000.0,
        state,
    )


class ProxyControl:
    """See the file's head."""

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend

    @property
    def config(self) -> Config:
        return self.frontend.config

    def run_hold(self, run_id: str, source: str, destination: str) -> RunHold:
        return RunHold(self, run_id, source, destination)

    def gate_state(self, database: str) -> str:
        route = self.frontend.routes.get(database)
        return route.gate.state.value if route is not None else GateState.OPEN.value

    def client_count(self, database: str | None = None) -> int:
        if database is None:
            return len(self.frontend.sessions)
        route = self.frontend.routes.get(database)
        return len(route.sessions) if route is not None else 0

    def replication_clients(self, database: str) -> int:
        route = self.frontend.routes.get(database)
        return sum(1 for s in route.sessions if s.login.replication != "none") if route is not None else 0

    def stragglers(self, database: str) -> tuple[Straggler, ...]:
        """Who is busy now. One that has only prepared and sent no Sync is not waited for by anybody."""
        route = self.frontend.routes[database]
        return tuple(_straggler(s) for s in route.sessions if not (s.exchange.quiet or s.exchange.prepared_only))

    async def end_prepared_batches(self, database: str, timeout_s: float) -> None:
        """Sessions that have prepared and sent no Sync look like open transactions to the server. After this they do
        not; one that has not answered in time still does."""
        route = self.frontend.routes.get(database)
        asked = [s for s in (route.sessions if route is not None else ()) if s.exchange.prepared_only]
        for session in asked:
            session.settle()
        deadline = time.monotonic() + timeout_s
        while any(s.settling and not s.ended for s in asked) and time.monotonic() < deadline:
            await asyncio.sleep(0.001)

    def backend_pids(self, database: str) -> list[int]:
        route = self.frontend.routes.get(database)
        return [s.link.backend_pid for s in route.sessions] if route is not None else []

    def apply(self, config: Config) -> None:
        self.frontend.apply(config)

    # -- an undecided database -----------------------------------------------------------------------------

    def keep_closed(self, database: str) -> None:
        """Recovery does not know yet who serves: clients wait."""
        route = self.frontend.routes[database]
        route.close_logins()
        route.gate.hold("recovery")
        for session in route.sessions:
            session.stop()

    def open_again(self, database: str) -> None:
        route = self.frontend.routes[database]
        route.gate.release("recovery")
        route.open_logins()

    def end_sessions(self, database: str, error: ProxyError) -> int:
        route = self.frontend.routes.get(database)
        sessions = tuple(route.sessions) if route is not None else ()
        for session in sessions:
            session.refuse(error)
        return len(sessions)

    # -- the operator's verbs --------------------------------------------------------------------------------

    async def wait_paused(self, database: str) -> bool:
        """Until every session of a held database is quiet. False where it was resumed meanwhile."""
        route = self.frontend.routes[database]
        while not all(s.exchange.quiet or s.ended for s in route.sessions):
            await asyncio.sleep(0.005)
            if not route.gate.held_by(_OPERATOR):
                return False
        route.gate.closed()
        return route.gate.held_by(_OPERATOR)

    def hold(self, database: str) -> None:
        route = self.frontend.routes[database]
        route.gate.hold(_OPERATOR)
        for session in route.sessions:
            session.stop()

    def resume(self, database: str) -> None:
        self.frontend.routes[database].gate.release(_OPERATOR)

    def paused(self, database: str) -> bool:
        return self.frontend.routes[database].gate.held_by(_OPERATOR)
