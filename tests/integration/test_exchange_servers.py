"""What the model backend of tests/unit/test_exchange.py claims, asked of real servers: which messages are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from daemon.demo.embedded import EmbeddedPostgres
from proxy.session.exchange import Exchange
from proxy.wire import messages
from proxy.wire.messages import message
from tests.support.conversation import COPY_HAS_FAILED, COPY_IS_DONE, COPY_ROWS, Heard, extended, prepare

DEADLINE_S = 10.0
SCHEMA = messages.query("CREATE TEMP TABLE t (a int, b text); CREATE TEMP VIEW v AS SELECT * FROM t")

COPY = "COPY t FROM STDIN"
COPY_FAILS_EARLY = "COPY v FROM STDIN"  # "cannot copy to view", said after CopyInResponse
BAD_ROWS = message(ord("d"), b"no number\n") * 3
Q = messages.query
RUN = messages.bind("", "s") + messages.execute("") + messages.SYNC
FUNCTION_CALL = message(ord("F"), (1299).to_bytes(4, "big") + b"\0\0\0\0\0\0")  # now()

# What is sent, and how many ReadyForQuery of each part are waited for before the next; "G" waits for CopyInResponse.
Step = tuple[bytes, int | str]
SCRIPTS: dict[str, Sequence[Step]] = {
    "queries": [(Q("SELECT 1"), 1), (Q(""), 1), (Q("SELECT nonsense"), 1), (Q("SELECT 1; SELECT 2"), 1)],
    "pipelined queries": [(Q("SELECT 1") * 3, 3)],
    "extended": [(extended("SELECT 1"), 1), (extended("SELECT nonsense"), 1), (messages.SYNC, 1)],
    "pipeline with errors": [(extended("SELECT 1") + extended("SELECT 1/0") + messages.SYNC * 2 + extended(""), 5)],
    "function call": [(FUNCTION_CALL, 1)],
    "function call behind unsynced messages": [(prepare("SELECT 1", "s") + FUNCTION_CALL, 1)],
    "query behind unsynced messages": [(prepare("SELECT 1", "s"), 0), (Q("SELECT 1"), 1), (RUN, 1)],
    "simple copy": [(Q(COPY), "G"), (COPY_ROWS + COPY_IS_DONE, 1)],
    "simple copy that the client gives up": [(Q(COPY), "G"), (COPY_ROWS + COPY_HAS_FAILED, 1)],
    "simple copy that fails": [(Q(COPY), "G"), (BAD_ROWS, 1), (COPY_ROWS + COPY_IS_DONE, 0), (Q("SELECT 1"), 1)],
    "simple copy that fails early": [(Q(COPY_FAILS_EARLY), "G"), (COPY_ROWS + COPY_IS_DONE, 1)],
    "two copies in a query": [(Q(f"{COPY};{COPY}"), "G"), (COPY_ROWS + COPY_IS_DONE, "G"), (COPY_IS_DONE, 1)],
    "simple copy sent blindly": [(Q(COPY) + COPY_ROWS + COPY_IS_DONE, 1)],
    "copy": [(extended(COPY), "G"), (COPY_ROWS + COPY_IS_DONE + messages.SYNC, 1)],
    "copy with two syncs ahead": [(extended(COPY) + messages.SYNC, "G"), (COPY_IS_DONE + messages.SYNC, 1)],
    "copy with a sync in the middle": [
        (extended(COPY, sync=False) + messages.FLUSH, "G"),
        (COPY_ROWS + messages.SYNC + messages.FLUSH + COPY_ROWS + COPY_IS_DONE + messages.SYNC, 1),
    ],
    "copy that fails": [(extended(COPY), "G"), (BAD_ROWS + COPY_IS_DONE + messages.SYNC, 1)],
    "copy that fails early": [(extended(COPY_FAILS_EARLY), "G"), (COPY_ROWS + COPY_IS_DONE + messages.SYNC, 2)],
    "copy that fails early, two syncs": [(extended(COPY_FAILS_EARLY) + messages.SYNC, "G"), (messages.SYNC, 3)],
    "copy sent blindly": [(extended(COPY, sync=False) + COPY_ROWS + COPY_IS_DONE + messages.SYNC, 1)],
    "copy out": [(extended("COPY (SELECT 1) TO STDOUT"), 1), (Q("COPY t TO STDOUT"), 1)],
    "closing what does not exist": [(messages.close("S", "never") + messages.close("P", "") + messages.SYNC, 1)],
    "transaction": [(Q("BEGIN") + extended("SELECT 1/0") + Q("SELECT 1") + Q("ROLLBACK"), 4)],
}

PREPARED: dict[str, tuple[bytes, bool]] = {
    "parse and describe": (prepare("SELECT 1", "s"), True),
    "no rows to describe": (prepare("SET work_mem = 1", "s"), True),
    "several": (prepare("SELECT 1", "a") + messages.close("S", "a") + prepare("SELECT $1", "b"), True),
    "failed": (prepare("SELECT nonsense", "s"), False),
    "bound": (messages.parse("", "SELECT 1") + messages.bind("", "") + messages.FLUSH, False),
}


class Direct:
    """A connection to a server without anything between, seen by an Exchange."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.exchange: Exchange = Heard().exchange()
        self.came: list[int] = []
        self.never_early = True

    @classmethod
    async def to(cls, server: EmbeddedPostgres) -> Direct:
        direct = cls(*await asyncio.open_connection(server.host, server.port))
        body = b"\0\3\0\0user\0" + server.superuser.encode() + b"\0database\0postgres\0\0"
        direct.writer.write((len(body) + 4).to_bytes(4, "big") + body)
        await direct.until("Z", 1)
        direct.exchange.reset()
        return direct

    def send(self, data: bytes) -> None:
        self.exchange.client(data)
        self.writer.write(data)

    async def _next(self) -> int:
        head = await self.reader.readexactly(5)
        self.exchange.server(head + await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4))
        self.came.append(head[0])
        return head[0]

    async def until(self, kind: str, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while count:
                count -= await self._next() == ord(kind)

    async def play(self, steps: Sequence[Step]) -> None:
        for data, awaited in steps:
            self.send(data)
            if isinstance(awaited, str):
                await self.until(awaited, 1)
                assert not self.exchange.quiet
                continue
            for number in range(awaited):
                await self.until("Z", 1)
                early = "early" if number + 1 < awaited and self.exchange.quiet else ""
                self.never_early = self.never_early and not early

    async def owed(self) -> int:
        """How many ReadyForQuery come before the one of a request sent now, whatever the exchange believes."""
        self.came.clear()
        self.exchange.reset()
        self.send(Q("SHOW port"))
        await self.until("T", 1)
        before = self.came.count(ord("Z"))
        await self.until("Z", 1)
        return before


@pytest.fixture(params=["pg16", "pg18"])
def server(request: pytest.FixtureRequest) -> EmbeddedPostgres:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, EmbeddedPostgres)
    return found


