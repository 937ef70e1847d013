"""The gate of one database: whether a session may begin a new request.

States
- open      requests pass.
- draining  a session that is quiet may not begin anything; one that is not goes on, request by request, until it
            is quiet. Sessions can be stopped one group after the other (`admit`), long ones first.
- closed    every session is quiet and stays so.

The gate is opened and closed by its owner (a run, or an operator's PAUSE); owners stack, so the end of a run
never lifts a pause that an operator set, and the reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class GateState(StrEnum):
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Gate:
    """Counts the owners that keep a database held, and tells listeners when that changes."""

    __slots__ = ("_owners", "logins_wait", "on_change", "state")

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.state = GateState.OPEN
        self.logins_wait = False
        self._owners: set[str] = set()
        self.on_change = on_change

    @property
    def owners(self) -> frozenset[str]:
        return frozenset(self._owners)

    def hold(self, owner: str) -> None:
        self._owners.add(owner)
        if self.state is GateState.OPEN:
            self.state = GateState.DRAINING
        self.on_change()

    def closed(self) -> None:
        """Every session has been seen quiet."""
        if self.state is GateState.DRAINING:
            self.state = GateState.CLOSED

    def release(self, owner: str) -> bool:
        """Give up one hold; True when the gate is open now."""
        self._owners.discard(owner)
        if not self._owners and self.state is not GateState.OPEN:
            self.state = GateState.OPEN
            self.on_change()
        return self.state is GateState.OPEN

    def held_by(self, owner: str) -> bool:
        return owner in self._owners
