"""A process that runs a share of the workload's clients: `python -m daemon.demo.worker`.

Standard input takes one line of JSON with the job, then `go`, then `stop`; its end means stop, too, so a
parent that dies leaves nothing behind. Standard output gives one line of JSON per tenth of a second. The
records go to the file that the job names.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from .clients import DRIVERS, Target
from .records import ClientRecord, write_records
from .traffic import Habits, TrafficClient

_REPORT_S = 0.1
_LAST_TRANSACTION_S = 30.0
# A herd of simultaneous logins with SCRAM would only measure the hash function.
_CONNECTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class ClientJob:
    """One client of a worker."""

    number: int
    driver: str
    slow: bool
    habits: Habits


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told."""

    target: Target
    clients: tuple[ClientJob, ...]
    records_path: str


def job_from_json(text: str) -> Job:
    raw = json.loads(text)
    return Job(
        target=Target(**raw["target"]),
        clients=tuple(ClientJob(**{**one, "habits": Habits(**one["habits"])}) for one in raw["clients"]),
        records_path=raw["records_path"],
    )


async def work(job: Job, next_line: Callable[[], Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Connect all clients, wait for `go`, run until `stop`, write the records."""
    clients = [
        TrafficClient(
            DRIVERS[one.driver](job.target, one.number),
            one.habits,
            ClientRecord(one.number, one.driver, slow=one.slow),
        )
        for one in job.clients
    ]
    await _connect_all(clients)
    say({"state": "ready"})
    stopping = asyncio.Event()
    if await next_line() == "go":
        reporting = asyncio.create_task(_report(clients, say))
        tasks = [asyncio.create_task(client.run(stopping)) for client in clients]
        await next_line()
        stopping.set()
        await _finish(clients, tasks)
        reporting.cancel()
    write_records(Path(job.records_path), [client.record for client in clients])
    say({"state": "done"})


async def _connect_all(clients: Sequence[TrafficClient]) -> None:
    permits = asyncio.Semaphore(_CONNECTS_AT_ONCE)

    async def connect(client: TrafficClient) -> None:
        async with permits:
            await client.connect()

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(connect(client))


async def _finish(clients: Sequence[TrafficClient], tasks: Sequence[asyncio.Task[None]]) -> None:
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=_LAST_TRANSACTION_S)
    for client, task in zip(clients, tasks, strict=True):
        if task in late:
            client.give_up(_LAST_TRANSACTION_S)
            task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()  # a mistake in the workload itself must not look like a quiet client


async def _report(clients: Sequence[TrafficClient], say: Callable[[dict[str, Any]], None]) -> None:
    while True:
        await asyncio.sleep(_REPORT_S)
        now = time.monotonic()
        busy = [
            now - client.busy_since_s
            for client in clients
            if client.busy_since_s is not None and not client.record.slow
        ]
        say(
            {
                "state": "running",
                "transactions": sum(len(client.record.starts_s) for client in clients),
                "errors": sum(len(client.record.errors) for client in clients),
                "oldest_ms": round(max(busy, default=0.0) * 1000, 1),
            }
        )


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def next_line() -> str:
        return (await reader.readline()).decode().strip()

    def say(message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    await work(job_from_json(await next_line()), next_line, say)


if __name__ == "__main__":
    uvloop.run(_main())
