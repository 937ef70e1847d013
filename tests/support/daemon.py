"""A `pgcutover serve` of its own for a test: configuration files, console, log, signals, kill -9, restart."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import tomli_w

from daemon.demo.embedded import free_port
from replication import streams
from replication.control_schema import ServingState, install
from replication.endpoint import Endpoint
from tests.support.databases import Pair
from tests.support.wait import eventually

ADMIN_PASSWORD = "console-secret"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a test wants the daemon to find a server; a Cable in between has its own."""

    host: str
    port: int


@dataclass
class DaemonOptions:
    general: dict[str, Any] = field(default_factory=dict)
    users: Sequence[str] = ("postgres",)
    source: Address | None = None
    destination: Address | None = None
    failpoint: str = ""
    http: Mapping[str, Any] | None = None
    """What [http] says; empty: 127.0.0.1 and the daemon's `http_port`. None: no such section."""
    environment: Mapping[str, str] = field(default_factory=dict)


class Daemon:
    """The daemon for one pair: clients ask for "app", the other side is "app_next". Trust on all sides."""

    def __init__(self, pair: Pair, directory: Path, options: DaemonOptions | None = None) -> None:
        self.pair = pair
        self.options = options or DaemonOptions()
        self.directory = directory
        self.port = free_port()
        self.http_port = free_port()
        self.config_path = directory / "pgcutover.toml"
        self.users_path = directory / "users.toml"
        self.log_path = directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.write_files()

    # -- files -------------------------------------------------------------------------------------------------

    def write_files(self) -> None:
        source = self.options.source or Address(self.pair.source.host, self.pair.source.port)
        destination = self.options.destination or Address(self.pair.destination.host, self.pair.destination.port)
        config: dict[str, Any] = {
            "general": {
                "host": "127.0.0.1",
                "port": self.port,
                "auth_type": "trust",
                "log_level": "debug",
                "shutdown_timeout": 1000,
                # The servers are shared with other tests, whose WAL counts as lag too.
                "cutover_traffic_stop_threshold": 200_000_000,
                **self.options.general,
            },
            "admin": {"password": ADMIN_PASSWORD},
            "databases": [
                self._database("app", source),
                self._database("app_next", destination),
            ],
            "cutover": [
                {
                    "source": "app",
                    "destination": "app_next",
                    "user": "postgres",
                    # The servers reach each other directly, whatever the daemon goes through.
                    "source_replication_host": self.pair.source.host,
                    "source_replication_port": self.pair.source.port,
                    "destination_replication_host": self.pair.destination.host,
                    "destination_replication_port": self.pair.destination.port,
                }
            ],
        }
        if self.options.http is not None:
            config["http"] = {"host": "127.0.0.1", "port": self.http_port, **self.options.http}
        users = [{"name": user, "database": name} for user in self.options.users for name in ("app", "app_next")]
        self.config_path.write_text(tomli_w.dumps(config))
        self.users_path.write_text(tomli_w.dumps({"users": users}))

    def _database(self, name: str, address: Address) -> dict[str, Any]:
        return {
            "name": name,
            "host": address.host,
            "port": address.port,
            "database_name": self.pair.database,
            "sslmode": "disable",
        }

    # -- process -----------------------------------------------------------------------------------------------

    async def start(self, *, failpoint: str | None = None, expect_exit: bool = False) -> None:
        """Start and wait until it listens. With `expect_exit` until it has ended instead."""
        environment = {**os.environ, **self.options.environment}
        environment["PGCUTOVER_FAILPOINT"] = self.options.failpoint if failpoint is None else failpoint
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon.cli", "serve", "--config", str(self.config_path)],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        process = self.process
        if expect_exit:
            await eventually(lambda: process.poll() is not None, "the daemon ends", timeout_s=30)
            return
        await eventually(self._listens, f"the daemon listens\n{self.log()}", timeout_s=30)

    async def _listens(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process and self.process.returncode}\n{self.log()}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)

    async def wait_dead(self, timeout_s: float = 30) -> int:
        process = self.process
        assert process is not None
        await eventually(lambda: process.poll() is not None, "the daemon ends", timeout_s=timeout_s)
        return process.returncode

    async def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                await self.wait_dead(timeout_s=20)
            except AssertionError:
                self.kill()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")[-20000:] if self.log_path.exists() else ""

    # -- clients -----------------------------------------------------------------------------------------------

    async def connect(self, database: str = "app", user: str = "postgres", **options: Any) -> Any:
        """An asyncpg connection through the proxy; the test closes it."""
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=user, database=database, timeout=15, **options
        )

    async def console(self) -> Any:
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, user="admin", password=ADMIN_PASSWORD, database="admin", timeout=15
        )

    async def command(self, sql: str, timeout_s: float = 60) -> list[dict[str, Any]]:
        """Run one console command on a connection of its own. Raises asyncpg.PostgresError as the console sends it."""
        connection = await self.console()
        try:
            async with asyncio.timeout(timeout_s):
                return [dict(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close(timeout=5)

    async def __aenter__(self) -> Daemon:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()


async def replicate_directly(pair: Pair, name: str = "app") -> None:
    """What REPLICATE leaves behind, made by hand for databases whose schema is on both sides already: control
    schemas, publication, slot, a subscription that is in sync. For tests of what comes after it."""
    source, destination = await pair.source_session(), await pair.destination_session()
    here = await install(source, ServingState.SERVING)
    there = await install(destination, ServingState.REPLICA)
    for session in (source, destination):
        await session.execute("UPDATE pgcutover.identity SET move_origin = $1, move_target = $2", here.uuid, there.uuid)
    names = streams.stream_names(name, streams.Direction.FORWARD)
    publisher: Endpoint = pair.source
    await streams.ensure_publication(source, names.publication)
    await streams.create_slot(publisher, names.slot)
    await streams.create_subscription(destination, publisher, names, enabled=True, copy_data=True)

    async def in_sync() -> bool:
        return (await streams.stream_health(destination, source, names)).state == "streaming"

    began = time.monotonic()
    await eventually(in_sync, "all tables are in sync", timeout_s=30)
    await destination.execute("ANALYZE")
    assert time.monotonic() - began < 30
    for session in (source, destination):
        await session.close()