async def test_counts_agree(server: EmbeddedPostgres) -> None:
    wrong: dict[str, str] = {}
    for name, steps in SCRIPTS.items():
        direct = await Direct.to(server)
        direct.send(SCHEMA)
        await direct.until("Z", 1)
        await direct.play(steps)
        quiet = direct.exchange.quiet
        owed = await direct.owed()
        if not quiet or owed:
            wrong[name] = f"quiet {quiet}, {owed} answers still owed"
        if not direct.never_early and "fails early" not in name:
            wrong[name] = "quiet too early"
        direct.writer.close()
    assert wrong == {}


async def test_prepared_only(server: EmbeddedPostgres) -> None:
    """A Sync of ours behind such a batch is answered, and what was prepared is still there."""
    for name, (batch, expected) in PREPARED.items():
        direct = await Direct.to(server)
        direct.send(batch)
        await direct.until(
            "E" if name == "failed" else "2" if name == "bound" else "n" if "no rows" in name else "T", 1
        )
        if name == "several":
            await direct.until("T", 1)
        assert direct.exchange.prepared_only is expected, name
        if expected:
            direct.exchange.synced_for_client()
            direct.writer.write(messages.close("S", "nothing") + messages.SYNC)
            await direct.until("Z", 1)
            assert direct.exchange.quiet
            direct.send(Q("SELECT name FROM pg_prepared_statements"))
            await direct.until("D", 1)
        direct.writer.close()
