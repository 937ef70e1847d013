"""The workload and its checker, without a proxy: what the checker says must be believed everywhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from daemon.demo.clients import DRIVERS, Target
from daemon.demo.ledger import Verdict, check_ledger, content_digest, create_ledger
from daemon.demo.records import ClientRecord, Outcome, samples
from daemon.demo.workload import Workload, WorkloadFailed, WorkloadOptions
from tests.support.cable import Cable
from tests.support.databases import Pair
from tests.support.wait import eventually

SEED_ROWS = 500


async def _connect(pair: Pair) -> asyncpg.Connection:
    return await asyncpg.connect(pair.source_server.dsn(pair.database), ssl=False)


def _target(pair: Pair, host: str, port: int) -> Target:
    return Target(host, port, pair.database, pair.source.user, pair.source.password)


async def _run(
    pair: Pair, directory: Path, options: WorkloadOptions, *, at_least: int
) -> tuple[list[ClientRecord], asyncpg.Connection]:
    """Traffic straight to the source until so many transactions are done; all records with the seed's."""
    connection = await _connect(pair)
    seed = await create_ledger(connection, seed_rows=SEED_ROWS)
    server = pair.source_server
    async with Workload(_target(pair, server.host, server.port), options, directory) as workload:
        await eventually(lambda: workload.live().transactions >= at_least, "traffic", 30)
        records = await workload.stop()
    return [seed, *records], connection


