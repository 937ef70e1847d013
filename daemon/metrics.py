"""GET /metrics: what the proxy and the moves say of themselves at the moment of the scrape, for Prometheus.

Nothing is kept between scrapes but the runs that were seen. What is not known has no sample: a dashboard then shows
a gap and not a zero. While a run is under way the databases are not asked; the run has its own use for the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from admin.services import ProxyService
from cutover.api import CutoverStateRow, MoveError, MoveService, ReplicationRow, RunKind, RunOutcome, RunReport
from proxy.routing.gate import GateState
from proxy.views import StatsView

log = structlog.get_logger("daemon")

T = TypeVar("T")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
ANSWER_WITHIN_S: Final = 2.0
"""A scrape asks the databases two rounds of questions, and Prometheus gives up after 10 s where nothing else is set."""

PHASES: Final = ("idle", "replicating", "running", "moved", "completed", "unknown")

_DATABASE_COUNTERS: Final[tuple[tuple[str, str, Callable[[StatsView], float]], ...]] = (
    ("transactions", "Transactions that clients have completed.", lambda s: s.xact_count),
    ("queries", "Requests that clients have had answered.", lambda s: s.query_count),
    ("received_bytes", "Bytes received from clients.", lambda s: s.bytes_received),
    ("sent_bytes", "Bytes sent to clients.", lambda s: s.bytes_sent),
    ("client_wait_seconds", "Time that requests were held by a run or a PAUSE.", lambda s: s.wait_time_us / 1e6),
)

_LAST_RUN: Final[tuple[tuple[str, str, Callable[[RunReport], float]], ...]] = (
    ("start_timestamp_seconds", "When it started, as UNIX time.", lambda r: r.started_at.timestamp()),
    ("committed", "1 where it committed, 0 where it was aborted.", lambda r: r.outcome is RunOutcome.COMMITTED),
    ("duration_seconds", "How long all of it took.", lambda r: r.total_ms / 1e3),
    ("pause_seconds", "From the last client stopped to the gates open again.", lambda r: r.pause_ms / 1e3),
    ("hold_p50_seconds", "How long clients were held, median.", lambda r: r.hold_p50_ms / 1e3),
    ("hold_p99_seconds", "How long clients were held, 99th percentile.", lambda r: r.hold_p99_ms / 1e3),
    ("hold_max_seconds", "How long clients were held, longest.", lambda r: r.hold_max_ms / 1e3),
    ("clients_held", "Clients that had a request held.", lambda r: r.clients_held),
    ("transactions_waited", "Open transactions and requests that it waited for.", lambda r: r.transactions_waited),
    ("sessions_closed", "Sessions closed because they could not move.", lambda r: r.sessions_closed),
)


@dataclass(frozen=True, slots=True)
class PairFigures:
    """One pair at a scrape. None where there was no answer in time."""

    name: str
    state: CutoverStateRow | None
    streams: Sequence[ReplicationRow] | None
    runs: Sequence[RunReport] | None


class Metrics:
    """`exposition` for every scrape, `close` at the end."""

    def __init__(self, proxy: ProxyService, moves: MoveService, version: str) -> None:
        self._proxy = proxy
        self._moves = moves
        self._version = version
        self._asking: dict[tuple[str, str], asyncio.Task[Any]] = {}
        self._runs: dict[str, dict[str, RunReport]] = {}

    async def exposition(self) -> bytes:
        """The text of a scrape. Waits for answers of the databases, within ANSWER_WITHIN_S for each of two rounds."""
        pairs = await asyncio.gather(*(self._pair(name) for name in self._moves.pairs()))
        return generate_latest(Snapshot(self._proxy, pairs, self._version))

    async def close(self) -> None:
        """Give up what is still being asked."""
        tasks = tuple(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pair(self, name: str) -> PairFigures:
        rows = await self._ask("state", name, self._moves.cutover_state)
        state = rows[0] if rows else None
        streams = None
        if _phase(state) not in ("running", "unknown"):
            streams, past = await asyncio.gather(
                self._ask("streams", name, self._moves.replication), self._ask("history", name, self._moves.history)
            )
            # The history leaves out a side that cannot be read, so that an empty one says nothing by itself.
            if past or (past is not None and streams is not None):
                self._runs.setdefault(name, {}).update((run.run_id, run) for run in past if run.outcome is not None)
        seen = self._runs.get(name)
        runs = sorted(seen.values(), key=lambda run: run.started_at) if seen is not None else None
        return PairFigures(name, state, streams, runs)

    async def _ask(self, what: str, pair: str, ask: Callable[[str], Coroutine[Any, Any, list[T]]]) -> list[T] | None:
        """The answer, or None. A question without an answer yet is shared, not repeated and never broken off: a
        server that hangs gets one connection of ours, however often it is scraped."""
        key = (what, pair)
        task: asyncio.Task[list[T] | None] | None = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(_answer(what, pair, ask), name=f"metrics-{what}-{pair}")
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        await asyncio.wait({task}, timeout=ANSWER_WITHIN_S)
        return task.result() if task.done() and not task.cancelled() else None


async def _answer(what: str, pair: str, ask: Callable[[str], Coroutine[Any, Any, list[T]]]) -> list[T] | None:
    try:
        return await ask(pair)
    except MoveError as error:
        log.debug("metrics_incomplete", pair=pair, what=what, reason=error.message)
    except Exception:
        log.exception("metrics_incomplete", pair=pair, what=what)
    return None


class Snapshot(Collector):
    """The figures of one scrape as metric families. The proxy is read while it is collected."""

    def __init__(self, proxy: ProxyService, pairs: Sequence[PairFigures], version: str) -> None:
        self._proxy = proxy
        self._pairs = pairs
        self._version = version

    def collect(self) -> Iterator[Metric]:
        build = _gauge("build_info", "The version that runs; always 1.", "version")
        build.add_metric([self._version], 1)
        yield build
        yield from self._traffic()
        yield from self._counters()
        yield from self._states()
        yield from self._lags()
        yield from self._past_runs()

    def _traffic(self) -> Iterable[Metric]:
        """Not from the rows of clients and links: an object for each of 10,000 would hold the event loop up."""
        clients = _gauge("clients", "Clients that are logged in.", "database")
        waiting = _gauge("clients_waiting", "Clients that wait: held by a run or a PAUSE, or for a link.", "database")
        longest = _gauge("client_longest_wait_seconds", "How long the longest of them has waited.", "database")
        links = _gauge("links", "Connections to the server, without those a run opens ahead.", "database", "state")
        gate = _gauge("gate", "1 for the state of the gate: closed and draining hold requests.", "database", "state")
        pools = self._proxy.pools()
        for view in self._proxy.databases():
            mine = [pool for pool in pools if pool.database == view.name]
            clients.add_metric([view.name], view.current_connections)
            waiting.add_metric([view.name], sum(pool.cl_waiting for pool in mine))
            longest.add_metric([view.name], max((pool.maxwait_us for pool in mine), default=0) / 1e6)
            links.add_metric([view.name, "active"], sum(pool.sv_active for pool in mine))
            links.add_metric([view.name, "idle"], sum(pool.sv_idle for pool in mine))
            # Every pool of a database repeats the number of links that are being opened.
            links.add_metric([view.name, "login"], view.current_client_connections - view.current_connections)
            _one_of(gate, view.name, view.gate, GateState)
        return clients, waiting, longest, links, gate

    def _counters(self) -> Iterator[Metric]:
        rows = self._proxy.stats()
        for name, told, value in _DATABASE_COUNTERS:
            counter = CounterMetricFamily(f"pgcutover_{name}", told, labels=["database"])
            for row in rows:
                counter.add_metric([row.database], value(row))
            yield counter

    def _states(self) -> Iterable[Metric]:
        epoch = _gauge("epoch", "How often the pair has changed sides; none where it is not known.", "pair")
        phase = _gauge("phase", "1 for where the move stands; unknown: the databases do not tell.", "pair", "phase")
        for pair in self._pairs:
            if pair.state is not None and pair.state.epoch is not None:
                epoch.add_metric([pair.name], pair.state.epoch)
            _one_of(phase, pair.name, _phase(pair.state), PHASES)
        return epoch, phase

    def _lags(self) -> Iterable[Metric]:
        absent = "none where it is not known."
        labels = ("pair", "direction")
        size = _gauge("replication_lag_bytes", f"WAL that the other side has not applied yet; {absent}", *labels)
        lag = _gauge("replication_lag_seconds", f"How long the last marker took to arrive; {absent}", *labels)
        beat = _gauge("replication_heartbeat_age_seconds", f"Age of the last heartbeat that arrived; {absent}", *labels)
        for row in (row for pair in self._pairs for row in pair.streams or ()):
            for gauge, value in (
                (size, row.lag_bytes),
                (lag, _seconds(row.lag_ms)),
                (beat, _seconds(row.heartbeat_age_ms)),
            ):
                if value is not None:
                    gauge.add_metric([row.pair, row.direction], value)
        return size, lag, beat

    def _past_runs(self) -> Iterator[Metric]:
        known = [(pair.name, pair.runs) for pair in self._pairs if pair.runs is not None]
        counter = CounterMetricFamily(
            "pgcutover_runs", "Runs that ended, by what came of them.", labels=["pair", "kind", "outcome"]
        )
        for name, runs in known:
            for kind in RunKind:
                for outcome in RunOutcome:
                    count = sum(1 for run in runs if run.kind is kind and run.outcome is outcome)
                    counter.add_metric([name, kind.value, outcome.value], count)
        yield counter
        last = {(name, run.kind.value): run for name, runs in known for run in runs}
        for suffix, told, value in _LAST_RUN:
            gauge = _gauge(f"last_run_{suffix}", f"The last run of this kind: {_lower_first(told)}", "pair", "kind")
            for labels, run in last.items():
                gauge.add_metric(labels, value(run))
            yield gauge


def _gauge(name: str, told: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pgcutover_{name}", told, labels=labels)


def _one_of(gauge: GaugeMetricFamily, name: str, state: str, states: Iterable[str]) -> None:
    """Every state has a sample, so that a query finds those that are not."""
    for each in dict.fromkeys((*states, state)):
        gauge.add_metric([name, str(each)], each == state)


def _phase(state: CutoverStateRow | None) -> str:
    """One word of PHASES; the row says after a colon why it is unknown."""
    return state.phase.partition(":")[0] if state is not None else "unknown"


def _seconds(milliseconds: float | None) -> float | None:
    return milliseconds / 1000.0 if milliseconds is not None else None


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]
