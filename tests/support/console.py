"""A console with everything behind it faked: a move and a proxy that do what a test tells them, and a port
without a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import SecretStr

from admin.averages import StatsAverages
from admin.services import ConsoleServices, ShutdownMode
from config.model import Admin, Config, CutoverPair, Database, User
from cutover.api import (
    CutoverStateRow,
    Finding,
    MoveError,
    NodeRow,
    Notify,
    ReplicationRow,
    RunKind,
    RunOutcome,
    RunReport,
    Severity,
    StepRow,
    TableCopyRow,
)
from proxy.errors import PeerClosed
from proxy.views import ClientView, DatabaseView, PoolView, ServerView, StatsView
from proxy.wire.codes import PROTOCOL_3_0
from proxy.wire.framing import take_message
from proxy.wire.startup import StartupParameters

VERSION = "0.1.0"
STARTED_AT = datetime(2025, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
CONNECTED_AT = 1_700_000_000.0


def example_config() -> Config:
    return Config(
        admin=Admin(password=SecretStr("secret")),
        databases=(
            Database(name="app", host="10.0.0.5"),
            Database(name="app_next", host="10.0.0.9", database_name="app"),
        ),
        cutover=(CutoverPair(source="app", destination="app_next", user="replicator"),),
        users=(
            User(name="alice", database="app", password=SecretStr("hidden")),
            User(name="alice", database="app_next", password=SecretStr("hidden")),
            User(name="bob", database="app", password=SecretStr("hidden")),
        ),
    )


def example_report(kind: RunKind = RunKind.CUTOVER, outcome: RunOutcome | None = RunOutcome.COMMITTED) -> RunReport:
    return RunReport(
        run_id="r1",
        kind=kind,
        source="app",
        destination="app_next",
        started_at=STARTED_AT,
        outcome=outcome,
        epoch=7,
        total_ms=812.34567,
        pause_ms=19.25,
        clients_held=64,
        hold_p50_ms=11.5,
        hold_p99_ms=18.75,
        hold_max_ms=19.125,
        transactions_waited=3,
        sessions_closed=1,
        round_trips=9,
        steps=[
            StepRow("hold", "done", 0.0, 3.25, "64 clients"),
            StepRow("commit", "done", 18.0, 0.5, "epoch 7"),
        ],
    )


@dataclass
class FakeMoves:
    """`error` is raised by every verb. With `gated` a run waits for `proceed` before it ends."""

    calls: list[tuple[str, str | None]] = field(default_factory=list)
    progress: Sequence[str] = ("hold: 64 clients", "commit: epoch 7")
    error: Exception | None = None
    report: RunReport = field(default_factory=example_report)
    gated: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)
    proceed: asyncio.Event = field(default_factory=asyncio.Event)
    finished: list[str] = field(default_factory=list)
    past: list[RunReport] = field(default_factory=list)

    def pairs(self) -> Sequence[str]:
        return ("app",)

    async def check(self, pair: str | None) -> list[Finding]:
        self._asked("check", pair)
        return [Finding("no_pk", Severity.BLOCK, "public.t", "no key", "add a primary key")]

    async def replicate(self, pair: str | None, notify: Notify) -> list[StepRow]:
        return await self._steps("replicate", pair, notify)

    async def complete(self, pair: str | None, notify: Notify) -> list[StepRow]:
        return await self._steps("complete", pair, notify)

    async def reset(self, pair: str | None, notify: Notify) -> list[StepRow]:
        return await self._steps("reset", pair, notify)

    async def cutover(self, pair: str | None, notify: Notify) -> RunReport:
        await self._work("cutover", pair, notify)
        return self.report

    async def revert(self, pair: str | None, notify: Notify) -> RunReport:
        await self._work("revert", pair, notify)
        return replace(self.report, kind=RunKind.REVERT)

    async def replication(self, pair: str | None) -> list[ReplicationRow]:
        self._asked("replication", pair)
        return [
            ReplicationRow(
                "app",
                "forward",
                "pub",
                "sub",
                "slot",
                True,
                "streaming",
                12,
                12,
                5_000_000_000,
                1.23456,
                None,
            )
        ]

    async def table_copies(self, pair: str | None) -> list[TableCopyRow]:
        self._asked("table_copies", pair)
        return [TableCopyRow("public", "Orders", "copying", 10, 2**40, 2**41, 50.0, 1024.5, None)]

    async def cutover_state(self, pair: str | None) -> list[CutoverStateRow]:
        self._asked("cutover_state", pair)
        return [CutoverStateRow("app", "app", "app_next", 6, "idle", "", "", "", 0.0, "", "open")]

    async def history(self, pair: str | None) -> list[RunReport]:
        self._asked("history", pair)
        return list(self.past)

    async def nodes(self) -> list[NodeRow]:
        self._asked("nodes", None)
        return [NodeRow("n1", VERSION, "abc", True, None, "open", 12.5, 64)]

    async def _steps(self, verb: str, pair: str | None, notify: Notify) -> list[StepRow]:
        await self._work(verb, pair, notify)
        return [StepRow(verb, "done", 1.0, 2.5, f"{verb} of {pair}")]

    async def _work(self, verb: str, pair: str | None, notify: Notify) -> None:
        self._asked(verb, pair)
        first, *rest = self.progress
        notify(first)
        self.started.set()
        if self.gated:
            await self.proceed.wait()
        for line in rest:
            notify(line)
        self.finished.append(verb)

    def _asked(self, verb: str, pair: str | None) -> None:
        self.calls.append((verb, pair))
        if self.error is not None:
            raise self.error
        if pair not in (None, "app", "My App"):
            raise MoveError(f'no pair "{pair}" is configured', sqlstate="42704", hint="Configured: app.")


def _client(identifier: int, **changes: object) -> ClientView:
    view = ClientView(
        identifier, "alice", "app", "idle", "10.1.0.1", 5000, "10.0.0.1", 6432,
        CONNECTED_AT, CONNECTED_AT + 5.0, 0, 4711, "", "shop", "none", 0.0,
    )  # fmt: skip
    return replace(view, **changes)  # type: ignore[arg-type]


def _server(identifier: int, **changes: object) -> ServerView:
    view = ServerView(
        identifier, "alice", "app", "active", "10.0.0.5", 5432, "10.0.0.1", 40000, CONNECTED_AT, 0.0,
        4711, 1, "TLSv1.3/TLS_AES_256_GCM_SHA384", "shop",
    )  # fmt: skip
    return replace(view, **changes)  # type: ignore[arg-type]


def example_stats(database: str = "app", scale: int = 1) -> StatsView:
    return StatsView(database, *(scale * n for n in (10, 20, 3000, 4000, 500, 600, 700, 8, 9)))


@dataclass
class FakeProxy:
    """`quiet` decides when a pause is complete: set it and every wait ends."""

    calls: list[tuple[object, ...]] = field(default_factory=list)
    quiet: bool = True
    views: dict[str, DatabaseView] = field(
        default_factory=lambda: {
            name: DatabaseView(name, "10.0.0.5", 5432, "app", 0, "session", 2, 3, False, False, "open")
            for name in ("app", "app_next", "My App")
        }
    )
    counters: list[StatsView] = field(default_factory=lambda: [example_stats()])
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    waiting: int = 0
    marked: set[str] = field(default_factory=set)

    def databases(self) -> Sequence[DatabaseView]:
        return list(self.views.values())

    def pools(self) -> Sequence[PoolView]:
        return [PoolView("app", "alice", 3, 1, 2, 1, 0, 2_500_000, "session")]

    def clients(self) -> Sequence[ClientView]:
        return [
            _client(1),
            _client(2, state="waiting", wait_us=2_500_000, remote_pid=0),
            _client(3, state="login"),
        ]

    def servers(self) -> Sequence[ServerView]:
        return [
            _server(8),
            _server(9, state="twin", client_id=1),
            _server(10, client_id=0, close_needed=True),
        ]

    def stats(self) -> Sequence[StatsView]:
        return self.counters

    def pause(self, database: str) -> None:
        self.calls.append(("pause", database))
        self._change(database, paused=True)

    async def wait_paused(self, database: str) -> bool:
        self.waiting += 1
        try:
            async with self.changed:
                await self.changed.wait_for(lambda: self.quiet or not self.views[database].paused)
        finally:
            self.waiting -= 1
        return self.views[database].paused

    def resume(self, database: str) -> None:
        self.calls.append(("resume", database))
        self._change(database, paused=False)

    def maintain(self, database: str, on: bool) -> None:
        self.calls.append(("maintain", database, on))

    def enable(self, database: str, enabled: bool) -> None:
        self.calls.append(("enable", database, enabled))
        self._change(database, disabled=not enabled)

    def reconnect(self, database: str) -> None:
        self.calls.append(("reconnect", database))
        self.marked.add(database)

    async def wait_close(self, database: str) -> None:
        self.calls.append(("wait_close", database))
        async with self.changed:
            await self.changed.wait_for(lambda: database not in self.marked)

    async def kill(self, database: str) -> int:
        self.calls.append(("kill", database))
        self._change(database, paused=True)
        return 3

    async def announce(self) -> None:
        """Wake everybody who waits, after a test has changed something."""
        async with self.changed:
            self.changed.notify_all()

    def _change(self, database: str, **changes: bool) -> None:
        self.views[database] = replace(self.views[database], **changes)  # type: ignore[arg-type]
        if self.waiting:
            self._waker = asyncio.get_running_loop().create_task(self.announce())


@dataclass
class FakeDaemon:
    """What the console asks of the daemon, and the services made of it."""

    config: Config = field(default_factory=example_config)
    moves: FakeMoves = field(default_factory=FakeMoves)
    proxy: FakeProxy = field(default_factory=FakeProxy)
    reload_error: Exception | None = None
    reload_lines: Sequence[str] = ("changed: general.query_timeout",)
    reloads: int = 0
    shutdowns: list[ShutdownMode] = field(default_factory=list)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        self.services = ConsoleServices(
            moves=self.moves,
            proxy=self.proxy,
            config=lambda: self.config,
            reload=self._reload,
            set_value=self._set_value,
            shutdown=self.shutdowns.append,
            version=VERSION,
            started_at=STARTED_AT,
            averages=StatsAverages(lambda: self.now_s),
        )

    async def _reload(self) -> Sequence[str]:
        if self.reload_error is not None:
            raise self.reload_error
        self.reloads += 1
        return self.reload_lines

    async def _set_value(self, key: str, value: object) -> None:
        general = self.config.general.model_copy(update={key: value})
        self.config = self.config.model_copy(update={"general": general})


@dataclass
class FakeLogin:
    user: str = "admin"
    database: str = "admin"
    startup: StartupParameters = field(default_factory=lambda: startup_packet())


def startup_packet(protocol: int = PROTOCOL_3_0, **parameters: str) -> StartupParameters:
    pairs = {"user": "admin", "database": "admin", **parameters}
    return StartupParameters(protocol, tuple((k.encode(), v.encode()) for k, v in pairs.items()))


class FakePort:
    """A connection without a socket: `send` and `hang_up` are the client's side, `received` what it got."""

    def __init__(self) -> None:
        self._incoming: asyncio.Queue[tuple[int, bytes] | Exception] = asyncio.Queue()
        self._unread = bytearray()
        self.closed = False

    # -- the console's side

    async def read_message(self, max_length: int) -> tuple[int, bytes]:
        found = await self._incoming.get()
        if isinstance(found, Exception):
            raise found
        return found

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._unread += data

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        self.closed = True

    # -- the client's side

    def send(self, data: bytes) -> None:
        buffer = bytearray(data)
        while buffer:
            found = take_message(buffer, 1 << 20)
            assert found is not None, "a test sent half a message"
            self._incoming.put_nowait(found)

    def fail(self, error: Exception) -> None:
        self._incoming.put_nowait(error)

    def hang_up(self) -> None:
        self.fail(PeerClosed())

    def received(self) -> list[tuple[str, bytes]]:
        """Type and body of every message since the last time."""
        return list(self._messages())

    def _messages(self) -> Iterator[tuple[str, bytes]]:
        while (found := take_message(self._unread, 1 << 30)) is not None:
            yield chr(found[0]), found[1]
        assert not self._unread, "half a message was written"
