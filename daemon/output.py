"""Answers on the terminal: a table, or JSON. Progress and errors go to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from config.problems import Problem

# Wider than any answer: on a pipe nothing is folded or cut.
_PIPE_WIDTH = 100_000
_STYLES = {
    "block": "bold red",
    "failed": "bold red",
    "broken": "bold red",
    "warn": "yellow",
    "undone": "yellow",
}


def print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """A table as wide as it needs on a pipe; one block per row where a terminal is too narrow for it."""
    console = stdout_console()
    table = _table(columns, rows)
    if rows and console.is_terminal and _is_too_wide(console, table, columns):
        for number, row in enumerate(rows, 1):
            console.print(_block(number, columns, row))
    else:
        console.print(table)
    count = len(rows)
    console.print(f"({count} {'row' if count == 1 else 'rows'})")


def stdout_console() -> Console:
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=False)


def tell(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def print_error(message: str, *, detail: str = "", hint: str = "") -> None:
    """In the words and the layout of psql."""
    tell(f"ERROR:  {message}")
    if detail:
        tell(f"DETAIL:  {detail}")
    if hint:
        tell(f"HINT:  {hint}")


def print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        tell(str(problem))
    tell(f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}; nothing was started or changed")


def problem_json(problem: Problem) -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "key": problem.key, "message": problem.message}


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        numbers = [row[name] for row in rows if row[name] is not None]
        right = bool(numbers) and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns), style=_style(row))
    return table


def _block(number: int, columns: Sequence[str], row: Mapping[str, Any]) -> Table:
    """Like psql's expanded output."""
    block = Table(box=None, show_header=False, title=f"row {number}", title_justify="left", pad_edge=False)
    block.add_column(style="bold", no_wrap=True)
    block.add_column(overflow="fold")
    for name in columns:
        block.add_row(name, _cell(row[name]), style=_style(row))
    return block


def _is_too_wide(console: Console, table: Table, columns: Sequence[str]) -> bool:
    """A few columns can be folded; many cannot."""
    options = console.options.update(max_width=_PIPE_WIDTH)
    return len(columns) > 6 and Measurement.get(console, options, table).maximum > console.width


def _style(row: Mapping[str, Any]) -> str:
    words = (str(row.get(name) or "").partition(":")[0] for name in ("severity", "status", "state"))
    return next((_STYLES[word] for word in words if word in _STYLES), "")


def _cell(value: object) -> Text:
    """As text, so that brackets in a value are not taken for markup."""
    match value:
        case None:
            return Text("")
        case bool():
            return Text("yes" if value else "no")
        case float():
            return Text(f"{value:.3f}".rstrip("0").rstrip("."))
        case _:
            return Text(str(value))
