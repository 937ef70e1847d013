"""The outcome of a demo: the JSON file and the tables at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from .figures import RunFigures
from .latency import between, median, percentile, touching
from .ledger import SEED_CLIENT, Verdict
from .records import ClientRecord, samples

_MARGIN_S = 1.0


@dataclass(slots=True)
class DemoResult:
    """Everything that is known at the end. `problems` are reasons for a no beside the verdict."""

    source_version: str
    destination_version: str
    clients: int
    begin_s: float
    end_s: float
    runs: list[RunFigures]
    records: list[ClientRecord]
    verdict: Verdict
    expected_runs: int = 2
    problems: list[str] = field(default_factory=list)

    @property
    def traffic(self) -> list[ClientRecord]:
        return [record for record in self.records if record.client != SEED_CLIENT]

    @property
    def ok(self) -> bool:
        """Nothing lost, doubled or wrong, no client errors, every run committed, both sides equal."""
        committed = [run for run in self.runs if run.committed]
        return self.verdict.ok and len(committed) == self.expected_runs and not self.problems

    @property
    def tx_per_second(self) -> float:
        span_s = self.end_s - self.begin_s
        done = between(samples(self.traffic), self.begin_s, self.end_s)
        return len(done) / span_s if span_s > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "source_version": self.source_version,
            "destination_version": self.destination_version,
            "clients": self.clients,
            "tx_per_second": round(self.tx_per_second, 1),
            "runs": [run.as_json() for run in self.runs],
            "acknowledged": self.verdict.acknowledged,
            "lost": self.verdict.lost,
            "duplicated": self.verdict.duplicated,
            "client_errors": self.verdict.client_errors,
            "verdict": "ok" if self.ok else "failed",
        }


def runs_table(result: DemoResult) -> Table:
    """One row per run: the daemon's figures, and the latency of the transactions that met the pause."""
    table = Table(title="Runs", title_justify="left")
    table.add_column("run")
    table.add_column("outcome")
    for name in (
        "pause ms",
        "hold p50",
        "hold p99",
        "hold max",
        "held",
        "closed",
        "slowest tx ms",
        "usual p99 ms",
    ):
        table.add_column(name, justify="right")
    quick = samples(result.traffic, slow=False)
    ordinary = _ordinary_latencies(result)
    for run in result.runs:
        met = touching(quick, run.held_begin_s, run.held_end_s)
        table.add_row(
            run.kind,
            Text(run.outcome, style="green" if run.committed else "bold red"),
            f"{run.pause_ms:.1f}",
            f"{run.hold_p50_ms:.1f}",
            f"{run.hold_p99_ms:.1f}",
            f"{run.hold_max_ms:.1f}",
            str(run.clients_held),
            str(run.sessions_closed),
            f"{max(met, default=0.0):.1f}",
            f"{percentile(ordinary, 0.99):.1f}",
        )
    return table


def totals_table(result: DemoResult) -> Table:
    verdict = result.verdict
    table = Table(title="Totals", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    ordinary = _ordinary_latencies(result)
    table.add_row("versions", f"{result.source_version} -> {result.destination_version}")
    table.add_row("clients", str(result.clients))
    table.add_row("transactions per second", f"{result.tx_per_second:.0f}")
    table.add_row("usual latency p50 / p99", f"{median(ordinary):.1f} / {percentile(ordinary, 0.99):.1f} ms")
    table.add_row("clients that saw both servers", str(_saw_both(result.traffic)))
    table.add_row("clients that had to reconnect", str(sum(record.connects > 1 for record in result.traffic)))
    table.add_row("acknowledged writes", str(verdict.acknowledged))
    for name, count in (
        ("lost", verdict.lost),
        ("doubled", verdict.duplicated),
        ("client errors", verdict.client_errors),
        ("unknown outcome", verdict.unknown),
        ("unexpected or altered rows", verdict.unexpected + verdict.altered),
        ("wrong balances", verdict.wrong_balances),
        ("wrong sequence values", verdict.wrong_ids),
    ):
        table.add_row(name, Text(str(count), style="green" if count == 0 else "bold red"))
    table.add_row("verdict", Text("ok" if result.ok else "failed", style="bold green" if result.ok else "bold red"))
    return table


def _saw_both(records: Sequence[ClientRecord]) -> int:
    return sum(len({version // 10000 for version in record.server_versions}) > 1 for record in records)


def _ordinary_latencies(result: DemoResult) -> list[float]:
    """Quick transactions more than a second away from every run."""
    quick = samples(result.traffic, slow=False)
    edges = [result.begin_s]
    for run in result.runs:
        edges += [run.sent_s - _MARGIN_S, run.answered_s + _MARGIN_S]
    edges.append(result.end_s)
    found: list[float] = []
    for begin_s, end_s in zip(edges[::2], edges[1::2], strict=True):
        if end_s > begin_s:
            found += between(quick, begin_s, end_s)
    return found
