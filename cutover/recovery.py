"""Who serves, from what both sides say. Pure; the daemon's start, RELOAD, reconnects and every doubt go through it.

The rule behind it: at most one side says `serving`, because a run turns its source to `draining` before anything
can commit on its destination, and the destination says `serving` in the very transaction that decides. So a side
that says `serving` is believed, even while the other cannot be asked; nothing else is believed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class State(StrEnum):
    SERVING = "serving"
    DRAINING = "draining"
    MOVED = "moved"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class Known:
    """What a side that could be asked says of itself."""

    uuid: UUID
    state: State
    epoch: int
    run_id: UUID | None
    successor: UUID | None
    successor_place: str = ""  # its address when it took over, as the journal has it


@dataclass(frozen=True, slots=True)
class Side:
    """One name of a pair. `reachable` false: it could not be asked. `known` None with reachable: it was never
    part of a move. `place` is where the name leads, for those who read the verdict."""

    name: str
    reachable: bool
    known: Known | None
    place: str = ""

    def __str__(self) -> str:
        return f'"{self.name}" ({self.place})' if self.place else f'"{self.name}"'


@dataclass(frozen=True, slots=True)
class Serve:
    """`name` serves. `open_run`: a run that never got as far as its fence is still noted there."""

    name: str
    epoch: int | None
    why: str
    open_run: UUID | None = None


@dataclass(frozen=True, slots=True)
class Resolve:
    """A run is undecided for us: abort it on `destination` (the answer is the outcome), then look again."""

    run_id: UUID
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Wait:
    """It cannot be known yet; clients wait."""

    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """No answer will do: the configuration or the databases have to be mended."""

    why: str


Verdict = Serve | Resolve | Wait | Refuse


def decide(first: Side, second: Side) -> Verdict:
    """`first` is what the configuration calls the source: it serves where neither side was ever in a move."""
    serving = [s for s in (first, second) if s.known is not None and s.known.state is State.SERVING]
    if len(serving) == 2:
        return _both_serve(first, second)
    if serving:
        return _one_serves(serving[0], second if serving[0] is first else first)
    # The source of an open run before a side that moved away: a REVERT drains towards a moved database.
    for side, other in ((first, second), (second, first)):
        if side.known is not None and side.known.state is State.DRAINING:
            return _draining(side, other)
    for side, other in ((first, second), (second, first)):
        if side.known is not None and side.known.state is State.MOVED:
            return _moved(side, other)
    if first.known is None and second.known is None:
        return _unmanaged(first, second)
    return _replica_only(first, second)


def _both_serve(first: Side, second: Side) -> Verdict:
    assert first.known is not None
    assert second.known is not None
    if first.known.epoch == second.known.epoch:
        return Refuse(
            f'"{first.name}" and "{second.name}" both say that they serve at epoch {first.known.epoch}; '
            "one of them was restored from a backup or is a copy. Drop the schema pgcutover on the one that is not "
            "to serve."
        )
    winner = first if first.known.epoch > second.known.epoch else second
    return Serve(winner.name, max(first.known.epoch, second.known.epoch), "the higher epoch serves")


def _one_serves(side: Side, other: Side) -> Verdict:
    assert side.known is not None
    why = f'"{side.name}" says that it serves at epoch {side.known.epoch}'
    if other.known is not None and other.known.state is State.DRAINING and other.known.run_id is not None:
        # Committed: the other side only has not been told yet.
        why += f'; "{other.name}" has not been retired yet'
    return Serve(side.name, side.known.epoch, why, side.known.run_id)


def _draining(side: Side, other: Side) -> Verdict:
    assert side.known is not None
    if side.known.run_id is None:
        return Refuse(f'"{side.name}" is draining for no run; its control schema was changed by hand')
    if not other.reachable:
        return Wait(
            f'run {side.known.run_id} had fenced "{side.name}" and may have committed on "{other.name}", '
            "which cannot be reached"
        )
    return Resolve(side.known.run_id, side.name, other.name)


def _moved(side: Side, other: Side) -> Verdict:
    assert side.known is not None
    if not other.reachable:
        return Wait(f'"{side.name}" has moved to "{other.name}", which cannot be reached')
    if other.known is None or other.known.uuid != side.known.successor:
        successor = side.known.successor_place or f"the database {side.known.successor}"
        return Refuse(
            f"{side} has moved to {successor}, and {other} is not that database. "
            f'Configure the database that "{side.name}" moved to.'
        )
    return Refuse(
        f'"{side.name}" has moved to "{other.name}", which does not say that it serves ({other.known.state}); '
        "its control schema was changed by hand"
    )


def _unmanaged(first: Side, second: Side) -> Verdict:
    if first.reachable:
        return Serve(first.name, None, "no move has been made; the configuration decides")
    return Wait(f'neither "{first.name}" nor a record of a move on "{second.name}" can be read')


def _replica_only(first: Side, second: Side) -> Verdict:
    replica, other = (first, second) if first.known is not None else (second, first)
    if other.reachable and other.known is None:
        return Refuse(
            f'"{replica.name}" is the replica of a move, and "{other.name}" knows of no move. Configure the '
            f'database that "{replica.name}" replicates from, or drop the schema pgcutover on "{replica.name}".'
        )
    if other.reachable:
        return Refuse(f'"{first.name}" and "{second.name}" both say that they are replicas; neither serves')
    return Wait(f'"{replica.name}" is a replica, and "{other.name}" cannot be reached')
