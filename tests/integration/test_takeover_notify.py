"""LISTEN and NOTIFY across moves: every notification arrives once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.databases import Pair
from tests.support.runs import Stop, figures
from tests.support.takeover import DEADLINE_S, Stage, stage
from tests.support.wait import eventually


class Listener:
    """An idle client, with what it has heard in the order in which it came."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.heard: list[str] = []

    @classmethod
    async def on(cls, on: Stage, *channels: str) -> Listener:
        listener = cls(await on.asyncpg())
        for channel in channels:
            await listener.connection.add_listener(channel, listener._hear)
        return listener

    def _hear(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self.heard.append(f"{channel} {payload}")


async def test_none_lost_none_doubled(pair: Pair, tmp_path: Path) -> None:
    """Two clients notify as fast as they can while traffic moves there and back, twice."""
    async with stage(pair, tmp_path) as on:
        idle = await Listener.on(on, "events", "Odd Channel")
        stop = asyncio.Event()
        sent: dict[int, int] = {}

        async def notify(number: int) -> None:
            client = await on.asyncpg()
            count = 0
            while not stop.is_set():
                await client.execute("SELECT pg_notify('events', $1)", f"{number} {count} " + "x" * (count % 5 * 900))
                count += 1
                sent[number] = count

        notifiers = [asyncio.create_task(notify(number)) for number in (1, 2)]
        for move in (on.cutover, on.revert) * 2:
            before = dict(sent)
            await eventually(lambda b=before: all(sent.get(n, 0) > b.get(n, 0) + 20 for n in (1, 2)), "notifications")
            assert (await move())["sessions closed"] == "0"
        stop.set()
        await asyncio.wait_for(asyncio.gather(*notifiers), DEADLINE_S)
        total = sum(sent.values())
        await eventually(lambda: len(idle.heard) >= total, "the last notification arrives")
        for number in (1, 2):
            counts = [int(line.split()[2]) for line in idle.heard if line.split()[1] == str(number)]
            assert counts == list(range(sent[number])), "lost, doubled or out of order"
        await (await on.asyncpg()).execute("NOTIFY \"Odd Channel\", 'end'")
        await eventually(lambda: idle.heard[-1] == "Odd Channel end", "the other channel is heard too")


async def test_what_was_sent_just_before_the_gate_closed(pair: Pair, tmp_path: Path) -> None:
    """The listener's backend is slow to pass it on: the old link is not left before it has."""
    stop = Stop(tmp_path, "hold", "after")
    async with stage(pair, tmp_path, failpoint=stop.failpoint, cutover_max_pause=20000) as on:
        listener = await Listener.on(on, "events")
        other = await on.asyncpg()
        run = await on.until(stop, "CUTOVER")
        with stopped(listener.connection.get_server_pid()):
            # Everybody is held now. Somebody who goes past the proxy is still there until the fence.
            await pair.source_sql("SELECT pg_notify('events', 'at the gate')")
            held = asyncio.create_task(other.execute("NOTIFY events, 'held'"))
            await eventually(lambda: on.waiting(), "the other client waits")
            stop.open()
            await asyncio.wait([run], timeout=0.5)
            assert not run.done(), run.exception() or run.result()
        assert figures(await run)["sessions closed"] == "0"
        await asyncio.wait_for(held, DEADLINE_S)
        await eventually(lambda: len(listener.heard) >= 2, "both arrive")
        assert listener.heard == ["events at the gate", "events held"]


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_channels_that_change_between_the_twin_and_the_pause(pair: Pair, tmp_path: Path) -> None:
    stop = Stop(tmp_path, "hold")
    async with stage(pair, tmp_path, failpoint=stop.failpoint) as on:
        listener = await Listener.on(on, "dropped", "kept")
        run = await on.until(stop, "CUTOVER")
        await listener.connection.execute("UNLISTEN dropped; LISTEN added")
        stop.open()
        await run
        channels = await listener.connection.fetch("SELECT pg_listening_channels() c ORDER BY 1")
        assert [row["c"] for row in channels] == ["added", "kept"]
        await listener.connection.execute("UNLISTEN *")
        await on.revert()
        assert await listener.connection.fetch("SELECT pg_listening_channels()") == []
