"""One database name that clients use: where it leads, its gate, its sessions and its counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from config.model import Config, Database

from ..routing.gate import Gate
from ..session.footprint import Vocabulary
from .link_login import LinkTarget

if TYPE_CHECKING:
    from .session import Session


def link_target(database: Database) -> LinkTarget:
    return LinkTarget(
        name=database.name,
        host=database.host,
        port=database.port,
        database=database.server_database,
        sslmode=database.sslmode,
        sslrootcert=database.sslrootcert,
        sslcert=database.sslcert,
        sslkey=database.sslkey,
    )


class Route:
    """`name` stays what clients ask for; a swap exchanges the targets of two routes."""

    def __init__(self, config: Config, database: Database) -> None:
        self.name = database.name
        self.target = link_target(database)
        self.pool_size = config.pool_size(database)
        self.pool_mode = database.pooler_mode or config.general.pooler_mode
        self.sessions: set[Session] = set()
        self.logging_in = 0  # links being opened for clients
        self.waiting: dict[object, tuple[str, float]] = {}  # user and since when, of clients without a link yet
        self.disabled = False
        self.vocabulary = Vocabulary()
        self.gate = Gate(self._gate_changed)
        self.logins_open = asyncio.Event()
        self.logins_open.set()
        self.link_given_back = asyncio.Condition()
        self.keeps_lost_links = False
        self.outcome_unknown = False
        self.on_quiet: Callable[[Session], None] | None = None
        self.holds_ms: list[float] | None = None
        self.query_count = 0
        self.transaction_count = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.transaction_time_us = 0
        self.wait_time_us = 0
        self.login_count = 0

    def hold_ended(self, waited_s: float) -> None:
        if self.holds_ms is not None:
            self.holds_ms.append(waited_s * 1000.0)

    def close_logins(self) -> None:
        """New clients wait before their link is opened; those half way are counted in `logging_in`."""
        self.logins_open.clear()

    def open_logins(self) -> None:
        self.logins_open.set()

    def _gate_changed(self) -> None:
        if not self.gate.owners:
            for session in tuple(self.sessions):
                session.let_go()

    def forget(self, session: Session) -> None:
        """A session ended: its counters stay."""
        self.sessions.discard(session)
        self.query_count += session.exchange.queries
        self.transaction_count += session.exchange.transactions
        self.bytes_received += session.bytes_received
        self.bytes_sent += session.bytes_sent
