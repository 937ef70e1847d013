"""What the console, the command line and the demo ask of a move, and what they get back.

`MoveService` is the whole door: one method per verb of the console. Every verb takes the name of a pair;
`None` stands for the only one, and is an error where several are configured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

Notify = Callable[[str], None]
"""Called with one line of progress; it becomes a NOTICE on the console."""


class Severity(StrEnum):
    BLOCK = "block"
    WARN = "warn"
    INFO = "info"


class RunKind(StrEnum):
    CUTOVER = "cutover"
    REVERT = "revert"


class RunOutcome(StrEnum):
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of CHECK: what was looked at, what was found, what to do."""

    id: str
    severity: Severity
    object: str
    finding: str
    remedy: str


@dataclass(frozen=True, slots=True)
class StepRow:
    step: str
    status: str  # "done", "failed", "undone", "skipped"
    started_ms: float
    duration_ms: float
    detail: str


@dataclass(slots=True)
class RunReport:
    """The figures of one run; the last rows of the result of CUTOVER, and a row of SHOW CUTOVER_HISTORY."""

    run_id: str
    kind: RunKind
    source: str
    destination: str
    started_at: datetime
    outcome: RunOutcome | None = None
    epoch: int = 0
    total_ms: float = 0.0
    pause_ms: float = 0.0
    clients_held: int = 0
    hold_p50_ms: float = 0.0
    hold_p99_ms: float = 0.0
    hold_max_ms: float = 0.0
    transactions_waited: int = 0
    sessions_closed: int = 0
    round_trips: int = 0
    error: str = ""
    steps: list[StepRow] = field(default_factory=list)


class MoveError(Exception):
    """A verb that did not go through, in the words the operator reads.

    `sqlstate` is what the console sends; `detail` says who was waited for and where traffic flows now;
    `hint` says what to do.
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str = "55000",
        detail: str = "",
        hint: str = "",
        report: RunReport | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint
        self.report = report


@dataclass(frozen=True, slots=True)
class ReplicationRow:
    """SHOW REPLICATION: one stream. `None` means unknown, never zero."""

    pair: str
    direction: str  # "forward" or "reverse"
    publication: str
    subscription: str
    slot: str
    enabled: bool
    state: str  # "copying", "streaming", "disabled", "broken: ..."
    tables_ready: int
    tables_total: int
    lag_bytes: int | None
    lag_ms: float | None
    heartbeat_age_ms: float | None


@dataclass(frozen=True, slots=True)
class TableCopyRow:
    """SHOW TABLE_COPIES: one table of the initial copy."""

    schema: str
    table: str
    state: str  # "waiting", "copying", "catching up", "ready"
    rows: int
    bytes: int
    bytes_total: int
    percent: float | None
    bytes_per_sec: float | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class CutoverStateRow:
    """SHOW CUTOVER: where one pair stands."""

    pair: str
    serving: str
    other: str
    epoch: int | None
    phase: str  # "idle", "replicating", "running", "moved", "completed", "unknown: ..."
    run_id: str
    kind: str
    step: str
    elapsed_ms: float
    waiting_for: str
    gate: str


@dataclass(frozen=True, slots=True)
class NodeRow:
    node: str
    version: str
    config_hash: str
    config_valid: bool
    epoch: int | None
    gate: str
    heartbeat_age_ms: float
    clients: int


class MoveService(Protocol):
    """Every method raises MoveError, and nothing else, for what the operator can mend."""

    def pairs(self) -> Sequence[str]: ...

    async def check(self, pair: str | None) -> list[Finding]: ...

    async def replicate(self, pair: str | None, notify: Notify) -> list[StepRow]: ...

    async def cutover(self, pair: str | None, notify: Notify) -> RunReport: ...

    async def revert(self, pair: str | None, notify: Notify) -> RunReport: ...

    async def complete(self, pair: str | None, notify: Notify) -> list[StepRow]: ...

    async def reset(self, pair: str | None, notify: Notify) -> list[StepRow]: ...

    async def replication(self, pair: str | None) -> list[ReplicationRow]: ...

    async def table_copies(self, pair: str | None) -> list[TableCopyRow]: ...

    async def cutover_state(self, pair: str | None) -> list[CutoverStateRow]: ...

    async def history(self, pair: str | None) -> list[RunReport]: ...

    async def nodes(self) -> list[NodeRow]: ...
