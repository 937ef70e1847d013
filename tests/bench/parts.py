"""The parts about cutover: holds under short transactions, with long ones among them, and many runs in a row.

"Hold" is what the proxy measured at its gate. "Seen by clients" is measured outside of it: for each client
the longest transaction between the first held request and the open gates. Its ordinary work is included, so
this is never less than the hold. "Whole run" is every transaction between command and answer: what the
preparation costs the clients shows there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from daemon.demo.latency import median, percentile
from daemon.demo.screen import Screen

from .rows import PartResult, Row
from .session import Plan, Session, measure

SLOW_CLIENTS = 4

Part = Callable[[Plan, Screen], Awaitable[PartResult]]


async def short_transactions(plan: Plan, screen: Screen) -> PartResult:
    """Row 1: 64 clients of short transactions."""
    session = await measure(plan, screen)
    p99_ms = percentile(session.baseline_ms(), 0.99)
    name = "short"
    hold_max_ms = max((run.hold_max_ms for run in session.runs), default=float("nan"))
    seen_ms = [value for run in session.runs for value in session.met_hold_ms(run)]
    rows = [
        *_common(name, session),
        Row(name, "hold, median of the runs' medians", median([r.hold_p50_ms for r in session.runs]), "ms", 20),
        Row(name, "hold, longest of all runs", hold_max_ms, "ms", 60),
        Row(name, "the same against the workload's own p99", hold_max_ms, "ms", round(p99_ms, 1)),
        Row(name, "seen by clients, median", median(seen_ms), "ms"),
        Row(name, "seen by clients, longest", max(seen_ms, default=float("nan")), "ms"),
        *_whole_run(name, session),
    ]
    return PartResult(rows, session.raw(), session.damage())


async def with_long_transactions(plan: Plan, screen: Screen) -> PartResult:
    """Row 2: the same with clients that run half-second transactions back to back."""
    session = await measure(_with_slow_clients(plan), screen)
    name = "with long"
    quick_ms = [value for run in session.runs for value in session.met_hold_ms(run)]
    slow_ms = [value for run in session.runs for value in session.met_hold_ms(run, slow=True)]
    own_ms = median(session.baseline_ms(slow=True))
    rows = [
        *_common(name, session),
        # Sixteen of seventeen clients are short ones, so the median of all holds is theirs.
        Row(name, "hold, median of the runs' medians", median([r.hold_p50_ms for r in session.runs]), "ms", 20),
        Row(name, "short ones, seen by clients, median", median(quick_ms), "ms"),
        Row(name, "short ones, seen by clients, longest", max(quick_ms, default=float("nan")), "ms", 150),
        Row(name, "long ones, own transaction", own_ms, "ms"),
        Row(name, "long ones, longest", max(slow_ms, default=float("nan")), "ms", round(2 * own_ms, 1)),
        Row(name, "hold, longest of all runs", max((r.hold_max_ms for r in session.runs), default=0.0), "ms"),
        *_whole_run(name, session),
    ]
    return PartResult(rows, session.raw(), session.damage())


async def many_runs(plan: Plan, screen: Screen) -> PartResult:
    """Row 3: many alternating runs under the load of row 2."""
    session = await measure(_with_slow_clients(plan), screen)
    name = "many runs"
    verdict = session.judgement.verdict
    harmed = verdict.unexpected + verdict.altered + verdict.wrong_balances + verdict.wrong_ids
    rows = [
        *_common(name, session),
        Row(name, "acknowledged writes", verdict.acknowledged, ""),
        Row(name, "runs that did not commit", sum(not run.committed for run in session.runs), "", 0),
        Row(name, "client errors", verdict.client_errors, "", 0),
        Row(name, "lost writes", verdict.lost, "", 0),
        Row(name, "duplicated writes", verdict.duplicated, "", 0),
        Row(name, "other damage", harmed + len(session.judgement.problems), "", 0),
    ]
    return PartResult(rows, session.raw(), session.damage())


PARTS: dict[str, Part] = {"short": short_transactions, "long": with_long_transactions, "many": many_runs}


def _with_slow_clients(plan: Plan) -> Plan:
    return replace(plan, slow_clients=plan.slow_clients or SLOW_CLIENTS)


def _common(name: str, session: Session) -> list[Row]:
    quick_ms = session.baseline_ms()
    return [
        Row(name, "transactions per second", session.tx_per_second(), ""),
        Row(name, "own latency without a run, p50", median(quick_ms), "ms"),
        Row(name, "own latency without a run, p99", percentile(quick_ms, 0.99), "ms"),
        Row(name, "pause, median of the runs", median([run.pause_ms for run in session.runs]), "ms"),
    ]


def _whole_run(name: str, session: Session) -> list[Row]:
    met_ms = [value for run in session.runs for value in session.whole_run_ms(run)]
    return [
        Row(name, "whole run, short transactions, p99", percentile(met_ms, 0.99), "ms"),
        Row(name, "whole run, short transactions, longest", max(met_ms, default=float("nan")), "ms"),
    ]
