"""The workload as its user sees it: start it, look at it, stop it, get the records.

The clients run in processes of their own, so that neither their work nor ours shows up in their latencies.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from .clients import DRIVERS, SLOW_DRIVERS, Target
from .records import ClientRecord, read_records
from .traffic import Habits
from .worker import ClientJob, Job

_READY_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 90.0
_ERROR_TAIL = 3000


class WorkloadFailed(RuntimeError):
    """A worker process ended or did not answer; the text ends with what it wrote to standard error."""


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """How much traffic of which kind.

    Shares are of the quick clients' transactions: reads, writes of one statement, and the rest BEGIN ..
    COMMIT with `think_s` seconds of the application's own between statements, a few milliseconds in all.
    """

    clients: int = 32
    slow_clients: int = 4
    tx_per_second: float = 800.0  # of all quick clients together
    slow_transaction_s: float = 0.5
    read_share: float = 0.2
    statement_share: float = 0.3
    think_s: float = 0.001
    drivers: Sequence[str] = tuple(DRIVERS)
    processes: int = 2
    numbers_from: int = 1

    def jobs(self) -> list[ClientJob]:
        """Quick clients with the drivers in turn, then the slow ones."""
        interval_s = self.clients / self.tx_per_second
        quick = Habits(interval_s, self.read_share, self.statement_share, self.think_s)
        slow = Habits(0.0, 0.0, 0.0, think_s=self.slow_transaction_s / 2)
        first = self.numbers_from
        jobs = [
            ClientJob(number, self.drivers[number % len(self.drivers)], False, quick)
            for number in range(first, first + self.clients)
        ]
        jobs += [
            ClientJob(number, SLOW_DRIVERS[number % len(SLOW_DRIVERS)], True, slow)
            for number in range(first + self.clients, first + self.clients + self.slow_clients)
        ]
        return jobs


@dataclass(frozen=True, slots=True)
class Live:
    """The workload at this moment. `oldest_ms`: how long the quick client waits that has waited longest."""

    transactions: int
    errors: int
    oldest_ms: float


@dataclass(slots=True)
class _Worker:
    process: Process
    records_path: Path
    error_path: Path
    latest: dict[str, Any] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    reader: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            message = json.loads(line)
            if message["state"] == "running":
                self.latest = message
            elif message["state"] == "ready":
                self.ready.set()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def failure(self, what: str) -> WorkloadFailed:
        text = self.error_path.read_text(errors="replace")[-_ERROR_TAIL:]
        return WorkloadFailed(f"a worker of the workload {what}\n{text}")


class Workload:
    """`async with Workload(target, options, directory) as workload:` then `await workload.stop()`."""

    def __init__(self, target: Target, options: WorkloadOptions, directory: Path) -> None:
        self._target = target
        self._options = options
        self._directory = directory
        self._workers: list[_Worker] = []

    async def start(self) -> None:
        """Connect all clients, then let them begin together. Raises WorkloadFailed."""
        jobs = self._options.jobs()
        for index in range(self._options.processes):
            share = tuple(jobs[index :: self._options.processes])
            if share:
                self._workers.append(await self._spawn(index, share))
        for worker in self._workers:
            await self._wait_ready(worker)
        for worker in self._workers:
            worker.tell("go")

    def live(self) -> Live:
        """The sum over the workers, a tenth of a second old at most. Raises WorkloadFailed when one ended."""
        for worker in self._workers:
            if worker.process.returncode is not None:
                raise worker.failure(f"ended with status {worker.process.returncode}")
        latest = [worker.latest for worker in self._workers]
        return Live(
            transactions=sum(one.get("transactions", 0) for one in latest),
            errors=sum(one.get("errors", 0) for one in latest),
            oldest_ms=max((one.get("oldest_ms", 0.0) for one in latest), default=0.0),
        )

    async def stop(self) -> list[ClientRecord]:
        """Let every client finish its transaction; returns all records. Raises WorkloadFailed."""
        for worker in self._workers:
            worker.tell("stop")
        records: list[ClientRecord] = []
        for worker in self._workers:
            try:
                status = await asyncio.wait_for(worker.process.wait(), _STOP_DEADLINE_S)
            except TimeoutError:
                raise worker.failure(f"did not stop within {_STOP_DEADLINE_S:.0f} s") from None
            if status != 0:
                raise worker.failure(f"ended with status {status}")
            records += read_records(worker.records_path)
        await self.kill()
        return sorted(records, key=lambda record: record.client)

    async def kill(self) -> None:
        """End what still runs, without records."""
        for worker in self._workers:
            if worker.process.returncode is None:
                worker.process.kill()
            await worker.process.wait()
            if worker.reader is not None:
                await worker.reader
        self._workers.clear()

    async def __aenter__(self) -> Workload:
        try:
            await self.start()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def _spawn(self, index: int, share: tuple[ClientJob, ...]) -> _Worker:
        records_path = self._directory / f"records-{index}.json"
        error_path = self._directory / f"worker-{index}.log"
        records_path.unlink(missing_ok=True)
        with error_path.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "daemon.demo.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a Ctrl-C in our terminal ends the traffic through us
                env=child_environment(),
            )
        worker = _Worker(process, records_path, error_path)
        worker.reader = asyncio.create_task(worker.follow())
        worker.tell(json.dumps(asdict(Job(self._target, share, str(records_path)))))
        return worker

    async def _wait_ready(self, worker: _Worker) -> None:
        ready = asyncio.create_task(worker.ready.wait())
        assert worker.reader is not None
        await asyncio.wait({ready, worker.reader}, timeout=_READY_DEADLINE_S, return_when="FIRST_COMPLETED")
        if not ready.done():
            ready.cancel()
            raise worker.failure(f"was not ready within {_READY_DEADLINE_S:.0f} s")


def child_environment() -> dict[str, str]:
    """Our environment, with the folder of our packages first: they may run from a checkout."""
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *([inherited] if inherited else [])])}
