"""What publication, slot and subscription of a stream are called."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

# NAMEDATALEN - 1; slot names may hold a-z, 0-9 and _ only (PostgreSQL: ReplicationSlotValidateName).
_MAX_BYTES = 63
_HASH_DIGITS = 8


class Direction(StrEnum):
    """Seen from where the move began: forward is from its origin to its target."""

    FORWARD = "forward"
    REVERSE = "reverse"

    @property
    def opposite(self) -> Direction:
        return Direction.REVERSE if self is Direction.FORWARD else Direction.FORWARD


@dataclass(frozen=True, slots=True)
class StreamNames:
    """One stream: publication and slot live on the publisher, the subscription on the subscriber."""

    publication: str
    slot: str
    subscription: str


def stream_names(pair: str, direction: Direction) -> StreamNames:
    """The names of the stream we make for `pair`: `pgcutover_<pair>_<direction>`, all three alike.

    A pair's name that a slot cannot carry is cleaned and marked with a hash, so that "App" and "app", or
    two long names with the same beginning, stay apart.
    """
    name = _slot_name("pgcutover_", pair, f"_{direction.value}")
    return StreamNames(publication=name, slot=name, subscription=name)


def _slot_name(prefix: str, middle: str, suffix: str) -> str:
    clean = re.sub(r"[^a-z0-9_]", "_", middle.lower())
    room = _MAX_BYTES - len(prefix) - len(suffix)
    if clean != middle or len(clean) > room:
        digest = hashlib.sha256(middle.encode()).hexdigest()[:_HASH_DIGITS]
        clean = f"{clean[: room - _HASH_DIGITS - 1]}_{digest}"
    return f"{prefix}{clean}{suffix}"
