"""A run's report as JSON: what pgcutover.run keeps and SHOW CUTOVER_HISTORY reads back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .api import RunKind, RunOutcome, RunReport, StepRow


def report_json(report: RunReport) -> dict[str, Any]:
    """The report as kept in pgcutover.run."""
    return {
        "run_id": report.run_id,
        "kind": report.kind.value,
        "source": report.source,
        "destination": report.destination,
        "started_at": report.started_at.isoformat(),
        "outcome": report.outcome.value if report.outcome else None,
        "epoch": report.epoch,
        "total_ms": report.total_ms,
        "pause_ms": report.pause_ms,
        "clients_held": report.clients_held,
        "hold_p50_ms": report.hold_p50_ms,
        "hold_p99_ms": report.hold_p99_ms,
        "hold_max_ms": report.hold_max_ms,
        "transactions_waited": report.transactions_waited,
        "sessions_closed": report.sessions_closed,
        "round_trips": report.round_trips,
        "error": report.error,
        "steps": [[s.step, s.status, s.started_ms, s.duration_ms, s.detail] for s in report.steps],
    }


def report_from_json(raw: dict[str, Any]) -> RunReport:
    """The reverse of report_json."""
    return RunReport(
        run_id=raw["run_id"],
        kind=RunKind(raw["kind"]),
        source=raw["source"],
        destination=raw["destination"],
        started_at=datetime.fromisoformat(raw["started_at"]),
        outcome=RunOutcome(raw["outcome"]) if raw["outcome"] else None,
        epoch=raw["epoch"],
        total_ms=raw["total_ms"],
        pause_ms=raw["pause_ms"],
        clients_held=raw["clients_held"],
        hold_p50_ms=raw["hold_p50_ms"],
        hold_p99_ms=raw["hold_p99_ms"],
        hold_max_ms=raw["hold_max_ms"],
        transactions_waited=raw["transactions_waited"],
        sessions_closed=raw["sessions_closed"],
        round_trips=raw["round_trips"],
        error=raw["error"],
        steps=[StepRow(*step) for step in raw["steps"]],
    )
