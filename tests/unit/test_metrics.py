"""daemon.metrics: what a scrape says of fakes; above all, that it says nothing of what is not known."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cutover.api import CutoverStateRow, MoveError, ReplicationRow, RunKind, RunOutcome, RunReport
from daemon import metrics
from daemon.metrics import Metrics
from proxy.views import PoolView
from tests.support.console import FakeMoves, FakeProxy, example_report, example_stats

STATE = CutoverStateRow("app", "a:1/app", "b:2/app", 6, "replicating", "", "", "", 0.0, "", "open")
STREAM = ReplicationRow("app", "forward", "pub", "sub", "slot", True, "streaming", 12, 12, 4096, 1.5, 250.0)
UNKNOWN = replace(STREAM, lag_bytes=None, lag_ms=None, heartbeat_age_ms=None)

T = TypeVar("T")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Moves(FakeMoves):
    """What the databases would answer; an error in place of an answer is raised, an event is waited for."""

    state: CutoverStateRow = STATE
    streams: list[ReplicationRow] | Exception = field(default_factory=lambda: [STREAM])
    runs: list[RunReport] | Exception = field(default_factory=list)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    silent: str = ""

    async def cutover_state(self, pair: str | None) -> list[CutoverStateRow]:
        await self._reached("state")
        return [self.state]

    async def replication(self, pair: str | None) -> list[ReplicationRow]:
        await self._reached("streams")
        return _or_raise(self.streams)

    async def history(self, pair: str | None) -> list[RunReport]:
        await self._reached("history")
        return _or_raise(self.runs)

    async def _reached(self, question: str) -> None:
        self.calls.append((question, "app"))
        if question == self.silent:
            await self.answers.wait()

    def asked(self, question: str) -> int:
        return sum(1 for name, _ in self.calls if name == question)


def _or_raise(answer: list[T] | Exception) -> list[T]:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def moves() -> Moves:
    return Moves()


@pytest.fixture
def proxy() -> FakeProxy:
    return FakeProxy()


@pytest.fixture
def subject(proxy: FakeProxy, moves: Moves) -> Metrics:
    return Metrics(proxy, moves, "1.2.3")


async def scrape(subject: Metrics) -> Samples:
    async with asyncio.timeout(5):
        text = (await subject.exposition()).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("pgcutover_")
        assert family.documentation
        for sample in family.samples:
            key = sample.name.removeprefix("pgcutover_"), frozenset(sample.labels.items())
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def only(samples: Samples, name: str) -> dict[str, float]:
    """The samples of one metric, by the values of their labels in the order of the labels' names."""
    return {
        " ".join(value for _, value in sorted(labels)): number
        for (metric, labels), number in samples.items()
        if metric == name
    }


async def test_the_proxy(subject: Metrics, proxy: FakeProxy) -> None:
    proxy.views = {"app": replace(proxy.views["app"], gate="draining")}
    proxy.counters = [example_stats("app"), example_stats("other", scale=2)]
    samples = await scrape(subject)
    assert only(samples, "build_info") == {"1.2.3": 1}
    assert only(samples, "clients") == {"app": 2}
    assert only(samples, "clients_waiting") == {"app": 1}
    assert only(samples, "client_longest_wait_seconds") == {"app": 2.5}
    assert only(samples, "links") == {"app active": 2, "app idle": 1, "app login": 1}
    assert only(samples, "gate") == {"app open": 0, "app draining": 1, "app closed": 0}
    assert only(samples, "transactions_total") == {"app": 10, "other": 20}
    assert only(samples, "queries_total") == {"app": 20, "other": 40}
    assert only(samples, "received_bytes_total") == {"app": 3000, "other": 6000}
    assert only(samples, "sent_bytes_total") == {"app": 4000, "other": 8000}
    assert only(samples, "client_wait_seconds_total") == pytest.approx({"app": 700e-6, "other": 1400e-6})


