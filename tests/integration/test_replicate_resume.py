"""REPLICATE that is cancelled or killed: run again it continues, and RESET removes what there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict

import pytest

from replication.decision import try_lock
from replication.errors import MoveRefused
from tests.support.databases import Pair
from tests.support.moves import both_schemas, cancel_at, held_lock, run_replicate, run_reset, traces
from tests.support.rich_schema import fill, row_hashes, sequence_values
from tests.support.wait import eventually

LINES = [
    "reading the schema",
    "making 4",
    "publication",
    "subscription",
    "copy",
    "making 2",
    "sequences",
]
"""Progress lines of REPLICATE, each told just before the work it names."""

# The other half of test_a_killed_process: what a daemon does, without the daemon.
PROGRAM = """
import asyncio, json, sys
from config.model import SslMode
from replication.endpoint import Endpoint
from replication.setup import replicate

def endpoint(given):
    return Endpoint(**given | {"sslmode": SslMode(given["sslmode"])})

async def main():
    given = json.loads(sys.stdin.read())
    await replicate(
        endpoint(given["source"]), endpoint(given["destination"]), given["pair"],
        pg_bin_dir=given["bin_dir"], copy_jobs=2, adopt_subscription=None,
        notify=lambda line: print(line, flush=True))

asyncio.run(main())
"""

SLOW_INDEX = """
CREATE TABLE app.slow (id int PRIMARY KEY);
INSERT INTO app.slow VALUES (1);
CREATE FUNCTION app.slow(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog
    AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(9); RETURN id; END $$;
CREATE INDEX slow_index ON app.slow (app.slow(id));
"""
"""An index whose build waits while `held_lock(pair, 9)` is held on the destination."""


async def assert_equal(pair: Pair) -> None:
    assert await row_hashes(pair, "source", views=True) == await row_hashes(pair, "destination", views=True)
    assert await sequence_values(pair, "source") == await sequence_values(pair, "destination")
    source, destination = await both_schemas(pair)
    assert source == destination


@pytest.mark.parametrize("line", LINES)
async def test_reset_after_a_cancelled_replicate_leaves_nothing_and_it_can_be_run_again(pair: Pair, line: str) -> None:
    await fill(pair)
    before = await both_schemas(pair)
    await cancel_at(pair, line)
    await run_reset(pair)
    assert await traces(pair) == {}
    assert await both_schemas(pair) == before
    await cancel_at(pair, line)
    await run_replicate(pair)
    await assert_equal(pair)


async def start_and_kill(pair: Pair, line: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    given = {
        "source": asdict(pair.source),
        "destination": asdict(pair.destination),
        "pair": pair.database,
        "bin_dir": str(pair.destination_server.bin_dir),
    }
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()
    try:
        async with asyncio.timeout(30):
            while told := await process.stdout.readline():
                if told.decode().startswith(line):
                    return
        raise AssertionError(f"REPLICATE never came to {line!r}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


@pytest.mark.parametrize("line", ["making 4", "copy", "making 2"])
async def test_a_killed_process_leaves_nothing_that_a_new_one_cannot_take_over_or_reset(pair: Pair, line: str) -> None:
    await fill(pair)
    before = await both_schemas(pair)
    await start_and_kill(pair, line)
    await eventually(lambda: lock_is_free(pair), "the killed process' sessions to end")
    await run_reset(pair)
    assert await traces(pair) == {}
    assert await both_schemas(pair) == before
    await start_and_kill(pair, line)
    await eventually(lambda: lock_is_free(pair), "the killed process' sessions to end")
    await run_replicate(pair)
    await assert_equal(pair)


async def lock_is_free(pair: Pair) -> bool:
    sql = (
        "SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        "WHERE locktype = 'advisory' AND datname = current_database()"
    )
    return not await pair.source_sql(sql) and not await pair.destination_sql(sql)


async def test_indexes_that_were_made_before_an_interruption_are_kept(pair: Pair) -> None:
    await fill(pair)
    await pair.source_sql(SLOW_INDEX)
    oid = "SELECT oid FROM pg_class WHERE relname = 'orders_at'"

    async def others_are_made() -> bool:
        there = await pair.destination_sql(
            "SELECT FROM pg_class WHERE relname IN ('orders_at', 'orders_note', 'mv_on_key_mail')"
        )
        return len(there) == 3

    async with held_lock(pair, 9):
        task = asyncio.create_task(run_replicate(pair))
        await eventually(others_are_made, "the other indexes", timeout_s=30)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        made = await pair.destination_sql(oid)
    await run_replicate(pair)
    assert await pair.destination_sql(oid) == made
    await assert_equal(pair)


async def test_two_at_once_are_refused(pair: Pair) -> None:
    await pair.both_sql("CREATE TABLE t (id int PRIMARY KEY)")
    held = await pair.destination_session()
    assert await try_lock(held)
    with pytest.raises(MoveRefused, match="another command"):
        await run_replicate(pair)
    with pytest.raises(MoveRefused, match="another command"):
        await run_reset(pair)
