"""The gate of one database and who holds it."""

from __future__ import annotations

from proxy.routing.gate import Gate, GateState


class Watched:
    def __init__(self) -> None:
        self.states: list[GateState] = []
        self.gate = Gate(lambda: self.states.append(self.gate.state))


def test_open_at_first() -> None:
    gate = Watched().gate
    assert gate.state is GateState.OPEN
    assert gate.owners == frozenset()
    assert not gate.held_by("run")


def test_hold_close_release() -> None:
    watched = Watched()
    gate = watched.gate
    gate.hold("run")
    assert gate.state is GateState.DRAINING
    assert gate.held_by("run")
    gate.closed()
    assert gate.state is GateState.CLOSED
    assert gate.release("run")
    assert gate.state is GateState.OPEN
    assert watched.states == [GateState.DRAINING, GateState.OPEN]


def test_open_gate_is_not_closed_behind_anybodys_back() -> None:
    gate = Watched().gate
    gate.closed()
    assert gate.state is GateState.OPEN


def test_the_end_of_a_run_does_not_lift_an_operators_pause() -> None:
    watched = Watched()
    gate = watched.gate
    gate.hold("operator")
    gate.hold("run")
    gate.closed()
    assert not gate.release("run")
    assert gate.state is GateState.CLOSED
    assert gate.owners == {"operator"}
    assert gate.release("operator")
    assert watched.states[-1] is GateState.OPEN


def test_nor_the_reverse() -> None:
    gate = Watched().gate
    gate.hold("run")
    gate.hold("operator")
    assert not gate.release("operator")
    assert gate.held_by("run")
    assert gate.state is GateState.DRAINING


def test_holding_again_keeps_a_closed_gate_closed() -> None:
    gate = Watched().gate
    gate.hold("operator")
    gate.closed()
    gate.hold("run")
    assert gate.state is GateState.CLOSED


def test_releasing_what_is_not_held() -> None:
    watched = Watched()
    assert watched.gate.release("nobody")
    watched.gate.hold("run")
    assert not watched.gate.release("nobody")
    assert watched.gate.release("run")
    assert watched.gate.release("run")
    assert watched.states == [GateState.DRAINING, GateState.OPEN]
