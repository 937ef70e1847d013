"""Verbs: the command they send, where they connect, what they print, and the exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import daemon.console_client
from admin.commands import COMMANDS
from admin.parser import parse_script
from daemon import output
from daemon.cli import app
from daemon.console_client import Answer, ConnectionBroken, ConsoleFailure, Door, Row
from daemon.verbs import nothing_blocks, run_committed, sentence, show_sentence

STEPS = ("step", "status", "started_ms", "duration_ms", "detail")
COMMITTED = Answer(
    STEPS,
    [
        {"step": "hold", "status": "done", "started_ms": 0.0, "duration_ms": 3.25, "detail": ""},
        {"step": "pause", "status": "total", "started_ms": None, "duration_ms": 19.5, "detail": "19.5 ms"},
    ],
)


class FakeConsole:
    """Stands for the daemon: remembers what it was asked, answers what it was told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Door, str]] = []
        self.notices: list[str] = []
        self.answer: Answer | BaseException = Answer((), [])

    async def ask(self, door: Door, command: str, notify: Callable[[str], None]) -> Answer:
        self.asked.append((door, command))
        for notice in self.notices:
            notify(notice)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeConsole:
    fake = FakeConsole()
    monkeypatch.setattr(daemon.console_client, "ask", fake.ask)
    monkeypatch.delenv("PGCUTOVER_ADMIN_PASSWORD", raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


def run(*arguments: str, environ: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, arguments, env=environ)


# What is sent

COMMAND_LINES = [
    (["check"], "CHECK"),
    (["replicate", "app"], 'REPLICATE "app"'),
    (["cutover", "My App"], 'CUTOVER "My App"'),
    (["revert", 'quo"te'], 'REVERT "quo""te"'),
    (["complete"], "COMPLETE"),
    (["reset"], "RESET"),
    (["show", "cutover"], "SHOW CUTOVER"),
    (["show", "cutover_history", "app"], 'SHOW CUTOVER_HISTORY "app"'),
    (["show", "Clients"], "SHOW CLIENTS"),
    (["pause"], "PAUSE"),
    (["pause", "app"], 'PAUSE "app"'),
    (["resume", "app"], 'RESUME "app"'),
    (["reconnect"], "RECONNECT"),
    (["wait-close"], "WAIT_CLOSE"),
    (["kill", "app"], 'KILL "app"'),
    (["maintenance", "on"], "MAINTENANCE ON"),
    (["maintenance", "off", "app"], 'MAINTENANCE OFF "app"'),
    (["disable", "app"], 'DISABLE "app"'),
    (["enable", "app"], 'ENABLE "app"'),
    (["set", "query_timeout", "5"], "SET \"query_timeout\" = '5'"),
    (["set", "log_level", "it's"], "SET \"log_level\" = 'it''s'"),
    (["reload"], "RELOAD"),
    (["shutdown"], "SHUTDOWN"),
    (["shutdown", "--wait", "clients"], "SHUTDOWN WAIT_FOR_CLIENTS"),
    (["shutdown", "--wait", "servers"], "SHUTDOWN WAIT_FOR_SERVERS"),
]


@pytest.mark.parametrize(("arguments", "command"), COMMAND_LINES)
def test_the_command_that_is_sent(console: FakeConsole, arguments: list[str], command: str) -> None:
    console.answer = COMMITTED
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert [sent for _, sent in console.asked] == [command]


@pytest.mark.parametrize("command", [command for _, command in COMMAND_LINES])
def test_the_console_knows_every_command_that_is_sent(command: str) -> None:
    assert len(parse_script(command)) == 1


def test_everything_that_show_can_show_is_within_reach() -> None:
    shown = [command.words[1] for command in COMMANDS if command.words[0] == "SHOW" and len(command.words) == 2]
    assert "CUTOVER" in shown
    for what in shown:
        assert show_sentence(what.lower(), None) == sentence(f"SHOW {what}", None) == f"SHOW {what}"


@pytest.mark.parametrize("what", ["clients; CUTOVER", "", '"x"', "a b", "1"])
def test_show_takes_one_word(console: FakeConsole, what: str) -> None:
    with pytest.raises(typer.BadParameter):
        show_sentence(what, None)
    assert run("show", what).exit_code == 2
    assert console.asked == []


@pytest.mark.parametrize("arguments", [["maintenance"], ["maintenance", "maybe"], ["show"], ["set", "a"], ["enable"]])
def test_incomplete_commands_are_not_sent(console: FakeConsole, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2
    assert console.asked == []


# Where it connects


def test_defaults_and_options(console: FakeConsole) -> None:
    run("reload", environ={"PGCUTOVER_ADMIN_PASSWORD": "from-environment"})
    options = ["--host", "h", "--port", "7", "--user", "u", "--database", "d", "--password", "p"]
    run("reload", *options, environ={"PGCUTOVER_ADMIN_PASSWORD": "from-environment"})
    run("reload", "--password-env", "OTHER", environ={"OTHER": "other"})
    run("reload")
    assert [door for door, _ in console.asked] == [
        Door("127.0.0.1", 6432, "admin", "admin", "from-environment"),
        Door("h", 7, "u", "d", "p"),
        Door("127.0.0.1", 6432, "admin", "admin", "other"),
        Door("127.0.0.1", 6432, "admin", "admin", None),
    ]


@pytest.mark.parametrize(
    ("listening", "host"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("*", "127.0.0.1"),
        ("::", "::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("/run/x", "/run/x"),
    ],
)
def test_the_configuration_file_says_where(console: FakeConsole, listening: str, host: str) -> None:
    Path("c.toml").write_text(
        f'[general]\nhost = "{listening}"\nport = 7000\n[admin]\nname = "console"\nuser = "root"\npassword = "pw"\n'
    )
    run("reload", "--config", "c.toml")
    run("reload", "--config", "c.toml", "--port", "7001", "--password", "other")
    assert [door for door, _ in console.asked] == [
        Door(host, 7000, "root", "console", "pw"),
        Door(host, 7001, "root", "console", "other"),
    ]


def test_a_configuration_file_with_problems(console: FakeConsole) -> None:
    result = run("reload", "--config", "nope.toml", "--json")
    assert result.exit_code == 1
    assert "nope.toml: there is no such file" in result.stderr
    [problem] = json.loads(result.stdout)["problems"]
    assert problem["file"] == "nope.toml"
    assert console.asked == []


def test_the_password_is_not_shown_by_accident() -> None:
    assert "hunter2" not in repr(Door("h", 1, "u", "d", "hunter2"))


# What comes back


def test_progress_is_on_stderr_and_the_answer_on_stdout(console: FakeConsole) -> None:
    console.notices = ["holding clients", "waiting for 1 transaction"]
    console.answer = COMMITTED
    result = run("cutover")
    assert result.stderr == "holding clients\nwaiting for 1 transaction\n"
    lines = [line.rstrip() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0].split() == list(STEPS)
    assert lines[2].split() == ["hold", "done", "0", "3.25"]
    assert lines[3].split() == ["pause", "total", "19.5", "19.5", "ms"]
    assert lines[-1] == "(2 rows)"


def test_json(console: FakeConsole) -> None:
    console.notices = ["holding clients"]
    console.answer = COMMITTED
    result = run("cutover", "app", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "ok": True,
        "command": 'CUTOVER "app"',
        "notices": ["holding clients"],
        "rows": COMMITTED.rows,
    }


def test_a_command_without_rows(console: FakeConsole) -> None:
    result = run("pause")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "PAUSE: done\n")


FAILED = ConsoleFailure(
    "step hold: 1 transaction did not end within 2000 ms",
    sqlstate="55000",
    detail='Client 7 (alice) was waited for. Traffic flows on "app" again.',
    hint="Try again, or set cutover_transaction_action.",
)


@pytest.mark.parametrize("verb", ["cutover", "revert", "check", "replicate", "pause", "show"])
def test_an_error_is_a_no_with_detail_and_hint(console: FakeConsole, verb: str) -> None:
    console.answer = FAILED
    result = run(verb, *(["cutover"] if verb == "show" else []))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "ERROR:  step hold: 1 transaction did not end within 2000 ms\n"
        'DETAIL:  Client 7 (alice) was waited for. Traffic flows on "app" again.\n'
        "HINT:  Try again, or set cutover_transaction_action.\n"
    )


def test_an_error_as_json(console: FakeConsole) -> None:
    console.answer = FAILED
    result = run("cutover", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "ok": False,
        "command": "CUTOVER",
        "notices": [],
        "error": {
            "sqlstate": "55000",
            "message": FAILED.message,
            "detail": FAILED.detail,
            "hint": FAILED.hint,
        },
    }


def test_an_interrupt_says_that_the_daemon_goes_on(console: FakeConsole) -> None:
    console.answer = KeyboardInterrupt()
    result = run("cutover")
    assert result.exit_code == 130
    assert "pgcutover show cutover" in result.stderr


@pytest.mark.parametrize("gone", [True, False])
def test_a_shutdown_that_ends_our_session_is_a_yes_where_nobody_listens_any_more(
    console: FakeConsole, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    async def is_gone(door: Door) -> bool:
        return gone

    monkeypatch.setattr(daemon.console_client, "is_gone", is_gone)
    console.answer = ConnectionBroken("closed")
    assert run("shutdown").exit_code == (0 if gone else 1)
    result = run("cutover")
    assert result.exit_code == 1
    assert "Whether the command was carried out is not known." in result.stderr


# What is a yes


def _answer(**column: list[str]) -> Answer:
    [(name, values)] = column.items()
    return Answer((name,), [{name: value} for value in values])


@pytest.mark.parametrize(("severities", "verdict"), [([], True), (["info", "warn"], True), (["info", "block"], False)])
def test_a_check_is_a_yes_where_nothing_blocks(console: FakeConsole, severities: list[str], verdict: bool) -> None:
    console.answer = _answer(severity=severities)
    assert nothing_blocks(console.answer) is verdict
    result = run("check", "--json")
    assert result.exit_code == (0 if verdict else 1)
    assert json.loads(result.stdout)["ok"] is verdict


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        (["done", "total"], True),
        (["done", "skipped", "total", "total"], True),
        ([], False),
        (["done"], False),
        (["done", "failed", "total"], True),
        (["done", "failed"], False),
    ],
)
def test_a_run_is_a_yes_only_with_its_figures(console: FakeConsole, statuses: list[str], verdict: bool) -> None:
    console.answer = _answer(status=statuses)
    assert run_committed(console.answer) is verdict
    assert run("cutover").exit_code == run("revert").exit_code == (0 if verdict else 1)


# Tables


def test_a_pipe_gets_whole_lines_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 500 + " [red]end[/red]"
    output.print_rows(("finding", "n", "yes", "none"), [{"finding": long, "n": 1.5, "yes": True, "none": None}])
    printed = capsys.readouterr().out
    assert f"{long}   1.5   yes" in printed
    assert "\x1b" not in printed
    assert printed.endswith("(1 row)\n")


def test_a_narrow_terminal_gets_one_block_per_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    columns = tuple(f"column_{n}" for n in range(12))
    rows: list[Row] = [{name: f"value {name}" for name in columns}]
    output.print_rows(columns, rows)
    printed = capsys.readouterr().out
    assert "row 1" in printed
    for name in columns:
        assert f"value {name}" in printed
    output.print_rows(columns[:2], [{name: "v" for name in columns[:2]}])
    assert "row 1\n" not in capsys.readouterr().out
