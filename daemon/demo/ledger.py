"""The tables of the workload and the check that no write was lost, doubled or altered.

Every write inserts one row under an idempotency key (client, n), draws an id from a sequence, and adds its
amount to an account, all in one transaction. Account and amount follow from the key, so each kind of damage
shows: a lost row (key missing), a doubled one (key twice, or the balance too high), half a transaction
(balance and rows differ), a sequence that was carried over wrongly (ids repeat or run backwards).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .records import ClientRecord, Outcome

SHARED_ACCOUNTS = 5_000
# Slow transactions keep their row locked; on accounts of their own they hold up nobody but themselves.
OWN_ACCOUNTS = 1_000
SEED_CLIENT = 0
_DETAILS_PER_KIND = 10
_PREFETCH_ROWS = 5_000

SCHEMA = """
CREATE TABLE accounts (
    id      integer PRIMARY KEY,
    balance bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

CREATE TABLE ledger (
    client  integer NOT NULL,
    n       integer NOT NULL,
    id      bigserial,
    account integer NOT NULL,
    amount  bigint  NOT NULL,
    note    text    NOT NULL DEFAULT '',
    PRIMARY KEY (client, n)
);
CREATE INDEX ledger_id ON ledger (id);
"""

INSERT_SQL = "INSERT INTO ledger (client, n, account, amount) VALUES ($1, $2, $3, $4)"
UPDATE_SQL = "UPDATE accounts SET balance = balance + $1 WHERE id = $2"
BOTH_SQL = (
    "WITH entry AS (INSERT INTO ledger (client, n, account, amount) VALUES ($1, $2, $3, $4)"
    " RETURNING account, amount)"
    " UPDATE accounts SET balance = balance + entry.amount FROM entry WHERE accounts.id = entry.account"
)
READ_SQL = "SELECT balance, current_setting('server_version_num')::int FROM accounts WHERE id = $1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One write: its idempotency key, and what follows from it."""

    client: int
    n: int
    account: int
    amount: int


def entry_for(client: int, n: int, *, slow: bool = False) -> Entry:
    account = SHARED_ACCOUNTS + client % OWN_ACCOUNTS if slow else (client * 7919 + n * 104729) % SHARED_ACCOUNTS
    return Entry(client, n, account, 1 + (client * 31 + n * 17) % 97)


@dataclass(slots=True)
class Verdict:
    """The result of the check; `ok` only when every count of damage is zero."""

    acknowledged: int = 0
    lost: int = 0  # acknowledged keys that are not there
    duplicated: int = 0  # keys that are there more than once, or that somebody tried to insert again
    client_errors: int = 0
    unknown: int = 0  # keys of which the client does not know; each may be there or not, once
    unexpected: int = 0  # rows nobody sent, or that were answered with an error
    altered: int = 0  # rows with another account or amount than was sent
    wrong_balances: int = 0  # accounts whose balance is not the sum of their rows
    wrong_ids: int = 0  # ids drawn twice, or smaller than an earlier one of the same client
    details: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        damage = self.lost + self.duplicated + self.unexpected + self.altered
        return damage + self.wrong_balances + self.wrong_ids + self.client_errors == 0

    def note(self, kind: str, count: int, text: str) -> None:
        """Keep the first few examples of each kind."""
        if count <= _DETAILS_PER_KIND:
            self.details.append(f"{kind}: {text}")


async def create_ledger(connection: Any, *, seed_rows: int = 0, note_bytes: int = 0) -> ClientRecord:
    """Make and fill the tables on an asyncpg connection; returns the record of the seeded rows.

    `note_bytes` widens the seeded rows, so that the copy of a small number of them is worth watching.
    """
    await connection.execute(SCHEMA)
    await connection.execute(
        "INSERT INTO accounts (id) SELECT generate_series(0, $1::int - 1)", SHARED_ACCOUNTS + OWN_ACCOUNTS
    )
    rows = [entry_for(SEED_CLIENT, n) for n in range(1, seed_rows + 1)]
    note = "x" * note_bytes
    await connection.copy_records_to_table(
        "ledger",
        records=[(row.client, row.n, row.account, row.amount, note) for row in rows],
        columns=["client", "n", "account", "amount", "note"],
    )
    await connection.execute(
        "UPDATE accounts SET balance = total FROM"
        " (SELECT account, sum(amount) AS total FROM ledger GROUP BY account) AS sums WHERE id = account"
    )
    await connection.execute("VACUUM (ANALYZE) accounts, ledger")
    return ClientRecord(SEED_CLIENT, "seed", outcomes=[Outcome.ACKNOWLEDGED.value] * seed_rows)


async def check_ledger(connection: Any, records: Sequence[ClientRecord]) -> Verdict:
    """Compare what clients know with what the database holds. `connection` is asyncpg's; no writer may run.

    The seed's record may be among `records`; its rows are checked but not counted as acknowledged.
    """
    verdict = Verdict()
    _count_records(verdict, records)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        rows = connection.cursor(
            "SELECT client, n, id, account, amount FROM ledger ORDER BY client, n, id",
            prefetch=_PREFETCH_ROWS,
        )
        await _check_rows(verdict, rows, records)
        await _check_ids(verdict, connection)
        await _check_balances(verdict, connection)
    return verdict


def _count_records(verdict: Verdict, records: Iterable[ClientRecord]) -> None:
    for record in records:
        verdict.client_errors += len(record.errors)
        if record.client != SEED_CLIENT:
            verdict.acknowledged += record.count(Outcome.ACKNOWLEDGED)
        verdict.unknown += record.count(Outcome.UNKNOWN)
        for error in record.errors:
            if error.sqlstate == "23505":
                # No client sends a key twice, so somebody else did.
                verdict.duplicated += 1
            verdict.note(
                "client error",
                verdict.client_errors,
                f"client {record.client} ({record.driver}), write {error.n}, {error.doing}: "
                f"{error.sqlstate} {error.text}",
            )


class _ClientRows:
    """The rows of one client, seen in the order of n, against its record."""

    def __init__(self, verdict: Verdict, record: ClientRecord) -> None:
        self.record = record
        self._verdict = verdict
        self._found: set[int] = set()
        self._last_id = 0

    def see(self, n: int, id_: int, account: int, amount: int) -> None:
        verdict, key = self._verdict, f"({self.record.client}, {n})"
        if n in self._found:
            verdict.duplicated += 1
            verdict.note("duplicated", verdict.duplicated, f"key {key} is there again with id {id_}")
            return
        self._found.add(n)
        known = self.record.outcomes[n - 1] if 0 < n <= len(self.record.outcomes) else None
        if known is None or known == Outcome.REFUSED.value:
            why = "was never sent" if known is None else "was answered with an error"
            verdict.unexpected += 1
            verdict.note("unexpected", verdict.unexpected, f"key {key} {why} and is there")
        sent = entry_for(self.record.client, n, slow=self.record.slow)
        if (account, amount) != (sent.account, sent.amount):
            verdict.altered += 1
            verdict.note("altered", verdict.altered, f"key {key} has account {account}, amount {amount}")
        if id_ <= self._last_id:
            verdict.wrong_ids += 1
            verdict.note("wrong id", verdict.wrong_ids, f"key {key} has id {id_} after {self._last_id}")
        self._last_id = id_

    def finish(self) -> None:
        verdict = self._verdict
        for n, outcome in enumerate(self.record.outcomes, start=1):
            if outcome == Outcome.ACKNOWLEDGED.value and n not in self._found:
                verdict.lost += 1
                verdict.note("lost", verdict.lost, f"key ({self.record.client}, {n}) was acknowledged")


async def _check_rows(verdict: Verdict, rows: Any, records: Sequence[ClientRecord]) -> None:
    clients = {record.client: _ClientRows(verdict, record) for record in records}
    async for client, n, id_, account, amount in rows:
        known = clients.get(client)
        if known is None:
            verdict.unexpected += 1
            verdict.note("unexpected", verdict.unexpected, f"key ({client}, {n}) is of a client nobody knows")
        else:
            known.see(n, id_, account, amount)
    for one in clients.values():
        one.finish()


async def _check_ids(verdict: Verdict, connection: Any) -> None:
    for id_, times in await connection.fetch(
        "SELECT id, count(*) FROM ledger GROUP BY id HAVING count(*) > 1 ORDER BY id"
    ):
        verdict.wrong_ids += 1
        verdict.note("wrong id", verdict.wrong_ids, f"id {id_} was given to {times} rows")


async def _check_balances(verdict: Verdict, connection: Any) -> None:
    for account, balance, total in await connection.fetch(
        "SELECT coalesce(a.id, s.account), a.balance, coalesce(s.total, 0)"
        " FROM accounts a FULL JOIN"
        " (SELECT account, sum(amount) AS total FROM ledger GROUP BY account) AS s ON s.account = a.id"
        " WHERE a.balance IS DISTINCT FROM coalesce(s.total, 0) ORDER BY 1"
    ):
        verdict.wrong_balances += 1
        verdict.note(
            "wrong balance",
            verdict.wrong_balances,
            f"account {account} holds {balance}, its rows sum to {total}",
        )


async def content_digest(connection: Any) -> str:
    """A text that is equal on two databases with equal ledgers and accounts, and hardly otherwise."""
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) || ':' || coalesce(sum(hashtextextended("
        "   concat_ws(',', client, n, id, account, amount, note), 0)::numeric), 0) FROM ledger),"
        " (SELECT count(*) || ':' || coalesce(sum(hashtextextended("
        "   concat_ws(',', id, balance), 0)::numeric), 0) FROM accounts)"
    )
    return f"ledger {row[0]} accounts {row[1]}"
