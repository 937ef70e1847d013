"""The HTTP port of a real daemon: figures of real traffic and of a real move, health, readiness, start and end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.cable import Cable
from tests.support.daemon import Address, Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair
from tests.support.wait import eventually

SCRAPE_DEADLINE_S = 6.0
"""Two rounds of questions, and what a busy machine adds; less than the 10 s of Prometheus."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str


async def get(daemon: Daemon, path: str, *, method: str = "GET", timeout_s: float = SCRAPE_DEADLINE_S) -> Answer:
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.http_port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
    first, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


async def figures(daemon: Daemon) -> dict[str, float]:
    """By name and values of the labels, in the order of the labels' names."""
    answer = await get(daemon, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        " ".join([sample.name.removeprefix("pgcutover_"), *(value for _, value in sorted(sample.labels.items()))]): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.body)
        for sample in family.samples
    }


async def readiness(daemon: Daemon) -> tuple[int, dict[str, Any]]:
    answer = await get(daemon, "/readyz")
    assert answer.headers["content-type"] == "application/json"
    return answer.status, json.loads(answer.body)


@pytest.fixture
def cables(pair: Pair) -> Iterator[dict[str, Cable]]:
    with Cable(pair.source.host, pair.source.port) as source:
        with Cable(pair.destination.host, pair.destination.port) as destination:
            yield {"source": source, "destination": destination}


def options(cables: dict[str, Cable]) -> DaemonOptions:
    return DaemonOptions(
        http={},
        source=Address("127.0.0.1", cables["source"].port),
        destination=Address("127.0.0.1", cables["destination"].port),
    )


async def test_figures_of_traffic_and_of_a_move(pair: Pair, tmp_path: Path) -> None:
    await pair.both_sql("CREATE TABLE public.t (id int PRIMARY KEY)")
    await replicate_directly(pair)
    async with Daemon(pair, tmp_path / "daemon", DaemonOptions(http={})) as daemon:
        client = await daemon.connect()
        before = await figures(daemon)
        assert (before["clients app"], before["clients app_next"]) == (1, 0)
        assert (before["links idle app"], before["links active app"], before["links login app"]) == (0, 0, 0) or (
            before["links idle app"] + before["links active app"] == 1
        )
        assert before["gate app open"] == 1
        await client.fetchval("SELECT repeat('x', 50000)")
        await client.execute("INSERT INTO public.t VALUES (1)")
        after = await figures(daemon)
        assert after["transactions_total app"] == before["transactions_total app"] + 2
        assert after["queries_total app"] >= before["queries_total app"] + 2
        assert after["sent_bytes_total app"] >= before["sent_bytes_total app"] + 50_000
        assert after["received_bytes_total app"] > before["received_bytes_total app"]

        async def lag_is_known() -> dict[str, float]:
            found = await figures(daemon)
            return found if "replication_lag_seconds forward app" in found else {}

        replicating = await eventually(lag_is_known, "the lag in time is measured", timeout_s=20)
        assert 0 < replicating["replication_lag_seconds forward app"] < 3
        assert 0 <= replicating["replication_lag_bytes forward app"] < 2**30
        assert replicating["phase app replicating"] == 1
        assert replicating["runs_total app committed cutover"[:10] + " committed cutover app"] == 0

        await daemon.command("CUTOVER")
        moved = await figures(daemon)
        [run] = await daemon.command("SHOW CUTOVER_HISTORY")
        await client.close()
    assert (moved["phase app moved"], moved["phase app replicating"]) == (1, 0)
    assert moved["epoch app"] == replicating["epoch app"] + 1
    assert moved["runs_total committed cutover app"] == 1
    assert moved["last_run_committed cutover app"] == 1
    assert moved["last_run_pause_seconds cutover app"] == pytest.approx(float(run["pause_ms"]) / 1000, abs=1e-3)
    assert moved["last_run_pause_seconds cutover app"] > 0
    assert moved["last_run_duration_seconds cutover app"] > moved["last_run_pause_seconds cutover app"]
    assert moved["replication_lag_bytes reverse app"] >= 0
    assert "replication_lag_bytes forward app" not in moved
