"""What is known about one run: the daemon's own figures, and when it was on the clock of the clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One row of SHOW CUTOVER_HISTORY. Times named `_s` are time.monotonic() of the machine.

    Between `held_begin_s` and `held_end_s` a client may have been held: from the first gate that drains to
    the gates that open again. That is longer than the pause, in which nobody could work.
    """

    kind: str
    outcome: str
    pause_ms: float
    hold_p50_ms: float
    hold_p99_ms: float
    hold_max_ms: float
    clients_held: int
    sessions_closed: int
    transactions_waited: int
    error: str
    sent_s: float
    answered_s: float
    held_begin_s: float
    held_end_s: float

    @property
    def committed(self) -> bool:
        return self.outcome == "committed"

    def as_json(self) -> dict[str, Any]:
        """The keys that `pgcutover demo --json` promises for a run."""
        return {
            "kind": self.kind,
            "outcome": self.outcome,
            "pause_ms": self.pause_ms,
            "hold_p50_ms": self.hold_p50_ms,
            "hold_p99_ms": self.hold_p99_ms,
            "hold_max_ms": self.hold_max_ms,
            "clients_held": self.clients_held,
            "sessions_closed": self.sessions_closed,
        }


def run_figures(
    history_row: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], sent_s: float, answered_s: float
) -> RunFigures:
    """Figures out of a history row and the result set of the run (empty where the run failed)."""
    row = history_row
    held = _held_ms(steps)
    # Without steps that say so, clients may have been held anywhere between question and answer.
    held_begin_s = sent_s if held is None else sent_s + held[0] / 1000
    held_end_s = answered_s if held is None else min(answered_s, sent_s + held[1] / 1000)
    return RunFigures(
        kind=str(row["kind"]),
        outcome=str(row["outcome"]),
        pause_ms=_number(row["pause_ms"]),
        hold_p50_ms=_number(row["hold_p50_ms"]),
        hold_p99_ms=_number(row["hold_p99_ms"]),
        hold_max_ms=_number(row["hold_max_ms"]),
        clients_held=int(_number(row["clients_held"])),
        sessions_closed=int(_number(row["sessions_closed"])),
        transactions_waited=int(_number(row["transactions_waited"])),
        error=str(row["error"] or ""),
        sent_s=sent_s,
        answered_s=answered_s,
        held_begin_s=held_begin_s,
        held_end_s=held_end_s,
    )


def _held_ms(steps: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """From the beginning of the step `hold` to the end of `swap`, in milliseconds of the run."""
    by_name = {str(step["step"]): step for step in steps if step["started_ms"] is not None}
    if "hold" not in by_name or "swap" not in by_name:
        return None
    swap = by_name["swap"]
    return float(by_name["hold"]["started_ms"]), float(swap["started_ms"]) + float(swap["duration_ms"] or 0.0)


def _number(value: Any) -> float:
    return float(value) if value is not None and value != "" else 0.0
