"""What the demo computes without a server: keys, records, figures, plots, the JSON file."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from daemon.demo.clients import DRIVERS, ended_connection
from daemon.demo.figures import RunFigures, run_figures
from daemon.demo.latency import between, buckets, percentile, touching
from daemon.demo.ledger import OWN_ACCOUNTS, SHARED_ACCOUNTS, Verdict, entry_for
from daemon.demo.plot_svg import svg_plot
from daemon.demo.plot_text import text_plot
from daemon.demo.records import (
    ClientError,
    ClientRecord,
    Outcome,
    Sample,
    read_records,
    samples,
    write_records,
)
from daemon.demo.report import DemoResult, runs_table, totals_table
from daemon.demo.scale import scale_for
from daemon.demo.workload import WorkloadOptions

HISTORY_ROW = {
    "id": "r1",
    "kind": "cutover",
    "outcome": "committed",
    "pause_ms": "12.5",
    "hold_p50_ms": 3.0,
    "hold_p99_ms": 9.0,
    "hold_max_ms": 12.0,
    "clients_held": "30",
    "sessions_closed": 0,
    "transactions_waited": 4,
    "error": None,
}
STEPS: list[dict[str, Any]] = [
    {"step": "lock", "started_ms": 0.0, "duration_ms": 3.0},
    {"step": "hold", "started_ms": 400.0, "duration_ms": 2.0},
    {"step": "swap", "started_ms": 410.0, "duration_ms": 2.5},
    {"step": "sessions closed", "started_ms": None, "duration_ms": None},
]


def figures(**changes: Any) -> RunFigures:
    return run_figures({**HISTORY_ROW, **changes}, STEPS, sent_s=10.0, answered_s=11.0)


def record(client: int = 1, **changes: Any) -> ClientRecord:
    return ClientRecord(client, "asyncpg plain", **changes)


def test_keys_decide_account_and_amount() -> None:
    quick = [entry_for(client, n) for client in range(1, 30) for n in range(1, 200)]
    assert all(0 <= entry.account < SHARED_ACCOUNTS and 1 <= entry.amount <= 97 for entry in quick)
    assert entry_for(3, 4) == entry_for(3, 4)
    assert max(Counter(entry.account for entry in quick).values()) < 20
    own = {entry_for(client, n, slow=True).account for client in range(5) for n in range(1, 50)}
    assert own == {SHARED_ACCOUNTS + client for client in range(5)}
    assert max(own) < SHARED_ACCOUNTS + OWN_ACCOUNTS


def test_records_survive_the_way_through_a_file(tmp_path: Path) -> None:
    written = record(
        slow=True,
        outcomes=[Outcome.ACKNOWLEDGED.value, Outcome.UNKNOWN.value, Outcome.REFUSED.value],
        errors=[ClientError(1.5, 2, "57P01", 'terminated "now"\n', "write")],
        starts_s=array("d", [1.25, 2.5]),
        latencies_ms=array("d", [0.125, 700.0]),
        connects=2,
        server_versions=[160014, 180004],
    )
    write_records(tmp_path / "r.json", [written])
    assert read_records(tmp_path / "r.json") == [written]


def test_samples_come_in_order_and_by_kind() -> None:
    quick = record(1, starts_s=array("d", [3.0, 1.0]), latencies_ms=array("d", [5.0, 6.0]))
    slow = record(2, slow=True, starts_s=array("d", [2.0]), latencies_ms=array("d", [500.0]))
    assert [sample.start_s for sample in samples([quick, slow])] == [1.0, 2.0, 3.0]
    assert samples([quick, slow], slow=True) == [Sample(2.0, 500.0)]
    assert len(samples([quick, slow], slow=False)) == 2


@pytest.mark.parametrize(
    ("sqlstate", "ended"),
    [
        (None, True),
        ("57P01", True),
        ("57P03", True),
        ("08006", True),
        ("25P03", True),
        ("57014", False),
        ("25006", False),
        ("23505", False),
        ("40001", False),
    ],
)
def test_which_errors_end_a_connection(sqlstate: str | None, ended: bool) -> None:
    error = Exception("x")
    error.sqlstate = sqlstate  # type: ignore[attr-defined]
    assert ended_connection(error) is ended


@pytest.mark.parametrize(
    "damage",
    [
        "lost",
        "duplicated",
        "client_errors",
        "unexpected",
        "altered",
        "wrong_balances",
        "wrong_ids",
    ],
)
def test_any_damage_is_a_no(damage: str) -> None:
    assert Verdict(acknowledged=5, unknown=2).ok
    verdict = Verdict(acknowledged=5)
    setattr(verdict, damage, 1)
    assert not verdict.ok


def test_workload_deals_drivers_evenly() -> None:
    jobs = WorkloadOptions(clients=20, slow_clients=4, tx_per_second=100, numbers_from=50).jobs()
    quick = [job for job in jobs if not job.slow]
    assert Counter(job.driver for job in quick) == dict.fromkeys(DRIVERS, 4)
    assert {job.number for job in jobs} == set(range(50, 74))
    assert {job.habits.interval_s for job in quick} == {0.2}
    assert all(job.habits.interval_s == 0 and job.habits.think_s == 0.25 for job in jobs if job.slow)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1.0) == 100
    assert percentile([7.0], 0.01) == 7.0
    assert math.isnan(percentile([], 0.5))


def test_windows_take_inside_or_touching() -> None:
    held = Sample(1.0, 500.0)
    inside = Sample(2.1, 10.0)
    assert between([held, inside], 2.0, 3.0) == [10.0]
    assert touching([held, inside], 1.4, 1.45) == [500.0]
    assert touching([held, inside], 1.6, 2.0) == []


def test_buckets_hold_every_transaction_once() -> None:
    found = buckets([Sample(0.0, 1.0), Sample(0.9, 3.0), Sample(0.95, 9.0), Sample(5.0, 1.0)], 0.0, 2.0, 2)
    assert [one.count for one in found] == [3, 0]
    assert (found[0].p50_ms, found[0].max_ms) == (3.0, 9.0)
    assert math.isnan(found[1].p50_ms)


def test_scale_holds_all_values() -> None:
    scale = scale_for(buckets([Sample(0.1, 0.7), Sample(0.2, 41.0)], 0.0, 1.0, 1))
    assert scale.low_ms <= 0.7
    assert scale.high_ms >= 41.0
    assert scale.position(scale.low_ms) == 0.0
    assert scale.position(scale.high_ms) == pytest.approx(1.0)
    assert scale.position(1e9) == pytest.approx(1.0)


def test_figures_place_the_hold_by_the_steps() -> None:
    run = figures()
    assert (run.pause_ms, run.clients_held, run.committed) == (12.5, 30, True)
    assert [run.held_begin_s, run.held_end_s] == pytest.approx([10.4, 10.4125])
    unknown = run_figures(HISTORY_ROW, [], sent_s=10.0, answered_s=11.0)
    assert (unknown.held_begin_s, unknown.held_end_s) == (10.0, 11.0)


def result(**changes: Any) -> DemoResult:
    """20 s of one transaction per 10 ms; those of the pause take 13 ms instead of 2."""
    starts = array("d", [index / 100 for index in range(2000)])
    latencies = array("d", [13.0 if 10.39 < start < 10.42 else 2.0 for start in starts])
    traffic = record(starts_s=starts, latencies_ms=latencies, connects=1, server_versions=[160014, 180004])
    made: dict[str, Any] = {
        "source_version": "16.14",
        "destination_version": "18.4",
        "clients": 36,
        "begin_s": 0.0,
        "end_s": 20.0,
        "runs": [figures(), figures(kind="revert")],
        "records": [record(0), traffic],
        "verdict": Verdict(acknowledged=1234),
    }
    return DemoResult(**{**made, **changes})


def rendered(*parts: Any) -> str:
    console = Console(file=io.StringIO(), width=140, color_system=None)
    for part in parts:
        console.print(part)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_json_has_exactly_the_promised_keys() -> None:
    content = result().as_json()
    assert list(content) == [
        "source_version",
        "destination_version",
        "clients",
        "tx_per_second",
        "runs",
        "acknowledged",
        "lost",
        "duplicated",
        "client_errors",
        "verdict",
    ]
    assert list(content["runs"][0]) == [
        "kind",
        "outcome",
        "pause_ms",
        "hold_p50_ms",
        "hold_p99_ms",
        "hold_max_ms",
        "clients_held",
        "sessions_closed",
    ]
    assert content["verdict"] == "ok"
    assert content["tx_per_second"] == 100


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": Verdict(lost=1)},
        {"verdict": Verdict(client_errors=1)},
        {"verdict": Verdict(wrong_balances=1)},
        {"problems": ["the other side differs"]},
        {"runs": [figures()]},
        {"runs": [figures(), figures(kind="revert", outcome="aborted")]},
    ],
)
def test_the_verdict_is_no_for_every_reason(changes: dict[str, Any]) -> None:
    failed = result(**changes)
    assert not failed.ok
    assert failed.as_json()["verdict"] == "failed"


def test_tables_show_pause_and_what_clients_saw() -> None:
    text = rendered(runs_table(result()), totals_table(result()))
    row = next(line for line in text.splitlines() if "cutover" in line)
    assert "12.5" in row
    assert "13.0" in row
    assert "2.0" in row  # the usual p99, without the pause
    assert "16.14 -> 18.4" in text
    assert "1234" in text


def test_terminal_plot_marks_runs_where_they_were() -> None:
    shown = result(runs=[figures()])
    text = text_plot(samples(shown.traffic), shown.runs, 0.0, 20.0, width=110).plain
    lines = text.splitlines()
    marked = next(line for line in lines if "CUTOVER" in line)
    column = marked.index("▲")
    assert column == pytest.approx(10 + 100 * 10.4 / 20, abs=1.5)
    held = [line[column] for line in lines[:12]]
    usual = [line[column + 20] for line in lines[:12]]
    assert "━" in held
    assert "▒" in held
    assert "━" in usual
    assert "▒" not in usual
    assert max(map(len, lines)) <= 110


def test_plots_of_nothing_are_no_accident() -> None:
    assert text_plot([], [], 0.0, 1.0).plain
    ElementTree.fromstring(svg_plot([], [], 0.0, 1.0, "nothing"))


def test_svg_is_xml_with_a_band_per_run() -> None:
    shown = result()
    text = svg_plot(samples(shown.traffic), shown.runs, 0.0, 20.0, "16 -> 18 & back")
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert len([one for one in root.iter(f"{space}rect") if one.get("class") == "run"]) == 2
    labels = [one.text for one in root.iter(f"{space}text") if one.get("class") == "runtext"]
    assert labels == ["CUTOVER, pause 12.5 ms", "REVERT, pause 12.5 ms"]
