"""Give each session of a route a twin: a link to the destination whose session is in the same state.

Before the pause, at leisure: open the twin with the client's own start-up packet, ask the old link for its state
at a quiet moment, replay it on the twin. Inside the pause, for those sessions only that may have changed since:
ask again, replay the difference. Then a swap is one assignment per session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..errors import ProxyError
from ..session.capture import (
    ASK_SQL,
    ASK_STATEMENT,
    UNHURRIED_SQL,
    SessionState,
    array_literal,
    state_from_rows,
)
from ..session.replay import UNKNOWN_ROLE, CannotReplay, Run, items
from ..wire import messages
from .link import Link, LinkLost
from .session import Session

OPEN_AT_ONCE = 3
"""Twins opened at the same time. Few: it is before the pause, nobody waits for it, and clients share our processor
and the servers with it."""

FIRST_VARYING_OID = 10000
"""Lower OIDs are the same on every server (src/include/access/transam.h, FirstGenbkiObjectId)."""

QUIET_WAIT_S = 1.0
"""A session that finds no quiet moment before the pause is asked inside it."""


@dataclass(frozen=True, slots=True)
class TypeMap:
    """User-defined types by qualified name and by the source's OID, as the destination knows them."""

    by_name: dict[bytes, int] = field(default_factory=dict)
    by_oid: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdvisoryLock:
    """A session-level advisory lock as pg_locks shows it (`objsubid` 1: one bigint key, 2: two integers)."""

    classid: int
    objid: int
    objsubid: int
    shared: bool

    def statement(self) -> bytes:
        suffix = b"_shared" if self.shared else b""
        if self.objsubid == 1:
            key = (self.classid << 32) | self.objid
            arguments = str(key - (1 << 64) if key >= 1 << 63 else key).encode()
        else:
            arguments = b"%d, %d" % (_int32(self.classid), _int32(self.objid))
        return b"SELECT pg_catalog.pg_try_advisory_lock" + suffix + b"(" + arguments + b")"


