"""Who serves, for every state that a run can leave behind, in both directions and however the files name the sides."""

from __future__ import annotations

import itertools
from uuid import UUID, uuid4

import pytest

from cutover.recovery import Known, Refuse, Resolve, Serve, Side, State, Wait, decide

OLD, NEW = UUID(int=1), UUID(int=2)
RUN = uuid4()


def known(uuid: UUID, state: State, epoch: int = 1, run: UUID | None = None, successor: UUID | None = None) -> Known:
    return Known(uuid, state, epoch, run, successor)


# Each row: what the source and the destination of the run say, in the order in which a run changes them, and what
# has to follow: the side that serves, or "resolve" (the arbiter on the destination is asked).
CUTOVER_TRAIL = [
    (known(OLD, State.SERVING), known(NEW, State.REPLICA), "source"),
    (known(OLD, State.SERVING, run=RUN), known(NEW, State.REPLICA), "source"),
    (known(OLD, State.DRAINING, run=RUN), known(NEW, State.REPLICA), "resolve"),
    (known(OLD, State.DRAINING, run=RUN), known(NEW, State.SERVING, 2), "destination"),
    (known(OLD, State.MOVED, 2, successor=NEW), known(NEW, State.SERVING, 2), "destination"),
]
REVERT_TRAIL = [
    (known(NEW, State.SERVING, 2), known(OLD, State.MOVED, 2, successor=NEW), "source"),
    (known(NEW, State.SERVING, 2, run=RUN), known(OLD, State.MOVED, 2, successor=NEW), "source"),
    (known(NEW, State.DRAINING, 2, run=RUN), known(OLD, State.MOVED, 2, successor=NEW), "resolve"),
    (known(NEW, State.DRAINING, 2, run=RUN), known(OLD, State.SERVING, 3), "destination"),
    (known(NEW, State.MOVED, 3, successor=OLD), known(OLD, State.SERVING, 3), "destination"),
]


@pytest.mark.parametrize("trail", [CUTOVER_TRAIL, REVERT_TRAIL], ids=["cutover", "revert"])
@pytest.mark.parametrize("file_is_stale", [False, True])
@pytest.mark.parametrize("at", range(5))
def test_every_prefix_of_a_run(trail: list[tuple[Known, Known, str]], file_is_stale: bool, at: int) -> None:
    here, there, expected = trail[at]
    source, destination = Side("source", True, here), Side("destination", True, there)
    sides = (destination, source) if file_is_stale else (source, destination)
    verdict = decide(*sides)
    if expected == "resolve":
        assert verdict == Resolve(RUN, "source", "destination")
    else:
        assert isinstance(verdict, Serve)
        assert verdict.name == expected


@pytest.mark.parametrize("trail", [CUTOVER_TRAIL, REVERT_TRAIL], ids=["cutover", "revert"])
@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("lost", ["source", "destination"])
def test_with_one_side_away_nobody_is_guessed(trail: list[tuple[Known, Known, str]], at: int, lost: str) -> None:
    here, there, _expected = trail[at]
    source = Side("source", lost != "source", None if lost == "source" else here)
    destination = Side("destination", lost != "destination", None if lost == "destination" else there)
    remaining = there if lost == "source" else here
    for sides in ((source, destination), (destination, source)):
        verdict = decide(*sides)
        if remaining.state is State.SERVING:
            assert isinstance(verdict, Serve)
            assert verdict.name == ("destination" if lost == "source" else "source")
        else:
            assert isinstance(verdict, Wait), verdict


def test_a_database_that_was_never_moved_follows_the_file() -> None:
    verdict = decide(Side("a", True, None), Side("b", True, None))
    assert isinstance(verdict, Serve)
    assert (verdict.name, verdict.epoch) == ("a", None)
    assert isinstance(decide(Side("a", True, None), Side("b", False, None)), Serve)
    assert isinstance(decide(Side("a", False, None), Side("b", True, None)), Wait)
    assert isinstance(decide(Side("a", False, None), Side("b", False, None)), Wait)


def test_a_moved_database_without_its_successor_is_refused_by_name() -> None:
    moved = Side("a", True, known(OLD, State.MOVED, 2, successor=NEW))
    for other in (Side("b", True, None), Side("b", True, known(uuid4(), State.REPLICA))):
        verdict = decide(moved, other)
        assert isinstance(verdict, Refuse)
        assert '"a"' in verdict.why
        assert '"b"' in verdict.why


def test_two_that_serve_go_by_the_epoch_and_a_tie_is_refused() -> None:
    low, high = Side("a", True, known(OLD, State.SERVING, 3)), Side("b", True, known(NEW, State.SERVING, 4))
    assert isinstance(decide(low, high), Serve)
    assert decide(low, high).name == "b"  # type: ignore[union-attr]
    assert isinstance(decide(low, Side("b", True, known(NEW, State.SERVING, 3))), Refuse)


def test_no_combination_of_states_raises_or_serves_a_side_that_does_not_say_so() -> None:
    facts: list[Known | None] = [None] + [
        known(uuid, state, epoch, run)
        for uuid in (OLD, NEW)
        for state in State
        for epoch in (1, 2)
        for run in (None, RUN)
    ]
    for one, other in itertools.product(facts, facts):
        for reach_one, reach_other in itertools.product((True, False), repeat=2):
            first = Side("a", reach_one, one if reach_one else None)
            second = Side("b", reach_other, other if reach_other else None)
            verdict = decide(first, second)
            if isinstance(verdict, Serve):
                side = first if verdict.name == "a" else second
                never_moved = first.known is None and second.known is None and verdict.name == "a"
                assert never_moved or (side.known is not None and side.known.state is State.SERVING)
