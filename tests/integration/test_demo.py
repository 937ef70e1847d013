"""The demo from end to end: two servers, the daemon as a process, a cutover and a revert under load."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from daemon.demo.run import DemoOptions, run_demo


async def test_demo_moves_there_and_back_without_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = DemoOptions(
        clients=10,
        slow_clients=2,
        tx_per_second=150,
        before_s=1.0,
        between_s=1.5,
        after_s=1.0,
        json_path=tmp_path / "figures.json",
        svg_path=tmp_path / "latency.svg",
        directory=tmp_path / "stage",
    )
    status = await run_demo(options)
    shown = capsys.readouterr().out
    assert status == 0, shown
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["verdict"] == "ok"
    assert [run["kind"] for run in figures["runs"]] == ["cutover", "revert"]
    assert [run["outcome"] for run in figures["runs"]] == ["committed", "committed"]
    assert (figures["lost"], figures["duplicated"], figures["client_errors"]) == (0, 0, 0)
    assert figures["acknowledged"] > 100
    assert figures["source_version"].startswith("16")
    assert figures["destination_version"].startswith("18")
    assert figures["clients"] == 12
    for run in figures["runs"]:
        assert 0 < run["pause_ms"] < 5000
        assert 0 <= run["hold_p50_ms"] <= run["hold_p99_ms"] <= run["hold_max_ms"]
        assert run["clients_held"] >= 1
    ElementTree.parse(tmp_path / "latency.svg")
    assert "clients that had to reconnect" in shown
    assert "PostgreSQL 18 holds the same as PostgreSQL 16, which serves" in shown
