"""Latency over time in the terminal: the median as a line, everything up to the slowest as a shade."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from .figures import RunFigures
from .latency import Bucket, buckets
from .records import Sample
from .scale import LatencyScale, label_ms, run_at, scale_for

_LABEL_WIDTH = 8
_MEDIAN = "━"
_UP_TO_P99 = "▒"
_UP_TO_MAX = "░"
_RUN_STYLE = "bold cyan"


def text_plot(
    samples: Sequence[Sample],
    runs: Sequence[RunFigures],
    begin_s: float,
    end_s: float,
    *,
    width: int = 100,
    height: int = 12,
) -> Text:
    """Lines of `width` characters; columns in which a run paused the traffic are marked below the axis."""
    columns = max(10, width - _LABEL_WIDTH - 2)
    stretches = buckets(samples, begin_s, end_s, columns)
    scale = scale_for(stretches)
    step_s = (end_s - begin_s) / columns
    marks = [run_at(runs, one.begin_s, one.begin_s + step_s) for one in stretches]
    labels = _labels(scale, height)
    plot = Text()
    for row in range(height - 1, -1, -1):
        plot.append(f"{labels.get(row, ''):>{_LABEL_WIDTH}} │", style="dim")
        for one, mark in zip(stretches, marks, strict=True):
            plot.append(_cell(one, row, scale, height), style=_RUN_STYLE if mark else "green")
        plot.append("\n")
    plot.append(" " * (_LABEL_WIDTH + 1) + "└" + "─" * columns + "\n", style="dim")
    plot.append(" " * (_LABEL_WIDTH + 2) + _run_line(marks), style=_RUN_STYLE)
    plot.append("\n" + " " * (_LABEL_WIDTH + 2))
    plot.append(f"{_MEDIAN} median   {_UP_TO_P99} up to p99   {_UP_TO_MAX} up to the slowest, ", style="dim")
    plot.append(f"over {end_s - begin_s:.1f} s, {step_s * 1000:.0f} ms per column", style="dim")
    return plot


def _cell(one: Bucket, row: int, scale: LatencyScale, height: int) -> str:
    if not one.count:
        return " "
    median_row = _row(one.p50_ms, scale, height)
    if row == median_row:
        return _MEDIAN
    if median_row < row <= _row(one.p99_ms, scale, height):
        return _UP_TO_P99
    if median_row < row <= _row(one.max_ms, scale, height):
        return _UP_TO_MAX
    return " "


def _row(latency_ms: float, scale: LatencyScale, height: int) -> int:
    return round(scale.position(latency_ms) * (height - 1))


def _labels(scale: LatencyScale, height: int) -> dict[int, str]:
    return {_row(tick, scale, height): label_ms(tick) for tick in scale.ticks_ms()}


def _run_line(marks: Sequence[RunFigures | None]) -> str:
    """`▲ CUTOVER` under the first column of each run; a name that does not fit is left out."""
    line = [" "] * len(marks)
    shown: RunFigures | None = None
    for column, mark in enumerate(marks):
        if mark is None or mark is shown:
            continue
        shown = mark
        text = f"▲ {mark.kind.upper()}"
        if column + len(text) > len(line):
            text = f"{mark.kind.upper()} ▲"
            column -= len(text) - 1
        for offset, character in enumerate(text):
            if 0 <= column + offset < len(line):
                line[column + offset] = character
    return "".join(line)
