"""A daemon that only carries traffic: any number of databases, no pair, nothing to move."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tomli_w

from daemon.demo.embedded import EmbeddedPostgres, free_port
from tests.support.daemon import ADMIN_PASSWORD, Daemon, DaemonOptions
from tests.support.wait import eventually

# What the log says only where something went wrong that nobody foresaw.
_FAULTS = (
    "Traceback",
    "connection_failed_unexpectedly",
    "never retrieved",
    "was destroyed but it is pending",
    "Fatal error",
    "failed by a fault",
    "ended by a fault",
    "Exception ignored",
    "ResourceWarning",
)


@dataclass(frozen=True, slots=True)
class Leads:
    """Where one name of the proxy leads; `extra` are more keys of its [[databases]] entry."""

    host: str
    port: int
    database: str = "postgres"
    extra: Mapping[str, Any] | None = None


def leads_to(server: EmbeddedPostgres, database: str = "postgres", **extra: Any) -> Leads:
    return Leads(server.host, server.port, database, extra)


class PlainProxy(Daemon):
    """`databases` by the name clients ask for. Everybody in `users` may log in to each, without a password."""

    def __init__(
        self,
        databases: Mapping[str, Leads],
        directory: Path,
        general: Mapping[str, Any] | None = None,
        *,
        users: Sequence[Mapping[str, Any]] = ({"name": "postgres"},),
    ) -> None:
        self.databases = dict(databases)
        self.users = users
        self.options = DaemonOptions(
            general=dict(general or {}),
            # Sockets and files that nobody closed are named in the log.
            environment={"PYTHONWARNINGS": "always::ResourceWarning"},
        )
        self.directory = directory
        self.port = free_port()
        self.config_path = directory / "pgcutover.toml"
        self.users_path = directory / "users.toml"
        self.log_path = directory / "daemon.log"
        self.process = None
        directory.mkdir(parents=True, exist_ok=True)
        self.write_files()

    def write_files(self) -> None:
        config = {
            "general": {
                "host": "127.0.0.1",
                "port": self.port,
                "auth_type": "trust",
                "log_level": "debug",
                "shutdown_timeout": 1000,
                **self.options.general,
            },
            "admin": {"password": ADMIN_PASSWORD},
            "databases": [
                {
                    "name": name,
                    "host": there.host,
                    "port": there.port,
                    "database_name": there.database,
                    "sslmode": "disable",
                    **(there.extra or {}),
                }
                for name, there in self.databases.items()
            ],
        }
        users = [{**user, "database": name} for user in self.users for name in self.databases]
        self.config_path.write_text(tomli_w.dumps(config))
        self.users_path.write_text(tomli_w.dumps({"users": users}))

    # -- for fixtures that outlive one event loop ------------------------------------------------------------

    def start_now(self) -> None:
        asyncio.run(self.start())

    def stop_now(self) -> None:
        asyncio.run(self.stop())
        assert self.faults() == []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        if exc[0] is None:
            assert self.faults() == []

    # -- what a test looks at --------------------------------------------------------------------------------

    def whole_log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def faults(self) -> list[str]:
        """Lines of the log that must not be there."""
        return [line for line in self.whole_log().splitlines() if any(word in line for word in _FAULTS)]

    async def clients(self) -> list[dict[str, Any]]:
        """SHOW CLIENTS without the console's own."""
        return [row for row in await self.command("SHOW CLIENTS") if row["database"] != "admin"]

    async def servers(self) -> list[dict[str, Any]]:
        return await self.command("SHOW SERVERS")

    async def nobody_left(self, timeout_s: float = 10) -> None:
        """Until no client and no link is left."""

        async def empty() -> bool:
            return not await self.clients() and not await self.servers()

        await eventually(empty, "no client and no link left", timeout_s=timeout_s)

    async def sockets(self) -> int:
        """Sockets that the daemon has open."""
        assert self.process is not None
        folder = f"/proc/{self.process.pid}/fd"
        return sum(1 for name in os.listdir(folder) if _is_socket(f"{folder}/{name}"))

    def resident_bytes(self) -> int:
        """Memory of the daemon now (proc(5), VmRSS)."""
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        """The most memory it ever had since `forget_peak` (VmHWM)."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        assert self.process is not None
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> int:
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {key} in /proc/{self.process.pid}/status")


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:
        return False
