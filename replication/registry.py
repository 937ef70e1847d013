"""What the move made on one side, so that RESET and COMPLETE remove exactly that (pgcutover.object).

Every entry is written before the object itself is made: a crash in between leaves an entry without an
object, which removal ignores, and never an object that nobody knows about.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .session import ControlSession

_ENTRY_TIMEOUT_S = 120.0


class Kind(StrEnum):
    """The kinds of entries this package writes; other kinds are kept and never touched."""

    MOVE = "move"
    PUBLICATION = "publication"
    SLOT = "slot"
    SUBSCRIPTION = "subscription"
    ADOPTED_SUBSCRIPTION = "adopted_subscription"
    MARKER_PUBLICATION = "marker_publication"
    SCHEMA = "schema"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class Recorded:
    kind: str
    name: str
    detail: dict[str, Any]


async def record(session: ControlSession, kind: str, name: str, detail: dict[str, Any] | None = None) -> None:
    """Note that `name` is about to be made here; a second note replaces the detail of the first."""
    await session.execute(
        """
        INSERT INTO pgcutover.object (kind, name, detail) VALUES ($1, $2, $3::text::jsonb)
        ON CONFLICT (kind, name) DO UPDATE SET detail = excluded.detail
        """,
        kind,
        name,
        json.dumps(detail or {}),
        timeout_s=_ENTRY_TIMEOUT_S,
    )


async def forget(session: ControlSession, kind: str, name: str) -> None:
    """Note that `name` is gone. Forgetting what was never recorded is no error."""
    if await _present(session):
        await session.execute("DELETE FROM pgcutover.object WHERE kind = $1 AND name = $2", kind, name)


async def recorded(session: ControlSession, kind: str | None = None) -> list[Recorded]:
    """The entries of one kind, or all, in the order they were made; none where there is no control schema."""
    if not await _present(session):
        return []
    rows = await session.fetch(
        """
        SELECT kind, name, detail::text AS detail FROM pgcutover.object
        WHERE $1::text IS NULL OR kind = $1 ORDER BY made_at, kind, name
        """,
        kind,
        timeout_s=_ENTRY_TIMEOUT_S,
    )
    return [Recorded(row["kind"], row["name"], json.loads(row["detail"])) for row in rows]


async def find(session: ControlSession, kind: str, name: str) -> Recorded | None:
    return next((entry for entry in await recorded(session, kind) if entry.name == name), None)


async def _present(session: ControlSession) -> bool:
    return bool(await session.fetchval("SELECT to_regclass('pgcutover.object') IS NOT NULL"))
