"""Go, or the reasons why not: every fact alone can stop a run, and what is not known always does."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from cutover.readiness import Facts, not_ready

GOOD = Facts(
    blocking=(),
    subscription_enabled=True,
    worker_running=True,
    tables_not_ready=0,
    lag_bytes=1000,
    lag_threshold_bytes=1000,
    marker_ms=400.0,
    marker_limit_ms=400.0,
    sessions_on_destination=0,
)

REASONS: list[tuple[str, Any, str]] = [
    ("subscription_enabled", None, "does not exist"),
    ("subscription_enabled", False, "is disabled"),
    ("worker_running", None, "worker is not running"),
    ("worker_running", False, "worker is not running"),
    ("tables_not_ready", None, "state of the tables is not known"),
    ("tables_not_ready", 3, "3 tables are not in sync"),
    ("lag_bytes", None, "lag is not known"),
    ("lag_bytes", 1001, "1001 bytes, above cutover_traffic_stop_threshold (1000)"),
    ("marker_ms", None, "did not arrive"),
    ("marker_ms", 401.0, "took 401 ms to arrive; the pause has room for 400 ms"),
    ("sessions_on_destination", 2, "2 clients are connected to the destination"),
    ("blocking", ("T01 app: no key",), "T01 app: no key"),
]


def test_good_facts_are_a_go() -> None:
    assert not_ready(GOOD) == []
    assert not_ready(replace(GOOD, lag_bytes=0, marker_ms=0.0)) == []


@pytest.mark.parametrize(("fact", "value", "reason"), REASONS)
def test_each_fact_alone_stops_a_run(fact: str, value: Any, reason: str) -> None:
    [found] = not_ready(replace(GOOD, **{fact: value}))
    assert reason in found


def test_no_fact_is_left_out() -> None:
    assert {fact for fact, _, _ in REASONS} == {f.name for f in fields(Facts)} - {
        "lag_threshold_bytes",
        "marker_limit_ms",
    }


def test_whatever_may_be_unknown_stops_a_run() -> None:
    optional = [f.name for f in fields(Facts) if "None" in str(f.type)]
    assert len(optional) == 5
    for name in optional:
        assert not_ready(replace(GOOD, **{name: None})), name  # type: ignore[arg-type]


def test_all_reasons_are_told_the_stream_first() -> None:
    reasons = not_ready(
        Facts(("T01 x: y", "T02 x: y"), None, None, None, None, 0, None, 0.0, 1),
    )
    assert len(reasons) == 7
    assert "subscription" in reasons[0]
    assert reasons[-2:] == ["T01 x: y", "T02 x: y"]


def test_a_worker_is_not_asked_for_where_the_subscription_is_off() -> None:
    assert not_ready(replace(GOOD, subscription_enabled=False, worker_running=False)) == [
        "the subscription is disabled"
    ]
