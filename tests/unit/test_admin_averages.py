"""admin.averages: figures of the last one to two periods."""

from __future__ import annotations

import asyncio

import pytest

from admin.averages import StatsAverages
from proxy.views import StatsView
from tests.support.wait import eventually


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def stats(scale: int, database: str = "app") -> StatsView:
    return StatsView(
        database,
        xact_count=100 * scale,
        query_count=200 * scale,
        bytes_received=1000 * scale,
        bytes_sent=5000 * scale,
        xact_time_us=30_000 * scale,
        query_time_us=10_000 * scale,
        wait_time_us=500 * scale,
        client_login_count=20 * scale,
        server_assignment_count=10 * scale,
    )


def test_since_the_start_while_there_is_no_period_yet() -> None:
    clock = Clock()
    averages = StatsAverages(clock)
    clock.now_s += 10
    assert averages.averages(stats(1)) == StatsView("app", 10, 20, 100, 500, 300, 50, 50, 2, 1)


def test_old_times_are_forgotten() -> None:
    clock = Clock()
    averages = StatsAverages(clock)
    for scale in (10, 20):
        clock.now_s += 60
        averages.record([stats(scale)])
    clock.now_s += 40
    found = averages.averages(stats(30))
    assert found.xact_count == 20 * 100 / 100
    assert found.xact_time_us == 300
    assert found.wait_time_us == 50


def test_nothing_happened_is_zero_and_not_an_error() -> None:
    clock = Clock()
    averages = StatsAverages(clock)
    assert averages.averages(stats(0)) == stats(0)
    assert averages.averages(stats(1)).xact_count == 0  # no time has passed
    assert averages.overall([]) == stats(0, "")


def test_a_counter_that_went_back_began_again() -> None:
    clock = Clock()
    averages = StatsAverages(clock)
    averages.record([stats(100)])
    averages.record([stats(100)])
    clock.now_s += 10
    assert averages.averages(stats(1)).xact_count == 10


def test_all_databases_together_weigh_by_what_they_did() -> None:
    clock = Clock()
    averages = StatsAverages(clock)
    clock.now_s += 10
    slow = StatsView("b", 100, 0, 0, 0, 90_000, 0, 0, 0, 0)
    assert averages.overall([stats(1), slow]).xact_time_us == 600
    assert averages.overall([stats(1), slow]).xact_count == 20


async def test_it_takes_snapshots_by_itself() -> None:
    clock = Clock()
    averages = StatsAverages(clock)
    asked = 0

    def counters() -> list[StatsView]:
        nonlocal asked
        asked += 1
        return [stats(10)]

    task = asyncio.create_task(averages.run(counters, period_s=0.001))
    try:
        await eventually(lambda: asked >= 2, "two snapshots")
    finally:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    clock.now_s += 10
    assert averages.averages(stats(10)) == StatsView("app", *([0] * 9))
