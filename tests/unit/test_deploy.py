"""What deploy/ ships: examples that load, a unit that systemd accepts, images and files that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from config.load import load
from config.model import General
from daemon.cli import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

# What the daemon allows a move that is under way when it is told to stop, after the time for clients.
MOVE_ENDS_WITHIN_S = 60


def _unit() -> dict[str, list[str]]:
    """All directives of the service file with their values, in order."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "pgcutover.service").read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("folder", [DEPLOY, DEPLOY / "demo"])
def test_the_examples_are_accepted(folder: Path) -> None:
    arguments = ["--config", str(folder / "pgcutover.toml"), "--users", str(folder / "users.toml"), "--json"]
    checked = CliRunner().invoke(app, ["check-config", *arguments])
    assert checked.exit_code == 0, checked.output
    config = load(folder / "pgcutover.toml", folder / "users.toml")
    assert [pair.name for pair in config.cutover] == ["app"]


def test_the_service_stops_no_sooner_than_the_daemon_may_need() -> None:
    [timeout] = _unit()["TimeoutStopSec"]
    assert int(timeout) >= General().shutdown_timeout / 1000 + MOVE_ENDS_WITHIN_S


def test_the_service_notifies_reloads_and_comes_back() -> None:
    unit = _unit()
    assert unit["Type"] == ["notify"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["Restart"] == ["on-failure"]
    assert int(unit["LimitNOFILE"][0]) > 2 * General().max_client_conn
    assert "WatchdogSec" not in unit, "the daemon sends no WATCHDOG=1"


def test_the_service_can_save_its_configuration() -> None:
    """ProtectSystem makes everything read-only; the folder of both files has to be excepted."""
    unit = _unit()
    [command] = unit["ExecStart"]
    written = {str(Path(path).parent) for path in re.findall(r"--(?:config|users) (\S+)", command)}
    assert written <= set(unit["ReadWritePaths"])
    parsed = CliRunner().invoke(app, [*command.split()[1:], "--help"])
    assert parsed.exit_code == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "pgcutover.service").read_text()
    unit = tmp_path / "pgcutover.service"
    # It also looks for the program, which is not installed here.
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_image_runs_the_same_command_as_nobody_special() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM ")] == [
        "FROM python:3.12-slim AS build",
        "FROM python:3.12-slim",
    ]
    assert "USER 6432:6432" in lines
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {line.split()[1] for line in lines if line.startswith("COPY ") and len(line.split()) == 3}
    assert set(packages["packages"]) == copied - {"--from=build"}
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in packages["packages"]} <= set(kept)


def test_the_compose_file_refers_to_files_that_exist() -> None:
    text = (DEPLOY / "compose.demo.yaml").read_text()
    assert re.findall(r"image: (postgres:\d+)", text)[:2] == ["postgres:16", "postgres:18"]
    assert text.count("wal_level=logical") == 2
    mounted = re.findall(r"^ +- (\./[^:]+):", text, flags=re.MULTILINE)
    assert mounted
    for path in mounted:
        assert (DEPLOY / path).exists(), path
    config = load(DEPLOY / "demo" / "pgcutover.toml", DEPLOY / "demo" / "users.toml")
    services = re.findall(r"^  (\w+):$", text, flags=re.MULTILINE)
    assert {database.host for database in config.databases} <= set(services)
    assert f"{config.admin.user}:{config.admin.password.get_secret_value()}@pgcutover:6432/{config.admin.name}" in text
