"""The state of one admin session: settings, transaction, prepared statements, portals. Pure.

A transaction is a word only: drivers open one before their first statement, so BEGIN and COMMIT must work,
but a command takes effect when it runs. An error inside one does not spoil it, since there is nothing to
undo; ROLLBACK warns where commands with effects have run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.wire.codes import TransactionStatus

from .errors import TooManyStatements
from .lexer import StatementText
from .result import Row
from .settings import SessionSettings

if TYPE_CHECKING:
    from .statement import Statement

_MOST_PREPARED: Final = 1000
_MOST_PORTALS: Final = 1000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement after Parse. `text` and `template` are None for an empty query.

    `template` has placeholders for parameters and is there for its columns; Bind makes the one that runs.
    """

    text: StatementText | None
    template: Statement | None
    parameter_oids: tuple[int, ...]


@dataclass(slots=True)
class Portal:
    """A statement after Bind. `rows` has not been sent yet; None until the statement has run through."""

    statement: Statement | None
    formats: tuple[int, ...]
    started: bool = False
    rows: Sequence[Row] | None = None
    completed: bool = False


@dataclass(slots=True)
class ConsoleSession:
    user: str
    database: str
    pid: int
    settings: SessionSettings
    in_transaction: bool = False
    effects: list[str] = field(default_factory=list)
    """Tags of the commands with effects that ran in this transaction."""
    prepared: dict[str, Prepared] = field(default_factory=dict)
    portals: dict[str, Portal] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The byte of ReadyForQuery."""
        return TransactionStatus.IN_TRANSACTION if self.in_transaction else TransactionStatus.IDLE

    def end_transaction(self) -> None:
        self.in_transaction = False
        self.effects.clear()
        self.portals.clear()

    def keep_prepared(self, name: str, prepared: Prepared) -> None:
        """Raises TooManyStatements: what a client leaves behind must not grow for ever."""
        _keep(self.prepared, name, prepared, _MOST_PREPARED)

    def keep_portal(self, name: str, portal: Portal) -> None:
        """Raises TooManyStatements."""
        _keep(self.portals, name, portal, _MOST_PORTALS)


def _keep(kept: dict[str, T], name: str, value: T, limit: int) -> None:
    if name not in kept and len(kept) >= limit:
        raise TooManyStatements(limit)
    kept[name] = value
