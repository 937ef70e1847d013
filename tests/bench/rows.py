"""What a part of the benchmark returns: rows with a value and its bar, and the raw figures behind them."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. The bar is an upper limit in the same unit; None: shown for comparison only."""

    part: str
    what: str
    value: float
    unit: str
    at_most: float | None = None

    @property
    def reached(self) -> bool | None:
        """None where there is no bar; a value that is not a number never reaches one."""
        if self.at_most is None:
            return None
        return not math.isnan(self.value) and self.value <= self.at_most


@dataclass(slots=True)
class PartResult:
    """`raw` goes into the JSON file as it is. `damage`: something that is wrong whatever the bars say."""

    rows: list[Row] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)


def rows_table(rows: Sequence[Row]) -> Table:
    table = Table(title="Benchmark", title_justify="left")
    table.add_column("part")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("bar", justify="right")
    table.add_column("")
    for row in rows:
        bar = "" if row.at_most is None else f"<= {_number(row.at_most)} {row.unit}"
        mark = {None: Text(""), True: Text("ok", "green"), False: Text("missed", "bold red")}[row.reached]
        table.add_row(row.part, row.what, f"{_number(row.value)} {row.unit}", bar, mark)
    return table


def write_json(path: Path, results: dict[str, PartResult]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "parts": {
            name: {
                "rows": [{**asdict(row), "reached": row.reached} for row in result.rows],
                "damage": result.damage,
                "raw": result.raw,
            }
            for name, result in results.items()
        },
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def _number(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) and value == int(value) else f"{value:.1f}"
