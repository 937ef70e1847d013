"""The verbs of a move. They go on when their console goes away, and tell their progress while somebody
listens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from cutover.api import MoveService, Notify, RunOutcome, RunReport, StepRow

from ..errors import NotInThatState
from ..result import Column, Columns, Row, Rows, Type, columns
from ..statement import Context, Statement, command, with_optional_name
from .rows import attribute_rows

STEPS: Final[Columns] = (
    *columns(Type.TEXT, "step", "status"),
    *columns(Type.FLOAT8, "started_ms", "duration_ms"),
    Column("detail", Type.TEXT),
)
FINDINGS: Final[Columns] = columns(Type.TEXT, "id", "severity", "object", "finding", "remedy")
FIGURE: Final = "total"
"""The status of the last rows of a run: they are figures of all of it, not steps."""


@dataclass(frozen=True)
class Check(Statement):
    pair: str | None
    tag = "CHECK"
    columns = FINDINGS

    async def execute(self, context: Context) -> Rows:
        return attribute_rows(FINDINGS, await context.services.moves.check(self.pair))


@dataclass(frozen=True)
class StepsVerb(Statement):
    """A verb that answers its steps."""

    pair: str | None
    columns = STEPS
    changes = True
    goes_on = True

    @abstractmethod
    def begin(self, moves: MoveService, notify: Notify) -> Coroutine[Any, Any, list[StepRow]]: ...

    async def execute(self, context: Context) -> Rows:
        work = self.begin(context.services.moves, context.tell)
        return attribute_rows(STEPS, await context.services.background.follow(self.tag, work))


class Replicate(StepsVerb):
    tag = "REPLICATE"

    def begin(self, moves: MoveService, notify: Notify) -> Coroutine[Any, Any, list[StepRow]]:
        return moves.replicate(self.pair, notify)


class Complete(StepsVerb):
    tag = "COMPLETE"

    def begin(self, moves: MoveService, notify: Notify) -> Coroutine[Any, Any, list[StepRow]]:
        return moves.complete(self.pair, notify)


class Reset(StepsVerb):
    tag = "RESET"

    def begin(self, moves: MoveService, notify: Notify) -> Coroutine[Any, Any, list[StepRow]]:
        return moves.reset(self.pair, notify)


@dataclass(frozen=True)
class RunVerb(Statement):
    """A verb that moves traffic: its steps, then its figures."""

    pair: str | None
    columns = STEPS
    changes = True
    goes_on = True

    @abstractmethod
    def begin(self, moves: MoveService, notify: Notify) -> Coroutine[Any, Any, RunReport]: ...

    async def execute(self, context: Context) -> Rows:
        work = self.begin(context.services.moves, context.tell)
        report = await context.services.background.follow(self.tag, work)
        if report.outcome is not RunOutcome.COMMITTED:
            raise NotInThatState(
                report.error or f"the {report.kind} did not go through",
                detail=f'Run {report.run_id}: outcome "{report.outcome or "unknown"}".',
                hint="SHOW CUTOVER shows where traffic flows now.",
            )
        return [*attribute_rows(STEPS, report.steps), *map(figure, figures(report))]


class Cutover(RunVerb):
    tag = "CUTOVER"

    def begin(self, moves: MoveService, notify: Notify) -> Coroutine[Any, Any, RunReport]:
        return moves.cutover(self.pair, notify)


class Revert(RunVerb):
    tag = "REVERT"

    def begin(self, moves: MoveService, notify: Notify) -> Coroutine[Any, Any, RunReport]:
        return moves.revert(self.pair, notify)


def figures(report: RunReport) -> list[tuple[str, float | int]]:
    """Times are floats, in milliseconds; counts are integers."""
    return [
        ("pause", float(report.pause_ms)),
        ("clients held", report.clients_held),
        ("hold p50", float(report.hold_p50_ms)),
        ("hold p99", float(report.hold_p99_ms)),
        ("longest hold", float(report.hold_max_ms)),
        ("transactions waited for", report.transactions_waited),
        ("sessions closed", report.sessions_closed),
        ("round trips", report.round_trips),
    ]


def figure(named: tuple[str, float | int]) -> Row:
    name, value = named
    if isinstance(value, float):
        return name, FIGURE, None, round(value, 3), f"{value:.1f} ms"
    return name, FIGURE, None, None, str(value)


COMMANDS: Final = (
    command("CHECK [pair]", "all preflight checks: one row per finding", with_optional_name(Check)),
    command(
        "REPLICATE [pair]",
        "copy schema and data, then keep the destination in step",
        with_optional_name(Replicate),
    ),
    command("CUTOVER [pair]", "move all traffic to the destination", with_optional_name(Cutover)),
    command("REVERT [pair]", "move all traffic back, over the reverse stream", with_optional_name(Revert)),
    command("COMPLETE [pair]", "end the move; the old database stays fenced", with_optional_name(Complete)),
    command("RESET [pair]", "before a cutover: remove everything the move made", with_optional_name(Reset)),
)
