"""The avg_ columns of SHOW STATS, as PgBouncer computes them: over one to two periods of a minute.

Rates are per second; times are per transaction, query or assignment. A daemon younger than a period is
averaged since its start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

from proxy.views import StatsView

PERIOD_S: Final = 60.0
_COUNTERS: Final = tuple(field.name for field in fields(StatsView) if field.name != "database")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    taken_at_s: float
    databases: dict[str, StatsView]


class StatsAverages:
    """Keeps two snapshots of the counters, one period apart. `clock` answers seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._older = self._newer = _Snapshot(clock(), {})

    async def run(self, stats: Callable[[], Sequence[StatsView]], period_s: float = PERIOD_S) -> None:
        """Take a snapshot every period, until cancelled."""
        while True:
            await asyncio.sleep(period_s)
            self.record(stats())

    def record(self, stats: Sequence[StatsView]) -> None:
        """A period is over."""
        self._older, self._newer = self._newer, _Snapshot(self._clock(), {s.database: s for s in stats})

    def averages(self, now: StatsView) -> StatsView:
        """The averages of one database up to its counters of this moment."""
        return self._averaged(now.database, self._grown(now))

    def overall(self, now: Sequence[StatsView]) -> StatsView:
        """The averages of all databases together; its `database` is empty."""
        grown = [self._grown(view) for view in now]
        return self._averaged("", {name: sum(one[name] for one in grown) for name in _COUNTERS})

    def _grown(self, now: StatsView) -> dict[str, int]:
        earlier = self._older.databases.get(now.database)
        return {name: _growth(getattr(now, name), getattr(earlier, name, 0)) for name in _COUNTERS}

    def _averaged(self, database: str, grown: dict[str, int]) -> StatsView:
        per = {
            "xact_time_us": grown["xact_count"],
            "query_time_us": grown["query_count"],
            "wait_time_us": grown["server_assignment_count"],
        }
        seconds = self._clock() - self._older.taken_at_s
        return StatsView(
            database=database,
            **{name: _divided(grown[name], per.get(name, seconds)) for name in _COUNTERS},
        )


def _divided(amount: int, by: float) -> int:
    return int(amount / by) if by > 0 else 0


def _growth(now: int, earlier: int) -> int:
    """A counter below its earlier value belongs to an entry that was removed and came back: from zero."""
    return now - earlier if now >= earlier else now
