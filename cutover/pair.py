"""The two sides of a pair as control connections, and what is known about who serves.

The names keep their meaning over a run: `source` is the name that clients use and leads to the side that serves;
`destination` leads to the other one. A run exchanges what they lead to.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from config.model import Config, CutoverPair
from proxy.control import ProxyControl
from replication import decision
from replication.control_schema import ForeignIdentity, Identity, read_identity
from replication.endpoint import Endpoint, endpoint
from replication.session import ControlSession, ControlUnavailable, StatementFailed, connect

from . import recovery

CONNECT_TIMEOUT_S = 5.0


@dataclass(slots=True)
class LiveRun:
    """What SHOW CUTOVER tells about a run that is under way."""

    run_id: uuid.UUID
    kind: str
    step: str
    began: float
    waiting_for: Callable[[], str]

    @property
    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.began) * 1000.0


class Pair:
    """One `[[cutover]]` entry at work."""

    def __init__(self, name: str, control: ProxyControl) -> None:
        self.name = name
        self.control = control
        self.busy = asyncio.Lock()  # one verb at a time
        self.live: LiveRun | None = None
        self.epoch: int | None = None
        self.undecided = ""  # why it is not known who serves; empty when it is
        self.unfinished = False  # a decided run still has something to do
        self.unfinished_why = ""  # what stood in its way when it was last tried
        self.last_change: dict[str, object] = {}  # per side: what its record last said of its last change
        self.open_runs: dict[uuid.UUID, float] = {}  # runs of others seen open, and since when
        self.settling = asyncio.Lock()
        self.lag_ms: float | None = None
        self.heartbeat_age_ms: float | None = None
        self._checkers: dict[str, ControlSession] = {}
        self._check_lock = asyncio.Lock()

    @property
    def config(self) -> Config:
        return self.control.config

    @property
    def entry(self) -> CutoverPair:
        entry = self.config.pair(self.name)
        if entry is None:
            raise KeyError(self.name)
        return entry

    @property
    def source_name(self) -> str:
        return self.entry.source

    @property
    def destination_name(self) -> str:
        return self.entry.destination

    def endpoint(self, name: str) -> Endpoint:
        return endpoint(self.config, self.entry, name)

    @property
    def source(self) -> Endpoint:
        return self.endpoint(self.source_name)

    @property
    def destination(self) -> Endpoint:
        return self.endpoint(self.destination_name)

    @contextlib.asynccontextmanager
    async def sessions(self) -> AsyncIterator[tuple[ControlSession, ControlSession]]:
        """A control session on each side, closed at the end. Raises ControlUnavailable."""
        async with await connect(self.source, timeout_s=CONNECT_TIMEOUT_S) as source:
            async with await connect(self.destination, timeout_s=CONNECT_TIMEOUT_S) as destination:
                yield source, destination

    async def look(self) -> recovery.Verdict:
        """Ask both sides and decide who serves."""
        return await look(self.config, self.entry)

    # -- the check of every link ---------------------------------------------------------------------------

    async def identity_now(self, name: str) -> Identity | None:
        """The decision record of one side, read after this call began (never a remembered value).

        Raises ControlUnavailable: an unreadable record is not a yes.
        """
        async with self._check_lock:
            target = self.endpoint(name)
            key = f"{target.host}:{target.port}/{target.database}"
            for attempt in (1, 2):
                session = self._checkers.get(key)
                if session is None or session.closed:
                    session = await connect(target, timeout_s=CONNECT_TIMEOUT_S)
                    self._checkers[key] = session
                try:
                    return await read_identity(session, timeout_s=2.0)
                except ControlUnavailable:
                    del self._checkers[key]
                    if attempt == 2:
                        raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        for session in self._checkers.values():
            await session.close()
        self._checkers.clear()


async def look(config: Config, entry: CutoverPair) -> recovery.Verdict:
    """Ask both sides of a pair, as `config` names them, and decide who serves. Raises nothing."""
    try:
        first, second = await asyncio.gather(
            _side(endpoint(config, entry, entry.source)), _side(endpoint(config, entry, entry.destination))
        )
    except ForeignIdentity as error:
        return recovery.Refuse(str(error))
    return recovery.decide(first, second)


async def _side(target: Endpoint) -> recovery.Side:
    try:
        async with await connect(target, timeout_s=CONNECT_TIMEOUT_S) as session:
            identity = await read_identity(session)
            successor = identity.successor if identity is not None else None
            place = await decision.place_of(session, successor) if successor is not None else ""
            return recovery.Side(target.name, True, known(identity, place), target.place)
    except (ControlUnavailable, StatementFailed):
        return recovery.Side(target.name, False, None, target.place)


def known(identity: Identity | None, successor_place: str = "") -> recovery.Known | None:
    if identity is None:
        return None
    return recovery.Known(
        identity.uuid,
        recovery.State(identity.state.value),
        identity.epoch,
        identity.run_id,
        identity.successor,
        successor_place,
    )
