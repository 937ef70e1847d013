"""The figures of a table copy: what is an estimate never says that it is done."""

from __future__ import annotations

import pytest

from replication.progress import CopyState, TableCopy, summarize, table_copy
from replication.publications import TableName


def copy(
    state: CopyState = CopyState.COPYING,
    rows: int = 50,
    rows_total: int | None = 100,
    size: int = 5000,
    size_total: int | None = 10000,
    seconds: float | None = 2.0,
) -> TableCopy:
    return table_copy(
        TableName("public", "t"),
        state,
        rows=rows,
        rows_total=rows_total,
        size=size,
        size_total=size_total,
        seconds=seconds,
    )


def test_a_running_copy() -> None:
    running = copy()
    assert (running.percent, running.bytes_per_sec, running.eta_s) == (50.0, 2500.0, 2.0)


def test_more_rows_than_estimated_are_not_all() -> None:
    assert copy(rows=500).percent == 99.9
    assert copy(size=20000).eta_s == 0.0


def test_without_an_estimate_of_rows_the_size_counts_and_without_both_nothing_is_known() -> None:
    assert copy(rows_total=None).percent == 50.0
    assert copy(rows_total=None, size_total=None).percent is None
    assert copy(size_total=None).eta_s is None


@pytest.mark.parametrize("state", [CopyState.READY, CopyState.CATCHING_UP])
def test_what_is_copied_is_copied(state: CopyState) -> None:
    done = copy(state, rows=3, size=10, seconds=None)
    assert (done.percent, done.bytes_per_sec, done.eta_s) == (100.0, None, None)


def test_what_waits_has_no_rate() -> None:
    waiting = copy(CopyState.WAITING, rows=0, size=0, seconds=None)
    assert (waiting.percent, waiting.bytes_per_sec, waiting.eta_s) == (0.0, None, None)


def test_the_sum_of_all() -> None:
    total = summarize([copy(), copy(CopyState.READY, seconds=None), copy(CopyState.WAITING, 0, size=0, seconds=None)])
    assert (total.tables_ready, total.tables_total, total.bytes, total.bytes_total) == (1, 3, 10000, 30000)
    assert total.eta_s == (5000 + 10000) / 2500
    assert total.percent is not None
    assert total.percent < 100
    assert str(total) == "1 of 3 tables ready, 10 kB copied, 33 %, 2 kB/s, about 6 s to go"


def test_a_measured_rate_is_preferred() -> None:
    total = summarize([copy(), copy(CopyState.WAITING, 0, size=0, seconds=None)], bytes_per_sec=1500.0)
    assert (total.bytes_per_sec, total.eta_s) == (1500.0, 10.0)


def test_one_unknown_size_makes_the_sum_unknown() -> None:
    total = summarize([copy(), copy(size_total=None)])
    assert (total.bytes_total, total.percent, total.eta_s) == (None, None, None)


def test_all_ready_is_100_percent() -> None:
    assert summarize([copy(CopyState.READY, size=1)]).percent == 100.0
