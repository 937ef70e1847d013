"""The phases of a run, and what a failure means in each. Pure: no clock, no I/O.

    PREPARING --hold--> HOLDING --commit sent--> DECIDING --answer--> COMMITTED --finished--> DONE
        |                  |                        |
        +----- abort ------+                        +--(answer: aborted)--> ABORTED
        v
     ABORTED

PREPARING and HOLDING lead back: only the leader commits, and it has not tried to, so traffic may go on on the
source at once, whether or not the destination can be told. In DECIDING nobody knows the outcome until the
destination has said it: clients stay held, and the question is put again until it is answered. After COMMITTED
nothing leads back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never


class Phase(StrEnum):
    PREPARING = "preparing"
    HOLDING = "holding"
    DECIDING = "deciding"
    COMMITTED = "committed"
    DONE = "done"
    ABORTED = "aborted"


class Event(StrEnum):
    HOLD_BEGINS = "hold begins"
    COMMIT_SENT = "commit sent"
    ANSWER_COMMITTED = "answer: committed"
    ANSWER_ABORTED = "answer: aborted"
    STEP_FAILED = "step failed"
    FINISHED = "finished"


class Reaction(StrEnum):
    """What the driver does when a step fails."""

    GO_BACK = "go back"
    ASK_AGAIN = "ask the destination until it answers"
    GO_FORWARD = "go forward"


class IllegalTransition(Exception):
    """The driver did something out of order; a bug, never the operator's doing."""


_TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.PREPARING, Event.HOLD_BEGINS): Phase.HOLDING,
    (Phase.PREPARING, Event.STEP_FAILED): Phase.ABORTED,
    (Phase.HOLDING, Event.COMMIT_SENT): Phase.DECIDING,
    (Phase.HOLDING, Event.STEP_FAILED): Phase.ABORTED,
    (Phase.DECIDING, Event.ANSWER_COMMITTED): Phase.COMMITTED,
    (Phase.DECIDING, Event.ANSWER_ABORTED): Phase.ABORTED,
    (Phase.DECIDING, Event.STEP_FAILED): Phase.DECIDING,
    (Phase.COMMITTED, Event.STEP_FAILED): Phase.COMMITTED,
    (Phase.COMMITTED, Event.FINISHED): Phase.DONE,
}


def advance(phase: Phase, event: Event) -> Phase:
    """The next phase. Raises IllegalTransition for anything not in the table."""
    try:
        return _TRANSITIONS[phase, event]
    except KeyError:
        raise IllegalTransition(f"{event} in phase {phase}") from None


def on_failure(phase: Phase) -> Reaction:
    match phase:
        case Phase.PREPARING | Phase.HOLDING | Phase.ABORTED:
            return Reaction.GO_BACK
        case Phase.DECIDING:
            return Reaction.ASK_AGAIN
        case Phase.COMMITTED | Phase.DONE:
            return Reaction.GO_FORWARD
        case _:
            assert_never(phase)
