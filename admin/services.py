"""Everything a command of the console may touch, as Protocols: the daemon puts the real parts in.

Errors. Where a service cannot do what it is asked it raises `proxy.errors.ProxyError` (or a ConsoleError of
ours), `cutover.api.MoveError` or `config.problems.ConfigError`; each reaches the operator with its own words.
Anything else is a fault of ours: it is logged, the operator reads XX000, the session goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from config.model import Config
from cutover.api import MoveService
from proxy.views import ClientView, DatabaseView, PoolView, ServerView, StatsView
from proxy.wire.startup import StartupParameters

from .averages import StatsAverages
from .background import Background
from .cancel import CancelKeys


class ShutdownMode(StrEnum):
    """PgBouncer's words. `NOW` closes clients and links at once."""

    NOW = "now"
    WAIT_FOR_SERVERS = "wait_for_servers"
    WAIT_FOR_CLIENTS = "wait_for_clients"


class ProxyService(Protocol):
    """The proxy as an operator sees and steers it. Methods without `async` take effect before they return.

    Commands check that a database exists, and whether it is paused, in `databases()` before they call, so the
    methods are only given names from there.
    """

    def databases(self) -> Sequence[DatabaseView]: ...

    def pools(self) -> Sequence[PoolView]: ...

    def clients(self) -> Sequence[ClientView]:
        """Every client of every database, those that are logging in included; admin sessions are not."""
        ...

    def servers(self) -> Sequence[ServerView]: ...

    def stats(self) -> Sequence[StatsView]: ...

    def pause(self, database: str) -> None:
        """Begin a PAUSE: clients may log in and queue, nothing new reaches the server. Shown as `paused`."""
        ...

    async def wait_paused(self, database: str) -> bool:
        """Return when a PAUSE is complete: every session is quiet. False where RESUME came first.

        A caller that is cancelled leaves the pause as it is; the console undoes it with `resume`.
        """
        ...

    def resume(self, database: str) -> None:
        """End a PAUSE or KILL. A hold that a run has of its own stays."""
        ...

    def maintain(self, database: str, on: bool) -> None:
        """Hold clients that are not inside a transaction, without waiting for anybody; or let them go."""
        ...

    def enable(self, database: str, enabled: bool) -> None:
        """Whether new clients may log in. Those that are in stay."""
        ...

    def reconnect(self, database: str) -> None:
        """Have every link of the database replaced when its session lets it go."""
        ...

    async def wait_close(self, database: str) -> None:
        """Return when no link is left that `reconnect` or a reload marked."""
        ...

    async def kill(self, database: str) -> int:
        """Close clients and links at once and leave the database paused. Returns the number of clients
        closed.
        """
        ...


class Port(Protocol):
    """The connection of an admin session: proxy.net.port.HandshakePort."""

    async def read_message(self, max_length: int) -> tuple[int, bytes]: ...

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...


class Login(Protocol):
    """Who logged in: proxy.net.client_login.ClientLogin."""

    @property
    def user(self) -> str: ...

    @property
    def database(self) -> str: ...

    @property
    def startup(self) -> StartupParameters: ...


@dataclass(frozen=True, slots=True)
class ConsoleServices:
    """One per daemon, shared by its admin sessions.

    `reload` reads both files and applies the difference, or raises ConfigError with everything that is wrong;
    it answers lines that say what changed. `set_value(key, value)` changes a key of [general] until the next
    restart; the value has been checked and has the type of the key. `shutdown` asks for the end and returns
    at once. `background` keeps verbs whose console went away: the daemon waits for it before it ends.
    `cancels` is asked when a cancel request matches no client. `averages` wants `averages.run(proxy.stats)`
    as a task.
    """

    moves: MoveService
    proxy: ProxyService
    config: Callable[[], Config]
    reload: Callable[[], Awaitable[Sequence[str]]]
    set_value: Callable[[str, object], Awaitable[None]]
    shutdown: Callable[[ShutdownMode], None]
    version: str
    started_at: datetime
    averages: StatsAverages = field(default_factory=StatsAverages)
    background: Background = field(default_factory=Background)
    cancels: CancelKeys = field(default_factory=CancelKeys)