async def test_pools_of_several_users_are_added_up(
    subject: Metrics, proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not the links that are being opened: every pool of a database counts them all."""
    pools = [PoolView("app", user, 3, 1, 2, 1, 1, wait_us, "session") for user, wait_us in (("a", 5), ("b", 7))]
    monkeypatch.setattr(proxy, "pools", lambda: pools)
    samples = await scrape(subject)
    assert only(samples, "clients_waiting") == {"app": 2, "app_next": 0, "My App": 0}
    assert only(samples, "client_longest_wait_seconds")["app"] == pytest.approx(7e-6)
    links = only(samples, "links")
    assert (links["app active"], links["app idle"], links["app login"]) == (4, 2, 1)


async def test_a_pair(subject: Metrics, moves: Moves) -> None:
    samples = await scrape(subject)
    assert only(samples, "epoch") == {"app": 6}
    phases = only(samples, "phase")
    assert phases.keys() == {f"app {phase}" for phase in metrics.PHASES}
    assert [phase for phase, value in phases.items() if value] == ["app replicating"]
    assert only(samples, "replication_lag_bytes") == {"forward app": 4096}
    assert only(samples, "replication_lag_seconds") == {"forward app": 0.0015}
    assert only(samples, "replication_heartbeat_age_seconds") == {"forward app": 0.25}


async def test_a_lag_of_zero_is_a_lag(subject: Metrics, moves: Moves) -> None:
    moves.streams = [replace(STREAM, lag_bytes=0, lag_ms=0.0)]
    samples = await scrape(subject)
    assert only(samples, "replication_lag_bytes") == {"forward app": 0}
    assert only(samples, "replication_lag_seconds") == {"forward app": 0}


async def test_each_stream_has_its_own_lag(subject: Metrics, moves: Moves) -> None:
    moves.streams = [STREAM, replace(UNKNOWN, direction="reverse", lag_bytes=77)]
    samples = await scrape(subject)
    assert only(samples, "replication_lag_bytes") == {"forward app": 4096, "reverse app": 77}
    assert only(samples, "replication_lag_seconds") == {"forward app": 0.0015}


def assert_no_lag(samples: Samples) -> None:
    assert [key for key in samples if key[0].startswith("replication_")] == []


async def test_an_unknown_lag_is_absent(subject: Metrics, moves: Moves) -> None:
    moves.streams = [UNKNOWN]
    assert_no_lag(await scrape(subject))


async def test_a_side_that_cannot_be_asked(subject: Metrics, moves: Moves) -> None:
    moves.streams = MoveError("cannot log in", sqlstate="08006")
    samples = await scrape(subject)
    assert_no_lag(samples)
    assert only(samples, "epoch") == {"app": 6}
    # The history is empty where nobody could be read, too.
    assert only(samples, "runs_total") == {}


async def test_a_fault_in_one_answer_costs_that_answer_only(subject: Metrics, moves: Moves) -> None:
    moves.streams = RuntimeError("a mistake of ours")
    moves.runs = [example_report()]
    samples = await scrape(subject)
    assert_no_lag(samples)
    assert only(samples, "phase")["app replicating"] == 1
    assert only(samples, "runs_total")["cutover committed app"] == 1


async def test_no_epoch_before_the_first_move(subject: Metrics, moves: Moves) -> None:
    moves.state = replace(STATE, epoch=None, phase="idle")
    assert only(await scrape(subject), "epoch") == {}


@pytest.mark.parametrize(
    ("phase", "word"), [("running", "running"), ('unknown: "app_next" cannot be reached', "unknown")]
)
async def test_databases_are_left_alone(subject: Metrics, moves: Moves, phase: str, word: str) -> None:
    """In a run that would cost time inside the pause. The runs that were seen before stay."""
    moves.runs = [example_report()]
    await scrape(subject)
    moves.state = replace(STATE, phase=phase)
    samples = await scrape(subject)
    assert (moves.asked("streams"), moves.asked("history")) == (1, 1)
    assert [name for name, value in only(samples, "phase").items() if value] == [f"app {word}"]
    assert_no_lag(samples)
    assert only(samples, "runs_total")["cutover committed app"] == 1


@pytest.mark.parametrize("silent", ["state", "streams", "history"])
async def test_a_hanging_database(subject: Metrics, moves: Moves, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape goes without the answer; the next ones do not ask again while it is due, and have it when it comes."""
    monkeypatch.setattr(metrics, "ANSWER_WITHIN_S", 0.05)
    moves.silent, moves.runs = silent, [example_report()]
    for _ in range(3):
        samples = await scrape(subject)
        assert bool(only(samples, "clients"))
        assert bool(only(samples, "epoch")) is (silent != "state")
        assert only(samples, "phase")["app unknown"] == (silent == "state")
        assert bool(only(samples, "replication_lag_bytes")) is (silent == "history")
        assert bool(only(samples, "runs_total")) is (silent == "streams")
    assert moves.asked(silent) == 1
    monkeypatch.setattr(metrics, "ANSWER_WITHIN_S", 10)
    moves.answers.set()
    samples = await scrape(subject)
    assert only(samples, "replication_lag_bytes")
    assert only(samples, "runs_total")


async def test_scrapes_at_the_same_time_ask_once(subject: Metrics, moves: Moves) -> None:
    await asyncio.gather(*(scrape(subject) for _ in range(5)))
    assert moves.asked("state") == 1
    await scrape(subject)
    assert moves.asked("state") == 2


async def test_the_end_gives_up_what_is_being_asked(
    subject: Metrics, moves: Moves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "ANSWER_WITHIN_S", 0.01)
    moves.silent = "state"
    await scrape(subject)
    before = {task for task in asyncio.all_tasks() if task.get_name() == "metrics-state-app"}
    assert len(before) == 1
    await subject.close()
    assert all(task.cancelled() for task in before)


async def test_runs(subject: Metrics, moves: Moves) -> None:
    first = example_report()
    moves.runs = [
        first,
        replace(
            first,
            run_id="r2",
            started_at=first.started_at + timedelta(hours=1),
            outcome=RunOutcome.ABORTED,
            pause_ms=0.0,
            sessions_closed=0,
        ),
        replace(first, run_id="r3", kind=RunKind.REVERT, pause_ms=7.5),
        replace(first, run_id="r4", kind=RunKind.REVERT, outcome=None, started_at=first.started_at + timedelta(days=1)),
    ]
    samples = await scrape(subject)
    counts = only(samples, "runs_total")
    assert {name: count for name, count in counts.items() if count} == {
        "cutover committed app": 1,
        "cutover aborted app": 1,
        "revert committed app": 1,
    }
    assert len(counts) == len(RunKind) * len(RunOutcome)
    assert only(samples, "last_run_committed") == {"cutover app": 0, "revert app": 1}
    assert only(samples, "last_run_pause_seconds") == {"cutover app": 0, "revert app": 0.0075}
    assert only(samples, "last_run_start_timestamp_seconds") == pytest.approx(
        {"cutover app": first.started_at.timestamp() + 3600, "revert app": first.started_at.timestamp()}
    )
    expected = {
        "duration_seconds": 0.81234567,
        "hold_p50_seconds": 0.0115,
        "hold_p99_seconds": 0.01875,
        "hold_max_seconds": 0.019125,
        "clients_held": 64,
        "transactions_waited": 3,
        "sessions_closed": 1,
    }
    assert {name: only(samples, f"last_run_{name}")["revert app"] for name in expected} == expected


async def test_no_run_yet(subject: Metrics) -> None:
    """The counts begin at zero, so that an increase is seen; there are no figures of a run that never was."""
    samples = await scrape(subject)
    assert set(only(samples, "runs_total").values()) == {0}
    assert [key for key in samples if key[0].startswith("last_run_")] == []


async def test_a_side_that_went_away_does_not_take_its_runs_along(subject: Metrics, moves: Moves) -> None:
    moves.runs = [example_report()]
    await scrape(subject)
    moves.runs = []
    assert only(await scrape(subject), "runs_total")["cutover committed app"] == 1
