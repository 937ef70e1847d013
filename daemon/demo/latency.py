"""Figures out of latencies: percentiles, time buckets, and what clients saw around a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .records import Sample


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank); NaN for none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    return percentile(values, 0.5)


def between(samples: Sequence[Sample], begin_s: float, end_s: float) -> list[float]:
    """Latencies (ms) of the transactions that began and ended inside the window."""
    return [sample.latency_ms for sample in samples if sample.start_s >= begin_s and sample.end_s <= end_s]


def touching(samples: Sequence[Sample], begin_s: float, end_s: float) -> list[float]:
    """Latencies (ms) of the transactions that were under way at any moment of the window."""
    return [sample.latency_ms for sample in samples if sample.start_s <= end_s and sample.end_s >= begin_s]


@dataclass(frozen=True, slots=True)
class Bucket:
    """One stretch of time. Latencies are NaN where nothing began."""

    begin_s: float
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def buckets(samples: Sequence[Sample], begin_s: float, end_s: float, number: int) -> list[Bucket]:
    """Cut the window into equal stretches; a transaction counts where it began, at a hold's beginning."""
    width_s = (end_s - begin_s) / number
    values: list[list[float]] = [[] for _ in range(number)]
    for sample in samples:
        index = math.floor((sample.start_s - begin_s) / width_s)
        if 0 <= index < number:
            values[index].append(sample.latency_ms)
    return [
        Bucket(
            begin_s=begin_s + index * width_s,
            count=len(found),
            p50_ms=median(found),
            p99_ms=percentile(found, 0.99),
            max_ms=max(found, default=math.nan),
        )
        for index, found in enumerate(values)
    ]