async def test_every_driver_writes_and_the_ledger_agrees(pair: Pair, tmp_path: Path) -> None:
    options = WorkloadOptions(clients=10, slow_clients=4, tx_per_second=300, slow_transaction_s=0.1)
    records, connection = await _run(pair, tmp_path, options, at_least=600)
    verdict = await check_ledger(connection, records)
    assert verdict.ok, verdict.details
    assert (verdict.lost, verdict.duplicated, verdict.client_errors, verdict.unknown) == (0, 0, 0, 0)
    traffic = records[1:]
    assert {record.driver for record in traffic} == set(DRIVERS)
    assert verdict.acknowledged == await connection.fetchval("SELECT count(*) FROM ledger") - SEED_ROWS
    assert all(record.count(Outcome.ACKNOWLEDGED) > 0 and record.connects == 1 for record in traffic)
    assert {v // 10000 for record in traffic for v in record.server_versions} == {16}
    assert len(samples(records)) >= 600
    slow = samples(records, slow=True)
    assert slow
    # The timers of an event loop are rounded to milliseconds.
    assert min(sample.latency_ms for sample in slow) >= 95
    await connection.close()


async def test_the_rate_is_kept(pair: Pair, tmp_path: Path) -> None:
    options = WorkloadOptions(clients=8, slow_clients=0, tx_per_second=200, processes=1)
    records, connection = await _run(pair, tmp_path, options, at_least=600)
    begun = [sample.start_s for sample in samples(records)]
    assert len(begun) / (begun[-1] - begun[0]) == pytest.approx(200, rel=0.15)
    await connection.close()


class _Damaged:
    """A sound ledger, one act of damage, and the verdict on it."""

    def __init__(self, records: list[ClientRecord], connection: asyncpg.Connection) -> None:
        self.records = records
        self.connection = connection

    async def after(self, sql: str) -> Verdict:
        before = await check_ledger(self.connection, self.records)
        assert before.ok, before.details
        await self.connection.execute(sql)
        return await check_ledger(self.connection, self.records)


@pytest.fixture
async def damaged(pair: Pair, tmp_path: Path) -> _Damaged:
    options = WorkloadOptions(clients=5, slow_clients=0, tx_per_second=500, processes=1)
    return _Damaged(*await _run(pair, tmp_path, options, at_least=100))


async def test_a_lost_row_is_found(damaged: _Damaged) -> None:
    verdict = await damaged.after("DELETE FROM ledger WHERE client = 2 AND n = 1")
    assert (verdict.lost, verdict.duplicated, verdict.wrong_balances) == (1, 0, 1)
    assert not verdict.ok
    assert any("(2, 1) was acknowledged" in line for line in verdict.details)


async def test_a_lost_transaction_is_found(damaged: _Damaged) -> None:
    verdict = await damaged.after(
        "WITH gone AS (DELETE FROM ledger WHERE client = 2 AND n = 1 RETURNING account, amount)"
        " UPDATE accounts SET balance = balance - amount FROM gone WHERE id = account"
    )
    assert (verdict.lost, verdict.wrong_balances) == (1, 0)
    assert not verdict.ok


async def test_a_lost_row_of_the_copy_is_found(damaged: _Damaged) -> None:
    verdict = await damaged.after("DELETE FROM ledger WHERE client = 0 AND n = 7")
    assert verdict.lost == 1


async def test_a_row_applied_twice_is_found(damaged: _Damaged) -> None:
    verdict = await damaged.after(
        "ALTER TABLE ledger DROP CONSTRAINT ledger_pkey;"
        "INSERT INTO ledger (client, n, account, amount)"
        " SELECT client, n, account, amount FROM ledger WHERE client = 3 AND n = 2"
    )
    assert (verdict.lost, verdict.duplicated, verdict.wrong_balances) == (0, 1, 1)
    assert not verdict.ok


async def test_a_balance_applied_twice_is_found(damaged: _Damaged) -> None:
    verdict = await damaged.after(
        "UPDATE accounts SET balance = balance + amount FROM ledger"
        " WHERE client = 3 AND n = 2 AND accounts.id = account"
    )
    assert (verdict.lost, verdict.duplicated, verdict.wrong_balances) == (0, 0, 1)
    assert not verdict.ok


async def test_a_wrong_balance_is_found(damaged: _Damaged) -> None:
    verdict = await damaged.after("UPDATE accounts SET balance = balance - 1 WHERE id = 17")
    assert verdict.wrong_balances == 1
    assert not verdict.ok


async def test_an_altered_row_is_found(damaged: _Damaged) -> None:
    verdict = await damaged.after("UPDATE ledger SET amount = amount + 1 WHERE client = 1 AND n = 1")
    assert verdict.altered == 1
    assert not verdict.ok


async def test_an_id_given_twice_is_found(damaged: _Damaged) -> None:
    verdict = await damaged.after(
        "UPDATE ledger SET id = (SELECT id FROM ledger WHERE client = 1 AND n = 1) WHERE client = 4 AND n = 1"
    )
    assert verdict.wrong_ids == 1
    assert not verdict.ok


async def test_a_sequence_that_fell_behind_is_found(damaged: _Damaged) -> None:
    """No id repeats here: the gap was free. Only the order of one client's own writes shows it."""
    verdict = await damaged.after(
        "UPDATE ledger SET id = -1 WHERE client = 1 AND n = (SELECT max(n) FROM ledger WHERE client = 1)"
    )
    assert verdict.wrong_ids == 1


async def test_rows_that_nobody_sent_are_found(damaged: _Damaged) -> None:
    verdict = await damaged.after(
        "INSERT INTO ledger (client, n, account, amount) VALUES (99, 1, 1, 0), (1, 100000, 1, 0)"
    )
    assert verdict.unexpected == 2
    assert not verdict.ok


async def test_digests_tell_databases_apart(damaged: _Damaged) -> None:
    before = await content_digest(damaged.connection)
    assert await content_digest(damaged.connection) == before
    await damaged.connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 1")
    after = await content_digest(damaged.connection)
    assert after != before
    await damaged.connection.execute("UPDATE ledger SET id = -5 WHERE client = 1 AND n = 1")
    assert await content_digest(damaged.connection) != after


async def test_a_dead_connection_makes_unknown_keys_but_no_loss(pair: Pair, tmp_path: Path) -> None:
    """Answers that never arrive: the keys are unknown, and the clients carry on with the next ones."""
    connection = await _connect(pair)
    seed = await create_ledger(connection)
    options = WorkloadOptions(clients=10, slow_clients=0, tx_per_second=300)
    server = pair.source_server
    with Cable(server.host, server.port) as cable:
        async with Workload(_target(pair, cable.host, cable.port), options, tmp_path) as workload:
            await eventually(lambda: workload.live().transactions >= 100, "traffic", 30)
            cable.stall("to_client")
            await asyncio.sleep(0.3)  # let every client send something whose answer is kept back
            cable.cut()
            cable.restore()
            before = workload.live().transactions
            await eventually(lambda: workload.live().transactions >= before + 100, "traffic again", 30)
            records = [seed, *await workload.stop()]
    verdict = await check_ledger(connection, records)
    assert verdict.client_errors >= 10
    assert verdict.unknown > 0
    assert (verdict.lost, verdict.duplicated, verdict.unexpected, verdict.wrong_balances) == (0, 0, 0, 0)
    assert not verdict.ok
    assert all(record.connects >= 2 for record in records[1:])
    await connection.close()


async def test_a_workload_that_cannot_connect_says_why(pair: Pair, tmp_path: Path) -> None:
    target = Target("127.0.0.1", 1, pair.database, "postgres", "x")
    with pytest.raises(WorkloadFailed, match="refused"):
        async with Workload(target, WorkloadOptions(clients=2, slow_clients=0), tmp_path):
            pass
