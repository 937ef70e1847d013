"""One measured session: servers, daemon and traffic; a stretch without a run, then alternating runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from daemon.demo.figures import RunFigures
from daemon.demo.judge import Judgement, judge, server_version
from daemon.demo.latency import between, touching
from daemon.demo.operator import Operator
from daemon.demo.records import ClientRecord, samples
from daemon.demo.replicate import replicate
from daemon.demo.screen import Screen
from daemon.demo.stage import Stage, StageOptions
from daemon.demo.workload import Workload, WorkloadOptions

_SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `between_s` lies between two runs."""

    clients: int = 64
    slow_clients: int = 0
    tx_per_second: float = 1_500.0
    baseline_s: float = 10.0
    runs: int = 10
    between_s: float = 2.0
    seed_rows: int = 20_000


@dataclass(slots=True)
class Session:
    """What was measured. Times named `_s` are time.monotonic()."""

    plan: Plan
    versions: tuple[str, str]
    baseline_begin_s: float
    baseline_end_s: float
    end_s: float
    runs: list[RunFigures]
    records: list[ClientRecord]
    judgement: Judgement

    def baseline_ms(self, *, slow: bool = False) -> list[float]:
        """Latencies under the same load before the first run."""
        return between(samples(self.records, slow=slow), self.baseline_begin_s, self.baseline_end_s)

    def met_hold_ms(self, run: RunFigures, *, slow: bool = False) -> list[float]:
        """Each client's longest transaction while the run held clients: its hold, and a bit more."""
        longest: list[float] = []
        for record in self.records:
            if record.slow is slow:
                met = touching(samples([record]), run.held_begin_s, run.held_end_s)
                if met:
                    longest.append(max(met))
        return longest

    def whole_run_ms(self, run: RunFigures) -> list[float]:
        """Latencies of the quick transactions under way between command and answer."""
        return touching(samples(self.records, slow=False), run.sent_s, run.answered_s)

    def tx_per_second(self) -> float:
        done = between(samples(self.records), self.baseline_begin_s, self.baseline_end_s)
        return len(done) / (self.baseline_end_s - self.baseline_begin_s)

    def damage(self) -> list[str]:
        """Everything that must not happen, in words."""
        found = [
            f"run {n} ({run.kind}): {run.outcome} {run.error}"
            for n, run in enumerate(self.runs, 1)
            if not run.committed
        ]
        closed = sum(run.sessions_closed for run in self.runs)
        if closed:
            found.append(f"{closed} sessions were closed by runs")
        return found + self.judgement.verdict.details + self.judgement.problems

    def raw(self) -> dict[str, Any]:
        verdict = self.judgement.verdict
        return {
            "versions": list(self.versions),
            "tx_per_second": round(self.tx_per_second(), 1),
            "runs": [run.as_json() for run in self.runs],
            "acknowledged": verdict.acknowledged,
            "lost": verdict.lost,
            "duplicated": verdict.duplicated,
            "client_errors": verdict.client_errors,
        }


async def measure(plan: Plan, screen: Screen) -> Session:
    """Put everything up, measure, take it down. Raises what the demo's parts raise."""
    options = WorkloadOptions(clients=plan.clients, slow_clients=plan.slow_clients, tx_per_second=plan.tx_per_second)
    stage_options = StageOptions(connections=plan.clients + plan.slow_clients, seed_rows=plan.seed_rows)
    async with Stage(stage_options) as stage:
        operator, watcher = await stage.operator(), await stage.operator()
        try:
            async with Workload(stage.app, options, stage.directory) as workload:
                await replicate(operator, watcher, screen, lambda: f"{workload.live().transactions} transactions")
                await asyncio.sleep(_SETTLE_S)
                baseline_begin_s = time.monotonic()
                await asyncio.sleep(plan.baseline_s)
                baseline_end_s = time.monotonic()
                runs = await _alternate(operator, plan, screen)
                end_s = time.monotonic()
                records = await workload.stop()
            assert stage.seed is not None
            judgement = await judge(stage, [stage.seed, *records], screen.line)
            first, second = stage.servers
            versions = (await server_version(stage, first), await server_version(stage, second))
        finally:
            await operator.close()
            await watcher.close()
    return Session(plan, versions, baseline_begin_s, baseline_end_s, end_s, runs, records, judgement)


async def _alternate(operator: Operator, plan: Plan, screen: Screen) -> list[RunFigures]:
    """CUTOVER, REVERT, CUTOVER, ...; a run that did not commit is tried again in the same direction."""
    runs: list[RunFigures] = []
    command = "CUTOVER"
    for number in range(1, plan.runs + 1):
        run = await operator.run(command)
        runs.append(run)
        screen.line(
            f"{number}/{plan.runs} {run.kind} {run.outcome}: pause {run.pause_ms:.1f} ms, hold p50 "
            f"{run.hold_p50_ms:.1f}, max {run.hold_max_ms:.1f} ms {run.error}".rstrip()
        )
        if run.committed:
            command = "REVERT" if command == "CUTOVER" else "CUTOVER"
        await asyncio.sleep(plan.between_s)
    return runs
