"""The command line from end to end: a daemon without databases, and other processes that command it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.wait import eventually

ROOT = Path(__file__).parents[2]


@dataclass
class Daemon:
    process: subprocess.Popen[bytes]
    config: Path
    manager: socket.socket
    """The service manager's end of NOTIFY_SOCKET."""

    def heard(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.manager.recv(4096).decode().split("\n"))

    def heard_until(self, key: str) -> dict[str, str]:
        """The next message with that key; status lines in between may come or not."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            message = self.heard()
            if key in message:
                return message
        raise AssertionError(f"no {key} within 10 s")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "daemon.cli", *arguments, "--config", str(self.config)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    config = tmp_path / "pgcutover.toml"
    config.write_text(f'[general]\nhost = "127.0.0.1"\nport = {port}\n[admin]\npassword = "it\'s secret"\n')
    (tmp_path / "users.toml").write_text("")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(20)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon.cli", "serve", "--config", str(config)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
    found = Daemon(process, config, manager)
    try:
        found.heard_until("READY")
        yield found
    finally:
        process.kill()
        process.wait(10)
        manager.close()


def test_show_and_errors(daemon: Daemon) -> None:
    shown = daemon.run("show", "version", "--json")
    assert shown.returncode == 0, shown.stderr
    [row] = json.loads(shown.stdout)["rows"]
    assert str(row["version"]).startswith("pgcutover ")
    wrong = daemon.run("show", "version", "--password", "wrong")
    assert wrong.returncode == 1
    assert "password authentication failed" in wrong.stderr
    assert "it's secret" not in wrong.stderr
    nothing = daemon.run("cutover")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr.startswith("ERROR:  ")


def test_set_and_reload(daemon: Daemon) -> None:
    assert daemon.run("set", "query_timeout", "1234").returncode == 0
    rows = json.loads(daemon.run("show", "config", "--json").stdout)["rows"]
    assert {row["key"]: row["value"] for row in rows}["query_timeout"] == "1234"
    reloaded = daemon.run("reload")
    assert reloaded.returncode == 0
    assert "general.query_timeout: 1234 -> 0" in reloaded.stderr
    daemon.config.write_text(daemon.config.read_text() + "[[database]]\n")
    refused = daemon.run("reload", "--password", "it's secret")
    assert refused.returncode == 1
    assert "database: unknown section; did you mean [[databases]]?" in refused.stderr


async def test_the_service_manager_hears_of_a_reload_and_of_the_end(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGHUP)
    assert int(daemon.heard_until("RELOADING")["MONOTONIC_USEC"]) > 0
    daemon.heard_until("READY")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.heard_until("STOPPING")
    await eventually(lambda: daemon.process.poll() is not None, "the daemon to end")
    assert daemon.process.returncode == 0


async def test_shutdown_is_a_yes(daemon: Daemon) -> None:
    ended = daemon.run("shutdown")
    assert ended.returncode == 0, ended.stderr
    await eventually(lambda: daemon.process.poll() is not None, "the daemon to end")
    assert daemon.process.returncode == 0
