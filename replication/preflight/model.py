"""What a check is told, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from config.model import FenceKind

from ..session import ControlSession

T = TypeVar("T")


class Severity(StrEnum):
    """BLOCK: a move would fail, or lose or double data. WARN: somebody should look. INFO: good to know."""

    BLOCK = "block"
    WARN = "warn"
    INFO = "info"


class Phase(StrEnum):
    """SETUP: before replication is made. ARM: replication runs, a cutover is about to start."""

    SETUP = "setup"
    ARM = "arm"


class Where(StrEnum):
    SOURCE = "source"
    DESTINATION = "destination"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of CHECK: what was looked at, what was found, what to do."""

    id: str
    severity: Severity
    object: str
    finding: str
    remedy: str


class CannotCheck(Exception):
    """A check could not be carried out; a blocking finding, since unchecked is never reported as checked."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class ProxiedUser:
    """A user of the proxy, and the role it logs in to the servers as.

    `same_verifier_needed`: the proxy holds no password for it that works on any server, only a verifier,
    so both servers must store the very same one.
    """

    name: str
    server_user: str
    database_source: str
    database_destination: str
    destination_server_user: str | None = None
    same_verifier_needed: bool = False

    @property
    def destination_user(self) -> str:
        return self.destination_server_user or self.server_user


@dataclass(frozen=True, slots=True)
class ErrorBaseline:
    """The error and conflict counters of a subscription at the moment its copy was known to be good."""

    subscription: str
    counters: Mapping[str, int]


@dataclass(frozen=True)
class CheckContext:
    """Everything the checks need to know. The sessions belong to the caller and are used one call at a time.

    After a cutover the same checks run the other way round: hand the sessions over exchanged.
    `reverse_slot`, `own_slots`, `own_subscriptions`: what the move made or will make, so that it is not taken
    for somebody else's. `links_needed`: links the proxy wants to open to the destination.
    """

    source: ControlSession
    destination: ControlSession
    pair_name: str
    phase: Phase
    publication: str | None = None
    subscription: str | None = None
    reverse_slot: str | None = None
    own_slots: frozenset[str] = frozenset()
    own_subscriptions: frozenset[str] = frozenset()
    proxied_users: tuple[ProxiedUser, ...] = ()
    own_source_pids: frozenset[int] = frozenset()
    own_destination_pids: frozenset[int] = frozenset()
    links_needed: int = 0
    pause_budget_ms: int = 5_000
    lag_threshold_bytes: int = 1_000_000
    fence: FenceKind = FenceKind.READ_ONLY
    baseline: ErrorBaseline | None = None
    minimum_major: int = 13
    maximum_major: int = 18
    check_timeout_s: float = 30.0
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def both(self) -> tuple[ControlSession, ControlSession]:
        return self.source, self.destination

    def on(self, session: ControlSession, what: str = "") -> str:
        """The `object` of a finding: which database, and what in it."""
        return f"{session.endpoint.name}: {what}" if what else session.endpoint.name

    def own_pids(self, session: ControlSession) -> list[int]:
        """Backends of ours on the side of `session`: links, control sessions and the session itself."""
        pids = self.own_source_pids if session is self.source else self.own_destination_pids
        return sorted({*pids, session.pid})

    async def once(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """What `load` answers, asked only once in a run of the checks. A failure is not remembered."""
        if key not in self.memo:
            self.memo[key] = await load()
        answer: T = self.memo[key]
        return answer


def redact(text: str, context: CheckContext) -> str:
    """Server messages may quote what they were sent; the passwords of the control users are taken out."""
    for session in context.both:
        password = session.endpoint.password
        if password:
            text = text.replace(password, "***")
    return text
