"""The phases of a run: what follows what, and that nothing leads back once the commit may have happened."""

from __future__ import annotations

import pytest

from cutover.machine import Event, IllegalTransition, Phase, Reaction, advance, on_failure

GOOD_RUN = [
    (Event.HOLD_BEGINS, Phase.HOLDING),
    (Event.COMMIT_SENT, Phase.DECIDING),
    (Event.ANSWER_COMMITTED, Phase.COMMITTED),
    (Event.FINISHED, Phase.DONE),
]


def test_a_good_run() -> None:
    phase = Phase.PREPARING
    for event, expected in GOOD_RUN:
        phase = advance(phase, event)
        assert phase is expected


def test_a_failure_leads_back_only_before_the_commit_is_sent() -> None:
    assert on_failure(Phase.PREPARING) is Reaction.GO_BACK
    assert on_failure(Phase.HOLDING) is Reaction.GO_BACK
    assert on_failure(Phase.DECIDING) is Reaction.ASK_AGAIN
    assert on_failure(Phase.COMMITTED) is Reaction.GO_FORWARD
    assert advance(Phase.DECIDING, Event.STEP_FAILED) is Phase.DECIDING
    assert advance(Phase.COMMITTED, Event.STEP_FAILED) is Phase.COMMITTED


def test_everything_else_is_a_bug() -> None:
    legal = 0
    for phase in Phase:
        for event in Event:
            try:
                advance(phase, event)
                legal += 1
            except IllegalTransition:
                continue
    assert legal == 9
    with pytest.raises(IllegalTransition):
        advance(Phase.ABORTED, Event.COMMIT_SENT)
    with pytest.raises(IllegalTransition):
        advance(Phase.HOLDING, Event.ANSWER_COMMITTED)
