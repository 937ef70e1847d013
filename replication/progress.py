"""The initial copy, table by table, for SHOW TABLE_COPIES and for the wait in REPLICATE.

Nothing is remembered between calls: both servers are asked each time. Sizes are those of the tables on disk,
which is the one measure that both sides have; a bloated source makes the percentage end below 100 and jump.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from .publications import TableName
from .session import ControlSession

_TIMEOUT_S = 30.0

# A row count that was never estimated is -1 (PostgreSQL: pg_class.reltuples, since 14; 0 before).
_SOURCE = """
SELECT n.nspname, c.relname, c.reltuples::float8 AS rows, pg_table_size(c.oid) AS bytes
FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
WHERE t.pubname = ANY ($1::text[])
"""

# Rows of a running copy come from pg_stat_progress_copy (14+), of a finished one from the statistics, which
# follow a moment later; the first insert of the copy is the whole table.
_DESTINATION = """
SELECT n.nspname, c.relname, r.srsubstate::text AS state, pg_table_size(c.oid) AS bytes,
    coalesce(p.tuples_processed, greatest(u.n_live_tup, c.reltuples::bigint, 0)) AS rows,
    p.pid IS NOT NULL AS running,
    extract(epoch FROM clock_timestamp() - w.backend_start)::float8 AS seconds
FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
JOIN pg_subscription_rel r ON r.srsubid = s.oid
JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_tables u ON u.relid = c.oid
LEFT JOIN pg_stat_subscription k ON k.subid = s.oid AND k.relid = c.oid
LEFT JOIN pg_stat_activity w ON w.pid = k.pid
LEFT JOIN {progress} p ON p.pid = k.pid AND p.relid = c.oid
WHERE s.subname = $1 AND n.nspname <> 'pgcutover'
ORDER BY 1, 2
"""

_PROGRESS = "pg_stat_progress_copy"
_PROGRESS_BEFORE_14 = "(SELECT pid, relid, NULL::bigint AS tuples_processed FROM pg_stat_subscription)"


class CopyState(StrEnum):
    WAITING = "waiting"
    COPYING = "copying"
    CATCHING_UP = "catching up"
    READY = "ready"


# PostgreSQL: pg_subscription_rel.srsubstate.
_STATES = {
    "i": CopyState.WAITING,
    "d": CopyState.COPYING,
    "f": CopyState.CATCHING_UP,
    "s": CopyState.CATCHING_UP,
    "r": CopyState.READY,
}


@dataclass(frozen=True, slots=True)
class TableCopy:
    """One table of the initial copy. None is "unknown"."""

    table: TableName
    state: CopyState
    rows: int
    rows_total: int | None
    """The source's estimate."""
    bytes: int
    bytes_total: int | None
    percent: float | None
    bytes_per_sec: float | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class CopySummary:
    """All tables together."""

    tables_ready: int
    tables_total: int
    bytes: int
    bytes_total: int | None
    bytes_per_sec: float | None
    eta_s: float | None

    @property
    def percent(self) -> float | None:
        if self.tables_ready == self.tables_total:
            return 100.0
        return _percent(self.bytes, self.bytes_total)

    def __str__(self) -> str:
        parts = [f"{self.tables_ready} of {self.tables_total} tables ready", f"{_size(self.bytes)} copied"]
        if self.percent is not None:
            parts.append(f"{self.percent:.0f} %")
        if self.bytes_per_sec:
            parts.append(f"{_size(self.bytes_per_sec)}/s")
        if self.eta_s is not None:
            parts.append(f"about {self.eta_s:.0f} s to go")
        return ", ".join(parts)


async def table_copies(source: ControlSession, destination: ControlSession, subscription: str) -> list[TableCopy]:
    """The tables of a subscription (not the marker). Raises ControlUnavailable."""
    publications = await destination.fetchval(
        "SELECT subpublications FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid "
        "WHERE d.datname = current_database() AND subname = $1",
        subscription,
    )
    if publications is None:
        return []
    progress = _PROGRESS if destination.major >= 14 else _PROGRESS_BEFORE_14
    here, there = await asyncio.gather(
        source.fetch(_SOURCE, list(publications), timeout_s=_TIMEOUT_S),
        destination.fetch(_DESTINATION.format(progress=progress), subscription, timeout_s=_TIMEOUT_S),
    )
    totals = {TableName(row["nspname"], row["relname"]): (row["rows"], row["bytes"]) for row in here}
    copies = []
    for row in there:
        table = TableName(row["nspname"], row["relname"])
        rows, size = totals.get(table, (None, None))
        copies.append(
            table_copy(
                table,
                _STATES.get(row["state"], CopyState.WAITING),
                rows=row["rows"],
                rows_total=int(rows) if rows is not None and rows >= 0 else None,
                size=row["bytes"],
                size_total=size,
                seconds=row["seconds"] if row["running"] else None,
            )
        )
    return copies


def table_copy(
    table: TableName,
    state: CopyState,
    *,
    rows: int,
    rows_total: int | None,
    size: int,
    size_total: int | None,
    seconds: float | None,
) -> TableCopy:
    """Work out percent, rate and time left; `seconds` since a running copy began, None where none runs."""
    rate = size / seconds if seconds else None
    percent: float | None = 100.0
    if state in (CopyState.WAITING, CopyState.COPYING):
        percent = _percent(rows, rows_total) if rows_total else _percent(size, size_total)
    left = size_total - size if size_total is not None else None
    return TableCopy(
        table=table,
        state=state,
        rows=rows,
        rows_total=rows_total,
        bytes=size,
        bytes_total=size_total,
        percent=percent,
        bytes_per_sec=rate,
        eta_s=max(0.0, left / rate) if state is CopyState.COPYING and left is not None and rate else None,
    )


def summarize(copies: list[TableCopy], *, bytes_per_sec: float | None = None) -> CopySummary:
    """Add the tables up; the time left assumes that tables go on to be copied at the same rate.

    The rate is that of the copies which run at this moment, unless the caller has measured a better one.
    """
    done = (CopyState.READY, CopyState.CATCHING_UP)
    totals = [copy.bytes_total for copy in copies]
    total = sum(t for t in totals if t is not None) if None not in totals else None
    copied = sum(copy.bytes for copy in copies)
    rate = bytes_per_sec or sum(copy.bytes_per_sec for copy in copies if copy.bytes_per_sec is not None)
    left = [
        max(0, copy.bytes_total - copy.bytes)
        for copy in copies
        if copy.state not in done and copy.bytes_total is not None
    ]
    return CopySummary(
        tables_ready=sum(1 for copy in copies if copy.state is CopyState.READY),
        tables_total=len(copies),
        bytes=copied,
        bytes_total=total,
        bytes_per_sec=rate or None,
        eta_s=sum(left) / rate if rate and total is not None else None,
    )


def _percent(part: float, whole: float | None) -> float | None:
    """Never 100 before the state says so: both are estimates."""
    if whole is None:
        return None
    return min(99.9, 100.0 * part / whole) if whole > 0 else 0.0


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
