"""Latency over time as an SVG file that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .figures import RunFigures
from .latency import Bucket, buckets
from .records import Sample
from .scale import LatencyScale, label_ms, scale_for

_WIDTH, _HEIGHT = 1000, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 60, 50
_BUCKETS = 400
_TIME_TICKS = 8

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 }
.title { font-size: 16px; font-weight: 600; fill: #111 }
.grid { stroke: #ddd } .axis { stroke: #888 }
.max { fill: none; stroke: #f2b58c; stroke-width: 1 } .p99 { fill: none; stroke: #e07b39; stroke-width: 1.2 }
.p50 { fill: none; stroke: #1f77b4; stroke-width: 1.6 }
.run { fill: #6b4fbb; opacity: 0.25 } .runline { stroke: #6b4fbb }
.runtext { fill: #6b4fbb; font-weight: 600 }
"""


def svg_plot(samples: Sequence[Sample], runs: Sequence[RunFigures], begin_s: float, end_s: float, title: str) -> str:
    """The whole file's text. Each run is a band as wide as its pause, with kind and pause above it."""
    stretches = buckets(samples, begin_s, end_s, _BUCKETS)
    frame = _Frame(scale_for(stretches), begin_s, end_s)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>',
        *_grid(frame),
        *(_run(run, frame) for run in runs),
        *_lines(stretches, frame),
        *_legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Frame:
    """Where a moment and a latency are drawn."""

    def __init__(self, scale: LatencyScale, begin_s: float, end_s: float) -> None:
        self.scale = scale
        self.begin_s = begin_s
        self.end_s = end_s

    def x(self, at_s: float) -> float:
        share = (at_s - self.begin_s) / (self.end_s - self.begin_s)
        return _LEFT + min(max(share, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, latency_ms: float) -> float:
        return _HEIGHT - _BOTTOM - self.scale.position(latency_ms) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(frame: _Frame) -> list[str]:
    parts = []
    for tick in frame.scale.ticks_ms():
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label_ms(tick)}</text>')
    bottom = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for index in range(_TIME_TICKS + 1):
        at_s = frame.begin_s + (frame.end_s - frame.begin_s) * index / _TIME_TICKS
        label = f"{at_s - frame.begin_s:.1f} s"
        parts.append(f'<text x="{frame.x(at_s):.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    return parts


def _run(run: RunFigures, frame: _Frame) -> str:
    left, right = frame.x(run.held_begin_s), frame.x(run.held_end_s)
    label = escape(f"{run.kind.upper()}, pause {run.pause_ms:.1f} ms")
    height = _HEIGHT - _TOP - _BOTTOM
    width = max(right - left, 1.5)
    return (
        f'<rect class="run" x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{height}"/>'
        f'<line class="runline" x1="{left:.1f}" x2="{left:.1f}" y1="{_TOP - 6}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="runtext" x="{left:.1f}" y="{_TOP - 10}" text-anchor="middle">{label}</text>'
    )


def _lines(stretches: Sequence[Bucket], frame: _Frame) -> list[str]:
    filled = [one for one in stretches if one.count]
    parts = []
    for name, values in (
        ("max", [one.max_ms for one in filled]),
        ("p99", [one.p99_ms for one in filled]),
        ("p50", [one.p50_ms for one in filled]),
    ):
        points = " ".join(
            f"{frame.x(one.begin_s):.1f},{frame.y(value):.1f}" for one, value in zip(filled, values, strict=True)
        )
        parts.append(f'<polyline class="{name}" points="{points}"/>')
    return parts


def _legend() -> list[str]:
    parts = []
    for index, (name, text) in enumerate((("p50", "median"), ("p99", "p99"), ("max", "slowest"))):
        x = _WIDTH - 260 + index * 85
        parts.append(f'<line class="{name}" x1="{x}" x2="{x + 20}" y1="20" y2="20"/>')
        parts.append(f'<text x="{x + 26}" y="24">{text}</text>')
    return parts
