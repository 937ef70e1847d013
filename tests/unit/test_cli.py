"""The command line: files, options, and what ends with which exit status."""

from __future__ import annotations

import json
import runpy
import stat
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

import daemon.demo.run
from config.load import load
from config.problems import ConfigError, Problem
from daemon.cli import app
from daemon.demo.run import DemoOptions
from daemon.version import version


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"pgcutover {version()}\n")
    assert version()[0].isdigit()


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in (
        *(
            "serve",
            "check-config",
            "init",
            "demo",
            "check",
            "replicate",
            "cutover",
            "revert",
            "complete",
            "reset",
        ),
        *("show", "pause", "resume", "maintenance", "reload", "reconnect", "kill", "shutdown", "set"),
    ):
        assert f"\n  {command} " in result.stdout


def test_it_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["daemon.cli", "--version"])
    monkeypatch.delitem(sys.modules, "daemon.cli")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("daemon.cli", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("pgcutover ")


# init and check-config


def test_init_writes_files_that_check_config_accepts() -> None:
    result = run("init")
    assert result.exit_code == 0, result.output
    assert "wrote pgcutover.toml and users.toml" in result.stdout
    for name in ("pgcutover.toml", "users.toml"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600
    checked = run("check-config")
    assert (checked.exit_code, checked.stderr) == (0, "")
    assert checked.stdout == "pgcutover.toml and users.toml are fine: 2 databases, 1 pair, 4 user entries\n"


def test_init_makes_a_password_of_its_own() -> None:
    passwords = set()
    for folder in ("one", "two"):
        assert run("init", "--directory", folder).exit_code == 0
        config = load(f"{folder}/pgcutover.toml", f"{folder}/users.toml")
        passwords.add(config.admin.password.get_secret_value())
    assert len(passwords) == 2
    assert all(len(password) >= 20 for password in passwords)


def test_init_overwrites_nothing_unless_forced() -> None:
    Path("users.toml").write_text("mine")
    result = run("init")
    assert result.exit_code == 1
    assert result.stderr == "ERROR:  users.toml is already there; --force overwrites\n"
    assert not Path("pgcutover.toml").exists()
    assert Path("users.toml").read_text() == "mine"
    assert run("init", "--force").exit_code == 0
    assert Path("users.toml").read_text() != "mine"
    assert "pgcutover.toml and users.toml are already there" in run("init").stderr


def test_init_says_where_it_cannot_write() -> None:
    Path("file").write_text("")
    result = run("init", "--directory", "file/inside", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert not answer["ok"]
    assert answer["written"] == []
    assert "cannot write" in answer["error"]


def test_check_config_lists_all_problems() -> None:
    Path("c.toml").write_text("[general]\nport = 0\n")
    Path("users.toml").write_text("[[user]]\n")
    result = run("check-config", "--config", "c.toml")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "note: c.toml can be read by every user of this machine (mode 0644); it holds passwords",
        "note: users.toml can be read by every user of this machine (mode 0644); it holds passwords",
        "c.toml:1: admin: the section is missing; write [admin] with a password (or password_file, or password_env)",
        "c.toml:2: general.port: must be between 1 and 65535, not 0",
        "users.toml:1: user: unknown section; did you mean [[users]]?",
        "3 problems; nothing was started or changed",
    ]


def test_check_config_as_json() -> None:
    Path("c.toml").write_text("[general]\nport = 0\n[admin]\npassword = 'x'\n")
    Path("u.toml").write_text("")
    for path in ("c.toml", "u.toml"):
        Path(path).chmod(0o640)
    result = run("check-config", "--config", "c.toml", "--users", "u.toml", "--json")
    assert result.exit_code == 1
    problem = {
        "file": "c.toml",
        "line": 2,
        "key": "general.port",
        "message": "must be between 1 and 65535, not 0",
    }
    assert json.loads(result.stdout) == {"ok": False, "problems": [problem], "notes": []}
    Path("c.toml").write_text("[admin]\npassword = 'x'\n")
    result = run("check-config", "--config", "c.toml", "--users", "u.toml", "--json")
    assert (result.exit_code, json.loads(result.stdout)["ok"]) == (0, True)


# serve and demo: only the hand-over is ours


def _app(monkeypatch: pytest.MonkeyPatch, answer: int | ConfigError) -> list[tuple[Path, Path]]:
    calls: list[tuple[Path, Path]] = []

    def serve(config: Path, users: Path) -> int:
        calls.append((config, users))
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    module = ModuleType("daemon.app")
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "daemon.app", module)
    return calls


def test_serve_hands_over_the_paths_and_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _app(monkeypatch, 7)
    assert run("serve", "--config", "etc/c.toml").exit_code == 7
    assert run("serve", "--config", "c.toml", "--users", "other/u.toml").exit_code == 7
    assert run("serve").exit_code == 7
    assert calls == [
        (Path("etc/c.toml"), Path("etc/users.toml")),
        (Path("c.toml"), Path("other/u.toml")),
        (Path("pgcutover.toml"), Path("users.toml")),
    ]


def test_serve_lists_the_problems_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    _app(monkeypatch, ConfigError([Problem("c.toml", 3, "general.port", "is wrong")]))
    result = run("serve")
    assert result.exit_code == 1
    assert result.stderr == "c.toml:3: general.port: is wrong\n1 problem; nothing was started or changed\n"


def test_demo_hands_over_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DemoOptions] = []

    async def run_demo(options: DemoOptions) -> int:
        seen.append(options)
        return 3

    monkeypatch.setattr(daemon.demo.run, "run_demo", run_demo)
    assert run("demo").exit_code == 3
    arguments = ["--clients", "5", "--slow-clients", "0", "--json", "f.json", "--svg", "f.svg"]
    assert run("demo", *arguments, "--keep", "--directory", "d").exit_code == 3
    assert seen == [
        DemoOptions(),
        DemoOptions(
            clients=5,
            slow_clients=0,
            json_path=Path("f.json"),
            svg_path=Path("f.svg"),
            keep=True,
            directory=Path("d"),
        ),
    ]
    assert run("demo", "--clients", "0").exit_code == 2


def test_a_demo_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "daemon.demo.run", None)
    result = run("demo")
    assert result.exit_code == 1
    assert 'Install pgcutover with its extra "demo"' in result.stderr
