"""The stage: two servers, a database to move, the configuration files, and the daemon as its own process."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import asyncpg
import tomli_w

from .clients import Target
from .embedded import EmbeddedPostgres, free_port
from .ledger import create_ledger
from .operator import CommandFailed, Notice, Operator
from .records import ClientRecord
from .workload import child_environment

SOURCE = "shop"
DESTINATION = "shop_next"
SERVER_DATABASE = "shop"
APP_USER = "shop"

_SERVE_DEADLINE_S = 30.0
_STOP_DEADLINE_S = 20.0
_LOG_TAIL = 4000


class StageFailed(RuntimeError):
    """The daemon did not come up; the text ends with its log."""


@dataclass(frozen=True, slots=True)
class StageOptions:
    """What is put up. fsync stays on: the figures are meant for real disks."""

    source_major: int = 16
    destination_major: int = 18
    connections: int = 100
    seed_rows: int = 50_000
    note_bytes: int = 200
    general: Mapping[str, Any] | None = None  # more keys of [general]


class Stage:
    """`async with Stage(options, directory) as stage:`; a directory that is not given is temporary."""

    def __init__(self, options: StageOptions | None = None, directory: Path | None = None) -> None:
        self.options = options or StageOptions()
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="pgcutover-demo-"))
        self.seed: ClientRecord | None = None
        self._secrets = {name: secrets.token_urlsafe(12) for name in ("superuser", "app", "admin")}
        self.source_server = self._server(self.options.source_major, "source")
        self.destination_server = self._server(self.options.destination_major, "destination")
        self._port = free_port()
        self._http_port = free_port()
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def app(self) -> Target:
        """Where the application connects: the proxy."""
        return Target("127.0.0.1", self._port, SOURCE, APP_USER, self._secrets["app"])

    @property
    def admin(self) -> Target:
        return Target("127.0.0.1", self._port, "admin", "admin", self._secrets["admin"])

    @property
    def servers(self) -> tuple[EmbeddedPostgres, EmbeddedPostgres]:
        return self.source_server, self.destination_server

    async def start(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Make everything. Raises EmbeddedError or StageFailed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for server in self.servers:
            say(f"starting PostgreSQL {server.major}")
            await asyncio.to_thread(server.create)
            await asyncio.to_thread(server.start)
            await self._create_database(server)
        await self._copy_verifiers()
        say(f"filling the ledger with {self.options.seed_rows} rows")
        connection = await self.connect(self.source_server, APP_USER)
        self.seed = await create_ledger(
            connection, seed_rows=self.options.seed_rows, note_bytes=self.options.note_bytes
        )
        await connection.close(timeout=10)
        self._write_configuration()
        say("starting pgcutover")
        await self._serve()

    async def connect(self, server: EmbeddedPostgres, user: str | None = None) -> Any:
        """An asyncpg connection straight to a server, as the superuser or the application."""
        chosen = user or server.superuser
        return await asyncpg.connect(
            host=server.host,
            port=server.port,
            database=SERVER_DATABASE,
            user=chosen,
            password=self._secrets["app"] if chosen == APP_USER else self._secrets["superuser"],
            ssl=False,
            timeout=10,
        )

    async def operator(self, notice: Notice | None = None) -> Operator:
        return await Operator.connect(self.admin, notice)

    def daemon_pid(self) -> int:
        if self._daemon is None:
            raise StageFailed("pgcutover does not run")
        return self._daemon.pid

    def daemon_log(self) -> str:
        path = self.directory / "pgcutover.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def stop(self) -> None:
        """End the daemon and the servers; a temporary directory goes, too."""
        await asyncio.to_thread(self._stop_daemon)
        for server in self.servers:
            await asyncio.to_thread(server.remove)
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def __aenter__(self) -> Stage:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _server(self, major: int, name: str) -> EmbeddedPostgres:
        settings = {
            "wal_level": "logical",
            "max_connections": str(self.options.connections + 50),
            "max_wal_size": "4GB",
        }
        return EmbeddedPostgres(major, self.directory / name, settings=settings, password=self._secrets["superuser"])

    async def _create_database(self, server: EmbeddedPostgres) -> None:
        connection = await asyncpg.connect(server.dsn(), ssl=False, timeout=10)
        try:
            await connection.execute(f"CREATE ROLE {APP_USER} LOGIN PASSWORD '{self._secrets['app']}'")
            await connection.execute(f"CREATE DATABASE {SERVER_DATABASE} OWNER {APP_USER} TEMPLATE template0")
        finally:
            await connection.close(timeout=10)

    async def _copy_verifiers(self) -> None:
        """The same verifiers on both servers, as pg_dumpall --roles-only would leave them."""
        source = await asyncpg.connect(self.source_server.dsn(), ssl=False, timeout=10)
        destination = await asyncpg.connect(self.destination_server.dsn(), ssl=False, timeout=10)
        try:
            for name in (APP_USER, self.source_server.superuser):
                verifier = await source.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", name)
                await destination.execute(f"ALTER ROLE {name} PASSWORD '{verifier}'")
        finally:
            await source.close(timeout=10)
            await destination.close(timeout=10)

    def _write_configuration(self) -> None:
        configuration = {
            "general": {
                "host": "127.0.0.1",
                "port": self._port,
                "max_client_conn": self.options.connections + 20,
                **(self.options.general or {}),
            },
            "admin": {"name": "admin", "user": "admin", "password": self._secrets["admin"]},
            "http": {"host": "127.0.0.1", "port": self._http_port},
            "replication": {"pg_bin_dir": str(self.destination_server.bin_dir)},
            "databases": [
                {
                    "name": name,
                    "host": server.host,
                    "port": server.port,
                    "database_name": SERVER_DATABASE,
                    "sslmode": "disable",
                }
                for name, server in zip((SOURCE, DESTINATION), self.servers, strict=True)
            ],
            "cutover": [{"source": SOURCE, "destination": DESTINATION, "user": self.source_server.superuser}],
        }
        users = [
            {"name": name, "database": database, "password": self._secrets[secret]}
            for database in (SOURCE, DESTINATION)
            for name, secret in ((APP_USER, "app"), (self.source_server.superuser, "superuser"))
        ]
        for name, content in (("pgcutover.toml", configuration), ("users.toml", {"users": users})):
            path = self.directory / name
            path.touch(mode=0o600)
            path.write_text(tomli_w.dumps(content))

    def _spawn_daemon(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "daemon.cli", "serve"]
        command += ["--config", str(self.directory / "pgcutover.toml")]
        command += ["--users", str(self.directory / "users.toml")]
        with (self.directory / "pgcutover.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(),
                start_new_session=True,  # a Ctrl-C in our terminal is not the daemon's
            )

    async def _serve(self) -> None:
        self._daemon = self._spawn_daemon()
        deadline = time.monotonic() + _SERVE_DEADLINE_S
        reason: BaseException | str = "no answer"
        while time.monotonic() < deadline:
            if self._daemon.poll() is not None:
                reason = f"it ended with status {self._daemon.returncode}"
                break
            try:
                operator = await self.operator()
            except CommandFailed as error:
                reason = error
                await asyncio.sleep(0.05)
                continue
            await operator.close()
            return
        raise StageFailed(f"pgcutover did not start: {reason}\n{self.daemon_log()[-_LOG_TAIL:]}")

    def _stop_daemon(self) -> None:
        if self._daemon is None:
            return
        if self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGTERM)
            try:
                self._daemon.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        self._daemon = None
