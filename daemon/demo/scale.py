"""The logarithmic latency axis that both plots share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .figures import RunFigures
from .latency import Bucket

_TICKS_MS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000)


@dataclass(frozen=True, slots=True)
class LatencyScale:
    """From `low_ms` at 0 to `high_ms` at 1; what lies outside sits on the edge."""

    low_ms: float
    high_ms: float

    def position(self, latency_ms: float) -> float:
        clipped = min(max(latency_ms, self.low_ms), self.high_ms)
        return math.log(clipped / self.low_ms) / math.log(self.high_ms / self.low_ms)

    def ticks_ms(self) -> list[float]:
        return [tick for tick in _TICKS_MS if self.low_ms <= tick <= self.high_ms]


def scale_for(stretches: Sequence[Bucket]) -> LatencyScale:
    """A scale between round values that holds all buckets; never less than a factor of ten."""
    medians = [one.p50_ms for one in stretches if one.count]
    highest = max((one.max_ms for one in stretches if one.count), default=10.0)
    lowest = min(medians, default=1.0)
    low = max((tick for tick in _TICKS_MS if tick <= lowest), default=_TICKS_MS[0])
    high = min((tick for tick in _TICKS_MS if tick >= highest), default=_TICKS_MS[-1])
    return LatencyScale(low, max(high, low * 10))


def label_ms(value: float) -> str:
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"


def run_at(runs: Sequence[RunFigures], begin_s: float, end_s: float) -> RunFigures | None:
    """The run whose pause touches the stretch of time, if any."""
    for run in runs:
        if run.held_begin_s < end_s and run.held_end_s >= begin_s:
            return run
    return None
