"""The list of checks: a decorator puts a function into it, the runner and the documentation read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .model import CheckContext, Finding, Phase, Severity, Where

CheckFunction = Callable[[CheckContext], Awaitable[list[Finding]]]

EVER = frozenset({Phase.SETUP, Phase.ARM})
SETUP_ONLY = frozenset({Phase.SETUP})
ARM_ONLY = frozenset({Phase.ARM})


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One check as the documentation and SHOW list it; `severity` is the worst it can report."""

    id: str
    title: str
    severity: Severity
    phases: frozenset[Phase]
    where: Where
    run: CheckFunction


CATALOGUE: dict[str, CatalogueEntry] = {}


def check(
    id: str, title: str, severity: Severity, where: Where, phases: frozenset[Phase] = EVER
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a check. Raises ValueError where an id is given twice."""

    def register(function: CheckFunction) -> CheckFunction:
        if id in CATALOGUE:
            raise ValueError(f"check {id} is registered twice")
        CATALOGUE[id] = CatalogueEntry(id, title, severity, phases, where, function)
        return function

    return register