def _int32(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


@dataclass(frozen=True, slots=True)
class Immovable:
    """A session that cannot move, and why."""

    session: Session
    reason: str


OpenTwin = Callable[[Session], Awaitable[Link]]


class Takeover:
    """The twins of one run."""

    def __init__(self, open_twin: OpenTwin, types: TypeMap, users: Callable[[Session], tuple[bytes, bytes]]) -> None:
        self._open_twin = open_twin
        self._types = types
        self._users = users  # (who the session logged in as on the source, and on the destination)
        self.immovable: dict[Session, str] = {}
        self.unopened: dict[Session, ProxyError] = {}
        self._slots = asyncio.Semaphore(OPEN_AT_ONCE)

    async def prepare(self, sessions: Iterable[Session], timeout_s: float, *, wait_for_quiet: bool = True) -> None:
        """Twins and state for these sessions. One whose twin cannot be opened is recorded in `unopened`; one that is
        busy, and not waited for, is left to `refresh`."""
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(self._prepare(session, timeout_s, wait_for_quiet))

    async def _prepare(self, session: Session, timeout_s: float, wait_for_quiet: bool) -> None:
        if session.login.replication != "none":
            self.immovable[session] = "a replication connection"
            return
        async with self._slots:
            if session.ended or not await self._has_twin(session):
                return
            if self._begin_asking(session):
                await self._carry_over(session, timeout_s)
                return
        # Busy ones are waited for outside the slots, or a few of them would hold up all others.
        if wait_for_quiet and await self._quiet_moment(session):
            await self._carry_over(session, timeout_s)

    async def _has_twin(self, session: Session) -> bool:
        if session.twin is not None and not session.twin.lost:
            return True
        try:
            twin = await self._open_twin(session)
        except ProxyError as error:
            self.unopened[session] = error
            return False
        self.unopened.pop(session, None)
        if session.ended:
            twin.close()
            return False
        session.twin = twin
        session.twin_state = SessionState(session_user=self._users(session)[1], role=UNKNOWN_ROLE)
        return True

    @staticmethod
    def _begin_asking(session: Session) -> bool:
        """Stop a quiet session for the time of one question."""
        if session.ended or session.asking or not session.exchange.quiet or not session.link.free:
            return False
        session.asking = session.slow = True
        return True

    async def _quiet_moment(self, session: Session) -> bool:
        """Wait for the session's next quiet moment and stop it there; see `_begin_asking`."""
        if session.ended or session.asking or session.on_next_quiet is not None:
            return False
        reached = asyncio.get_running_loop().create_future()

        def now_quiet() -> None:
            if not reached.done() and self._begin_asking(session):
                reached.set_result(None)

        session.on_next_quiet = now_quiet
        session.settle()
        try:
            async with asyncio.timeout(QUIET_WAIT_S):
                await reached
        except TimeoutError:
            return reached.done() and not reached.cancelled()
        except asyncio.CancelledError:
            if reached.done() and not reached.cancelled():
                _asked(session)
            raise
        finally:
            if session.on_next_quiet is now_quiet:
                session.on_next_quiet = None
        return True

    async def _carry_over(self, session: Session, timeout_s: float) -> None:
        """Ask and replay; `asking` is set. A session that cannot move is recorded with the reason."""
        try:
            try:
                state = await self._capture(session, timeout_s)
            finally:
                _asked(session)
            await self._replay(session, state, timeout_s)
        except (CannotReplay, ProxyError, ValueError) as error:
            session.dirty = True
            if not session.ended:
                self.immovable[session] = str(error)

    async def _capture(self, session: Session, timeout_s: float) -> SessionState:
        vocabulary = session.route.vocabulary
        session.dirty = False
        questions = [(UNHURRIED_SQL, []), (ASK_SQL, [array_literal(vocabulary.names)])]
        rows = await session.link.ask(questions, statement=ASK_STATEMENT, timeout_s=timeout_s)
        state = state_from_rows(rows)
        if not session.stopped:
            session.sticky = self._may_change_unseen(session, state)
        at_source, at_destination = self._users(session)
        if state.session_user == at_source:
            state = replace(state, session_user=at_destination)
        return state

    @staticmethod
    def _may_change_unseen(session: Session, state: SessionState) -> bool:
        """Whether what the session has prepared may change its state again when it merely runs; or whether any
        table that it makes would be a temporary one."""
        suspicious = session.route.vocabulary.suspicious
        texts = [statement.text for statement in state.prepared.values()]
        if session.unnamed_parse is not None:
            texts.append(session.unnamed_parse)
        return b"pg_temp" in state.settings.get(b"search_path", b"") or any(suspicious(text.lower()) for text in texts)

    async def _replay(self, session: Session, state: SessionState, timeout_s: float) -> None:
        if state.immovable:
            self.immovable[session] = state.immovable
            return
        if session.opaque_names or session.route.vocabulary.overflow:
            self.immovable[session] = "customized options whose names are not known"
            return
        self.immovable.pop(session, None)
        twin = session.twin
        if twin is None or twin.lost:
            raise LinkLost("the twin link is gone")
        todo = items(session.twin_state, state, self._types.by_name, self._users(session)[1])
        for item, answer in zip(todo, await twin.run_items(todo, timeout_s), strict=True):
            if answer.error is not None:
                raise CannotReplay(f"{item.what}: {answer.error_text}")
        session.twin_state = state

    @staticmethod
    def asks(session: Session) -> bool:
        """Whether `refresh` has something to say to this session's old link."""
        moves = not session.ended and session.twin is not None
        return moves and bool(session.dirty or session.sticky or session.twin_state.channels)

    async def refresh(self, sessions: Iterable[Session], timeout_s: float) -> int:
        """Inside the pause: carry over what may have changed since. Every session is quiet. Returns how many
        had to be asked."""
        present = [s for s in sessions if self.asks(s)]
        changed = [s for s in present if s.dirty or s.sticky]
        listening = [s for s in present if not (s.dirty or s.sticky)]
        for session in (*changed, *listening):
            session.asking = True
        try:
            async with asyncio.TaskGroup() as group:
                for session in changed:
                    group.create_task(self._carry_over(session, timeout_s))
                for session in listening:
                    group.create_task(self._catch_up(session, timeout_s))
        finally:
            for session in (*changed, *listening):
                if session.asking:
                    _asked(session)
        return len(changed)

    async def _catch_up(self, session: Session, timeout_s: float) -> None:
        """Notifications sent before the gate closed reach a listening client before the old link goes. (They come
        before the next ReadyForQuery, for NOTIFY signals its listeners before its own command is complete:
        PostgresMain and AtCommit_Notify.)"""
        try:
            await session.link.catch_up(timeout_s)
        except ProxyError as error:
            self.immovable[session] = str(error)

    async def take_locks(self, session: Session, locks: Sequence[AdvisoryLock], timeout_s: float) -> None:
        """Take the session's advisory locks on its twin. One that is taken there already cannot be."""
        twin = session.twin
        if twin is None:
            return
        todo = [Run("advisory lock", lock.statement()) for lock in locks]
        try:
            answers = await twin.run_items(todo, timeout_s)
        except ProxyError as error:
            self.immovable[session] = f"advisory locks: {error}"
            return
        for answer in answers:
            if answer.error is not None or not answer.rows or answer.rows[0][0] != b"t":
                self.immovable[session] = "an advisory lock that is taken on the destination"

    def revive_unnamed(self, session: Session) -> None:
        """After the swap: make the client's unnamed statement again before its first request that needs it."""
        if session.unnamed_parse is None:
            return
        message = self._translated(session.unnamed_parse)
        if message is None:
            session.unnamed_parse = None
            return
        session.unnamed_parse = message[5:]

        async def revive(session: Session) -> None:
            try:
                await session.link.send_raw(message + messages.SYNC, timeout_s=10.0)
            except ProxyError:
                session.end()
            finally:
                _asked(session)

        def begin(session: Session) -> None:
            session.asking = True
            task = asyncio.get_running_loop().create_task(revive(session), name=f"revive-{session.id}")
            _owned.add(task)
            task.add_done_callback(_owned.discard)

        session.revive = begin
        session.slow = True

    def _translated(self, body: bytes) -> bytes | None:
        """The Parse message with parameter types as the destination numbers them."""
        text_end = body.index(b"\0", 1)
        count = int.from_bytes(body[text_end + 1 : text_end + 3], "big")
        oids = []
        for index in range(count):
            at = text_end + 3 + 4 * index
            oid = int.from_bytes(body[at : at + 4], "big")
            if oid >= FIRST_VARYING_OID and oid not in self._types.by_oid:
                return None
            oids.append(self._types.by_oid.get(oid, oid))
        return messages.parse(b"", body[1:text_end], oids)

    def close(self, sessions: Iterable[Session]) -> None:
        """The run was given up: the twins go."""
        for session in sessions:
            if session.twin is not None:
                session.twin.close()
                session.twin = None
            session.twin_state = SessionState()
            session.dirty = True


def _asked(session: Session) -> None:
    session.asking = False
    session.pump()


_owned: set[asyncio.Task[None]] = set()
