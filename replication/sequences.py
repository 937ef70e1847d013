"""Carry sequence values over: logical replication does not.

Every sequence counts: owned, free, identity, descending, cycling, never called. The value is read from the sequence
itself (last_value, is_called), never guessed from a column, and never moves a destination sequence backwards
(pgcutover.advance_sequence). All are set once before the pause; inside it only those that moved since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .session import ControlSession

_LIST = """
SELECT c.oid::bigint AS oid, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('information_schema', 'pgcutover')
ORDER BY 2, 3
"""


class SequencesMissing(Exception):
    """Sequences of the source that the destination does not have."""

    def __init__(self, names: list[str]) -> None:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        super().__init__(f"sequences that the destination does not have: {shown}")
        self.names = names


@dataclass(frozen=True, slots=True)
class SequenceValue:
    last_value: int
    is_called: bool


@dataclass(slots=True)
class SequenceSync:
    """The sequences of one direction, and what the destination was last told about each (by destination oid)."""

    destination_oids: list[int]
    names: list[str]
    read_sql: str
    known: dict[int, SequenceValue] = field(default_factory=dict)

    async def read(self, source: ControlSession, timeout_s: float = 30.0) -> dict[int, SequenceValue]:
        """All values in one statement, by destination oid."""
        if not self.destination_oids:
            return {}
        rows = await source.fetch(self.read_sql, timeout_s=timeout_s)
        return {self.destination_oids[row[0]]: SequenceValue(row[1], row[2]) for row in rows}

    def moved(self, values: Mapping[int, SequenceValue]) -> list[tuple[int, int, bool]]:
        """Those whose value differs from what the destination was last told."""
        return [
            (oid, value.last_value, value.is_called) for oid, value in values.items() if self.known.get(oid) != value
        ]

    async def set_all(self, source: ControlSession, destination: ControlSession) -> int:
        """Read and set every sequence; returns how many moved on the destination."""
        values = await self.read(source)
        todo = self.moved(values)
        moved = 0
        if todo:
            moved = await destination.fetchval(
                """
                SELECT count(*) FILTER (WHERE pgcutover.advance_sequence(s.id, s.value, s.called))
                FROM ROWS FROM (unnest($1::oid[]), unnest($2::bigint[]), unnest($3::boolean[])) AS s (id, value, called)
                """,
                [t[0] for t in todo],
                [t[1] for t in todo],
                [t[2] for t in todo],
            )
        self.known = dict(values)
        return int(moved)


async def sequence_sync(source: ControlSession, destination: ControlSession) -> SequenceSync:
    """Match the sequences of both sides by name. Raises SequencesMissing."""
    here = await source.fetch(_LIST)
    there = {(row["nspname"], row["relname"]): int(row["oid"]) for row in await destination.fetch(_LIST)}
    missing = [row["name"] for row in here if (row["nspname"], row["relname"]) not in there]
    if missing:
        raise SequencesMissing(missing)
    names = [row["name"] for row in here]
    read_sql = " UNION ALL ".join(
        f"SELECT {index}, last_value, is_called FROM {name}" for index, name in enumerate(names)
    )
    oids = [there[row["nspname"], row["relname"]] for row in here]
    return SequenceSync(oids, names, read_sql)
