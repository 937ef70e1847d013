"""One client of the workload: when it sends, what it writes down, what it does about errors.

A key is sent once and never again, whatever happens to it, so a key that arrives twice was doubled by
somebody else.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from .clients import Attempt, LedgerClient, ended_connection, sqlstate_of
from .ledger import SHARED_ACCOUNTS, entry_for
from .records import ClientError, ClientRecord, Outcome

_CONNECT_DEADLINE_S = 30.0
_RECONNECT_PAUSE_S = 0.05
# A client that is late by more than this forgets the rest: after a stall it does not make a burst.
_CATCH_UP_S = 0.1


@dataclass(frozen=True, slots=True)
class Habits:
    """How a client behaves. Shares are of its transactions, the rest are BEGIN .. COMMIT writes."""

    interval_s: float  # mean time between the beginnings of two transactions; 0: back to back
    read_share: float
    statement_share: float
    think_s: float  # between the statements of a BEGIN .. COMMIT


class TrafficClient:
    """Runs one client until it is told to stop; everything it saw is in `record`."""

    def __init__(self, client: LedgerClient, habits: Habits, record: ClientRecord) -> None:
        self.record = record
        self.busy_since_s: float | None = None
        self._client = client
        self._habits = habits
        self._chance = random.Random(record.client)

    async def connect(self) -> None:
        """The first connection. Raises the driver's error, or TimeoutError after 30 s."""
        async with asyncio.timeout(_CONNECT_DEADLINE_S):
            await self._client.connect()
        self.record.connects += 1

    async def run(self, stopping: asyncio.Event) -> None:
        """Transactions until `stopping`; the one under way is finished."""
        due = time.monotonic() + self._chance.random() * self._habits.interval_s
        while not stopping.is_set():
            now = time.monotonic()
            if due > now:
                await _sleep_unless(stopping, due - now)
                continue
            due = max(due, now - _CATCH_UP_S) + self._habits.interval_s * self._chance.uniform(0.5, 1.5)
            if self._client.is_open or await self._reconnect(stopping):
                await self._one_transaction()
        await self._client.close()

    def give_up(self, waited_s: float) -> None:
        """The transaction under way did not end after `stopping`, and its task was cancelled."""
        self._note_error("", f"did not end within {waited_s:g} s", "last transaction")

    async def _one_transaction(self) -> None:
        begin = self.busy_since_s = time.monotonic()
        if self._chance.random() < self._habits.read_share:
            done = await self._read()
        else:
            done = await self._write()
        self.busy_since_s = None
        if done:
            self.record.starts_s.append(begin)
            self.record.latencies_ms.append((time.monotonic() - begin) * 1000)

    async def _read(self) -> bool:
        try:
            self.record.saw_version(await self._client.read(self._chance.randrange(SHARED_ACCOUNTS)))
        except Exception as error:  # whatever a driver raises is what the application would see
            await self._after_error(error, "read")
            return False
        return True

    async def _write(self) -> bool:
        n = len(self.record.outcomes) + 1
        entry = entry_for(self.record.client, n, slow=self.record.slow)
        attempt = Attempt()
        # Until we know better; a cancelled task leaves it so.
        self.record.outcomes.append(Outcome.UNKNOWN.value)
        try:
            if self._chance.random() * (1 - self._habits.read_share) < self._habits.statement_share:
                attempt.may_be_committed = True
                await self._client.write_statement(entry)
            else:
                await self._client.write_transaction(entry, attempt, self._habits.think_s)
        except Exception as error:  # as above
            if not (attempt.may_be_committed and ended_connection(error)):
                self.record.outcomes[-1] = Outcome.REFUSED.value
            await self._after_error(error, "write")
            return False
        self.record.outcomes[-1] = Outcome.ACKNOWLEDGED.value
        return True

    async def _after_error(self, error: Exception, doing: str) -> None:
        self._note_error(sqlstate_of(error), f"{type(error).__name__}: {error}".strip(), doing)
        if self._client.is_open and not ended_connection(error):
            try:
                await self._client.rollback()
                return
            except Exception as again:
                self._note_error(sqlstate_of(again), f"{type(again).__name__}: {again}", "rollback")
        await self._client.close()

    async def _reconnect(self, stopping: asyncio.Event) -> bool:
        try:
            await self.connect()
        except Exception as error:
            self._note_error(sqlstate_of(error), f"{type(error).__name__}: {error}", "connect")
            await self._client.close()
            await _sleep_unless(stopping, _RECONNECT_PAUSE_S)
            return False
        return True

    def _note_error(self, sqlstate: str, text: str, doing: str) -> None:
        error = ClientError(time.monotonic(), len(self.record.outcomes), sqlstate, text[:500], doing)
        self.record.errors.append(error)


async def _sleep_unless(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        pass
