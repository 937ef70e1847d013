"""The documentation agrees with the code: what it lists, what it links to, what it tells people to type.

Four blocks of docs/OPERATIONS.md are made from the code. `python -m tests.unit.test_docs` writes them again after
a check, a key or a console command has changed.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from admin.commands import COMMANDS
from admin.commands.general import LIVE_KEYS
from admin.commands.moves import figures
from admin.parser import parse_script
from admin.result import Column
from config.fields import CONFIG_SECTIONS, USERS_SECTIONS, FieldSpec, Kind, SectionSpec
from config.model import General
from config.reload import _effect
from cutover.api import RunKind, RunReport
from daemon.cli import app
from daemon.metrics import Snapshot
from replication.preflight import CATALOGUE, Phase
from tests.support.console import STARTED_AT, FakeProxy

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "OPERATIONS.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ["admin", "config", "cutover", "daemon", "proxy", "replication"]

LEVELS = {"debug", "info", "warning", "error", "exception", "log"}

# The proxy and the run report these themselves; they are in no catalogue.
CHECKS_OF_THE_PROXY = {"N00", "P02b", "P03b", "P06"}


# -- blocks made from the code -------------------------------------------------------------------------------------


def checks_block() -> str:
    """The catalogue of CHECK."""
    rows = [("id", "looks at", "worst", "when", "where")]
    for entry in sorted(CATALOGUE.values(), key=lambda entry: entry.id):
        when = "always" if entry.phases == set(Phase) else "after REPLICATE"
        rows.append((entry.id, entry.title, entry.severity.value, when, entry.where.value))
    return _table(rows)


def configuration_block() -> str:
    """Every key of both files."""
    parts = []
    for section in (*CONFIG_SECTIONS, *USERS_SECTIONS):
        rows: list[tuple[str, ...]] = [("key", "value", "default", "meaning", "takes effect")]
        rows += [_key_row(section, field) for field in section.fields.values()]
        file = "users.toml" if section in USERS_SECTIONS else "pgcutover.toml"
        parts.append(f"`{section.header}` in {file}\n\n{_table(rows)}")
    return "\n\n".join(parts)


def console_block() -> str:
    """Every command of SHOW HELP with the columns of its answer."""
    rows = [("command", "does", "columns")]
    for entry in COMMANDS:
        if entry.listed:
            columns = ", ".join(f"`{column.name}`" for column in _answer(entry.syntax))
            rows.append((f"`{entry.syntax}`", entry.summary, columns or "-"))
    return _table(rows)


def metrics_block() -> str:
    """What a scrape of /metrics can hold."""
    rows = [("metric", "type", "labels", "means")]
    for metric in Snapshot(FakeProxy(), [], "").collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in getattr(metric, "_labelnames"))  # noqa: B009
        rows.append((f"`{name}`", metric.type, labels or "-", metric.documentation.rstrip(".")))
    return _table(rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "checks": checks_block,
    "configuration": configuration_block,
    "console": console_block,
    "metrics": metrics_block,
}


def _key_row(section: SectionSpec, field: FieldSpec) -> tuple[str, ...]:
    if field.choices:
        value = ", ".join(f"`{choice}`" for choice in field.choices)
    else:
        value = field.unit or {Kind.INTEGER: "number", Kind.BOOLEAN: "`true`, `false`"}.get(field.kind, "text")
    if field.kind is Kind.SECRET:
        value = f"text; or `{field.name}_file`, `{field.name}_env`"
    default = "required" if field.required else "-" if field.default is None else f"`{_toml(field.default)}`"
    effect = "restart" if _effect(f"{section.name}.{field.name}") == "restart" else "RELOAD"
    if section.model is General and field.name in LIVE_KEYS:
        effect += ", SET"
    return f"`{field.name}`", value, default, field.description, effect


def _toml(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _answer(syntax: str) -> list[Column]:
    """The columns that a command answers, from its syntax with every choice made."""
    text = re.sub(r"\[[^]]*\]", "", syntax).replace("ON|OFF", "ON").replace("key = value", "query_timeout = 1")
    (statement,) = parse_script(text)
    return list(statement.described() or ())


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join([f"| {head} |", "|" + " --- |" * len(rows[0]), *(f"| {line} |" for line in body)])


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: made by python -m tests.unit.test_docs -->\n", f"\n<!-- end of {name} -->"


def _block(text: str, name: str) -> str:
    begin, end = _marks(name)
    return text.partition(begin)[2].partition(end)[0].strip()


def write_blocks() -> None:
    text = OPERATIONS.read_text()
    for name, make in BLOCKS.items():
        begin, end = _marks(name)
        before, _, rest = text.partition(begin)
        text = before + begin + "\n" + make() + "\n" + end + rest.partition(end)[2]
    OPERATIONS.write_text(text)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_made_from_the_code_are_up_to_date(name: str) -> None:
    shown = _block(OPERATIONS.read_text(), name)
    assert shown == BLOCKS[name](), "run python -m tests.unit.test_docs"


# -- what is listed by hand ----------------------------------------------------------------------------------------


def test_every_key_of_general_and_every_command_is_documented() -> None:
    """Against the code's own lists, not against the generators above."""
    text = OPERATIONS.read_text()
    assert [key for key in General.model_fields if f"| `{key}` |" not in text] == []
    assert [c.syntax for c in COMMANDS if c.listed and f"`{c.syntax.replace('|', chr(92) + '|')}`" not in text] == []
    assert [id for id in CATALOGUE.keys() | CHECKS_OF_THE_PROXY if f"| {id} |" not in text] == []


