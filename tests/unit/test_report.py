"""A report as JSON and back: nothing is lost on the way through the journal."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.api import RunKind, RunOutcome, RunReport, StepRow
from cutover.report import report_from_json, report_json

# What PostgreSQL's jsonb can hold: no NUL, no half of a surrogate pair.
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=20)  # type: ignore[arg-type]
numbers = st.floats(0, 1e9, allow_nan=False)
counts = st.integers(0, 2**40)
steps = st.builds(StepRow, texts, st.sampled_from(["done", "failed", "undone", "skipped"]), numbers, numbers, texts)
reports = st.builds(
    RunReport,
    run_id=st.uuids().map(str),
    kind=st.sampled_from(RunKind),
    source=texts,
    destination=texts,
    started_at=st.datetimes(timezones=st.just(UTC)),
    outcome=st.none() | st.sampled_from(RunOutcome),
    epoch=counts,
    total_ms=numbers,
    pause_ms=numbers,
    clients_held=counts,
    hold_p50_ms=numbers,
    hold_p99_ms=numbers,
    hold_max_ms=numbers,
    transactions_waited=counts,
    sessions_closed=counts,
    round_trips=counts,
    error=texts,
    steps=st.lists(steps, max_size=3),
)


@given(reports)
def test_there_and_back(report: RunReport) -> None:
    assert report_from_json(json.loads(json.dumps(report_json(report)))) == report


def test_every_field_is_kept() -> None:
    report = RunReport("r", RunKind.CUTOVER, "a", "b", datetime(2024, 1, 1, tzinfo=UTC))
    assert set(report_json(report)) == {field.name for field in fields(RunReport)}


def test_the_moment_keeps_its_zone() -> None:
    moment = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    report = RunReport("r", RunKind.REVERT, "a", "b", moment)
    assert report_from_json(report_json(report)).started_at == moment


def test_what_is_no_report_is_refused() -> None:
    raw = report_json(RunReport("r", RunKind.CUTOVER, "a", "b", datetime(2024, 1, 1, tzinfo=UTC)))
    with pytest.raises(ValueError, match="perhaps"):
        report_from_json({**raw, "outcome": "perhaps"})
    with pytest.raises(KeyError):
        report_from_json({})
