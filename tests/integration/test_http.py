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
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        finally:
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
        assert (before["clients app"], before["clients app_next"], before["clients_waiting app"]) == (1, 0, 0)
        assert (before["links app idle"], before["links app active"], before["links app login"]) == (1, 0, 0)
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
        assert replicating["runs_total cutover committed app"] == 0

        await daemon.command("CUTOVER")
        moved = await figures(daemon)
        [run] = await daemon.command("SHOW CUTOVER_HISTORY")
        await client.close()
    assert (moved["phase app moved"], moved["phase app replicating"]) == (1, 0)
    assert moved["epoch app"] == replicating["epoch app"] + 1
    assert moved["runs_total cutover committed app"] == 1
    assert moved["last_run_committed cutover app"] == 1
    assert moved["last_run_pause_seconds cutover app"] == pytest.approx(float(run["pause_ms"]) / 1000, abs=1e-3)
    assert moved["last_run_duration_seconds cutover app"] > moved["last_run_pause_seconds cutover app"] > 0
    assert moved["replication_lag_bytes reverse app"] >= 0
    assert "replication_lag_bytes forward app" not in moved


async def test_held_clients_are_seen(pair: Pair, tmp_path: Path) -> None:
    async with Daemon(pair, tmp_path / "daemon", DaemonOptions(http={})) as daemon:
        client = await daemon.connect()
        await daemon.command("PAUSE app")
        request = asyncio.create_task(client.fetchval("SELECT 1"))

        async def waiting() -> bool:
            return (await figures(daemon))["clients_waiting app"] == 1

        await eventually(waiting, "the client is seen waiting")
        held = await figures(daemon)
        assert (held["gate app closed"], held["gate app open"]) == (1, 0)
        assert held["client_longest_wait_seconds app"] > 0
        await daemon.command("RESUME app")
        assert await request == 1
        free = await figures(daemon)
        assert free["clients_waiting app"] == 0
        assert free["client_wait_seconds_total app"] >= held["client_longest_wait_seconds app"]
        await client.close()


async def test_a_pair_without_a_move(pair: Pair, tmp_path: Path) -> None:
    async with Daemon(pair, tmp_path / "daemon", DaemonOptions(http={})) as daemon:
        found = await figures(daemon)
        assert found["phase app idle"] == 1
        assert [name for name in found if name.startswith(("replication_", "epoch", "last_run_"))] == []
        assert await readiness(daemon) == (200, {"ready": True, "reasons": []})
        health = await get(daemon, "/healthz")
        assert (health.status, health.body) == (200, "ok\n")
        assert (await get(daemon, "/healthz", method="HEAD")).status == 200
        assert (await get(daemon, "/healthz", method="POST")).status == 405
        assert (await get(daemon, "/nothing")).status == 404


async def test_not_ready_while_it_is_not_known_who_serves(pair: Pair, cables: dict[str, Cable], tmp_path: Path) -> None:
    await replicate_directly(pair)
    for cable in cables.values():
        cable.cut()
    async with Daemon(pair, tmp_path / "daemon", options(cables)) as daemon:
        status, body = await readiness(daemon)
        assert (status, body["ready"]) == (503, False)
        [reason] = body["reasons"]
        assert reason.startswith('it is not known who serves "app": neither "app"')
        assert (await get(daemon, "/healthz")).status == 200
        found = await figures(daemon)
        assert found["phase app unknown"] == 1
        assert found["gate app open"] == 0
        assert [name for name in found if name.startswith(("replication_", "epoch", "runs_", "last_run_"))] == []
        for cable in cables.values():
            cable.restore()

        async def ready() -> bool:
            return (await readiness(daemon))[0] == 200

        await eventually(ready, "the node is ready once the databases are back", timeout_s=20)
        assert (await figures(daemon))["phase app replicating"] == 1


async def test_a_destination_that_hangs_costs_its_figures_only(
    pair: Pair, cables: dict[str, Cable], tmp_path: Path
) -> None:
    await replicate_directly(pair)
    async with Daemon(pair, tmp_path / "daemon", options(cables)) as daemon:
        client = await daemon.connect()
        assert (await figures(daemon))["replication_lag_bytes forward app"] >= 0
        cables["destination"].stall()
        connections = cables["destination"].connections
        began = time.monotonic()
        for scrape in await asyncio.gather(*(figures(daemon) for _ in range(5))):
            assert scrape["clients app"] == 1
            assert scrape["phase app replicating"] == 1
            assert [name for name in scrape if name.startswith("replication_lag_bytes")] == []
        assert time.monotonic() - began < SCRAPE_DEADLINE_S
        assert cables["destination"].connections <= connections + 3  # the streams, the history, the watch of the lag
        assert (await get(daemon, "/healthz", timeout_s=2)).status == 200
        assert (await readiness(daemon))[0] == 200
        cables["destination"].resume()
        await client.close()


async def test_a_port_in_use_is_a_clear_error(pair: Pair, tmp_path: Path) -> None:
    daemon = Daemon(pair, tmp_path / "daemon", DaemonOptions(http={}))
    with socket.create_server(("127.0.0.1", daemon.http_port)):
        await daemon.start(expect_exit=True)
    assert daemon.process is not None
    assert daemon.process.returncode == 1
    assert f"[http]: cannot listen on 127.0.0.1:{daemon.http_port}: Address already in use" in daemon.log()
    assert "Traceback" not in daemon.log()


async def test_no_section_no_port(pair: Pair, tmp_path: Path) -> None:
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        with pytest.raises(ConnectionRefusedError):
            await get(daemon, "/healthz")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_before_the_clients_do(pair: Pair, tmp_path: Path, number: signal.Signals) -> None:
    """The signals are the daemon's own: clients have their time, whatever hangs on the HTTP port."""
    settings = DaemonOptions(http={}, general={"shutdown_timeout": 30_000})
    async with Daemon(pair, tmp_path / "daemon", settings) as daemon:
        client = await daemon.connect()
        transaction = client.transaction()
        await transaction.start()
        _, idle = await asyncio.open_connection("127.0.0.1", daemon.http_port)
        _, half = await asyncio.open_connection("127.0.0.1", daemon.http_port)
        half.write(b"GET /metrics HTTP/1.1\r\nHost: loc")
        assert (await get(daemon, "/healthz")).status == 200
        daemon.send_signal(number)

        async def closed() -> bool:
            try:
                await get(daemon, "/healthz")
            except OSError:
                return True
            return False

        await eventually(closed, "the HTTP port is closed")
        assert await client.fetchval("SELECT 1") == 1
        await transaction.rollback()
        await client.close()
        assert await daemon.wait_dead() == 0
        for writer in (idle, half):
            writer.close()
    assert "Traceback" not in daemon.log()
    assert "stopped" in daemon.log()