def test_steps_of_a_run_are_those_of_the_code() -> None:
    found = set()
    for path in (ROOT / "cutover").glob("*.py"):
        for call in _calls(path):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name in ("step", "StepRow") and call.args and isinstance(call.args[0], ast.Constant):
                found.add(str(call.args[0].value))
    assert found == _rows("CUTOVER.md", "step")


def test_figures_of_a_run_are_those_of_the_code() -> None:
    report = RunReport("", RunKind.CUTOVER, "a", "b", STARTED_AT)
    assert {name for name, _ in figures(report)} == _rows("CUTOVER.md", "figure")


def test_events_of_the_log_are_those_of_the_code() -> None:
    """In both directions, so that nobody looks for an event that is never written."""
    found = {event for path in _sources() for call in _calls(path) for event in _events(call)}
    assert found == _rows("OPERATIONS.md", "event")


def test_errors_of_a_run_are_quoted_from_the_code() -> None:
    """Every error of the runbook's table; "..." stands for what is filled in."""
    pieces = [text for path in _sources() for text in _texts(path)]
    for error in _rows("OPERATIONS.md", "error"):
        for piece in filter(None, (part.strip() for part in error.split("..."))):
            assert any(piece in text for text in pieces), error


def test_every_reason_why_a_run_stops_is_in_the_runbook() -> None:
    rows = [[part.strip() for part in error.split("...")] for error in _rows("OPERATIONS.md", "error")]
    for path in (ROOT / "cutover").glob("run*.py"):
        for call in _calls(path):
            if getattr(call.func, "id", "") == "StepFailed" and call.args:
                text = " ".join(str(n.value) for n in ast.walk(call.args[0]) if isinstance(n, ast.Constant))
                assert any(all(part in text for part in row) for row in rows), text


# -- links, names, commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            assert anchor in _anchors(there), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_names_of_the_code_exist(path: Path) -> None:
    """`folder/file.py`, and `folder/file.py::name` for what is defined in it."""
    for file, name in re.findall(r"`([\w./-]+\.(?:py|sql|toml|service|yaml))(?:::([\w.]+))?`", path.read_text()):
        if "/" not in file:
            continue
        there = ROOT / file
        assert there.exists(), file
        for part in filter(None, name.split(".")):
            assert re.search(rf"(?:def|class|FUNCTION pgcutover\.)\s*{part}\b|^\s*{part}\b", there.read_text(), re.M), (
                f"{file}::{name}"
            )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_can_be_typed(path: Path) -> None:
    group = typer.main.get_command(app)
    verbs = getattr(group, "commands")  # noqa: B009
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in _shell_lines(path.read_text()):
        words = shlex.split(line, comments=True)
        if "pgcutover" in words[:1] and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in verbs, line
            known = {option for p in verbs[words[1]].params for option in p.opts}
            assert {w.partition("=")[0] for w in words[2:] if w.startswith("--")} <= known | {"--help"}, line
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        if words[:1] == ["psql"] and "admin" in words:
            for before, statement in pairwise(words):
                if before == "-c":
                    parse_script(statement)


def test_the_command_line_is_listed_whole() -> None:
    verbs = getattr(typer.main.get_command(app), "commands")  # noqa: B009
    text = OPERATIONS.read_text()
    assert [verb for verb in verbs if f"`pgcutover {verb}" not in text] == []
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_of_one_machine_is_told(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"(?<![\w/.])/(?:work|root|home|tmp)/", text) == []
    hosts = set(re.findall(r"https?://([\w.-]+)", text))
    assert hosts <= {"www.postgresql.org", "keepachangelog.com", "semver.org", "www.pgbouncer.org"}


# -- helpers -------------------------------------------------------------------------------------------------------


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call))


def _events(call: ast.Call) -> Iterator[str]:
    """What `log.info("event", ...)` writes; also self._log, getattr(log, level)(...), and a choice of two events."""
    match call.func:
        case ast.Attribute(value=logger, attr=level) if level in LEVELS:
            pass
        case ast.Call(func=ast.Name(id="getattr"), args=[logger, *_]):
            pass
        case _:
            return
    if (logger.id if isinstance(logger, ast.Name) else getattr(logger, "attr", "")) not in ("log", "_log"):
        return
    for argument in call.args:
        choices = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
        yield from (c.value for c in choices if isinstance(c, ast.Constant) and isinstance(c.value, str))


def _texts(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _rows(document: str, column: str) -> set[str]:
    """The first column, without its code marks, of every table whose first column has this title."""
    found: set[str] = set()
    for table in re.findall(
        rf"^\| {column} \|.*\n\|[ :|-]+\n((?:\|.*\n)+)", (ROOT / "docs" / document).read_text(), re.M
    ):
        found |= {line.split(" | ")[0].lstrip("| ").strip().strip("`") for line in table.splitlines()}
    return found


def _anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def _shell_lines(text: str) -> Iterator[str]:
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip())


if __name__ == "__main__":
    write_blocks()
