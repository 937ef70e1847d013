"""REPLICATE, RESET and COMPLETE as the tests call them, and what they leave on both sides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from replication.setup import complete, replicate, reset
from replication.steps import SetupStep
from tests.support.databases import Pair, run_sql
from tests.support.rich_schema import schema_text
from tests.support.wait import eventually


async def run_replicate(
    pair: Pair,
    *,
    notify: Callable[[str], None] = lambda line: None,
    adopt: str | None = None,
    slot_wait_s: float = 20,
) -> list[SetupStep]:
    steps = await replicate(
        pair.source,
        pair.destination,
        pair.database,
        pg_bin_dir=str(pair.destination_server.bin_dir),
        copy_jobs=2,
        adopt_subscription=adopt,
        notify=notify,
        slot_wait_s=slot_wait_s,
    )
    assert [s.step for s in steps if s.status != "done"] == []
    return steps


async def run_reset(pair: Pair) -> list[SetupStep]:
    return await reset(pair.source, pair.destination, notify=lambda line: None)


async def run_complete(pair: Pair) -> list[SetupStep]:
    return await complete(pair.source, pair.destination, notify=lambda line: None)


async def cancel_at(pair: Pair, line: str) -> None:
    """REPLICATE, cancelled when it tells a line that begins so."""
    reached = asyncio.Event()
    task = asyncio.create_task(
        run_replicate(pair, notify=lambda told: reached.set() if told.startswith(line) else None)
    )
    waiting = asyncio.create_task(reached.wait())
    await asyncio.wait({task, waiting}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    assert reached.is_set(), f"REPLICATE never came to {line!r}: {task}"
    task.cancel()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def traces(pair: Pair) -> dict[str, list[str]]:
    """Everything of ours that is there, on both sides."""
    found: dict[str, list[str]] = {}
    for side, server in (("source", pair.source_server), ("destination", pair.destination_server)):
        for what, sql in _TRACES.items():
            rows = [row[0] for row in await run_sql(server, pair.database, sql)]
            if rows:
                found[f"{side} {what}"] = rows
    return found


_TRACES = {
    "slots": "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()",
    "publications": "SELECT pubname FROM pg_publication",
    "subscriptions": "SELECT subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid "
    "WHERE datname = current_database()",
    "schemas": "SELECT nspname FROM pg_namespace WHERE nspname = 'pgcutover'",
}


async def both_schemas(pair: Pair) -> tuple[str, str]:
    bin_dir = pair.destination_server.bin_dir
    return await schema_text(pair.source, bin_dir), await schema_text(pair.destination, bin_dir)


@contextlib.asynccontextmanager
async def held_lock(pair: Pair, key: int) -> AsyncIterator[None]:
    """Hold an advisory lock on the destination; see `wait_for_lock_on_insert`."""
    session = await pair.destination_session()
    await session.execute("SELECT pg_advisory_lock($1)", key)
    try:
        yield
    finally:
        await session.close()


def wait_for_lock_on_insert(table: str, key: int) -> str:
    """DDL for the destination: inserts into `table`, by a table copy too, need an advisory lock first."""
    return f"""
    CREATE FUNCTION public.wait_{key}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog
        AS $$ BEGIN PERFORM pg_advisory_xact_lock({key}); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION public.wait_{key}();
    ALTER TABLE {table} ENABLE ALWAYS TRIGGER wait;
    """


async def replicated_by_hand(pair: Pair, publication: str = "FOR TABLE t", name: str = "byhand") -> None:
    """What an operator has done before: publication, slot and subscription, with its copy done."""
    await pair.both_sql("CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY)")
    slot = f"{name}_{pair.database}"
    await pair.source_sql("INSERT INTO t VALUES (1)")
    await pair.source_sql(f"CREATE PUBLICATION {name} {publication}")
    await pair.source_sql("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    await pair.destination_sql(
        f"CREATE SUBSCRIPTION {name} CONNECTION $${pair.source.replication_conninfo()}$$ PUBLICATION {name} "
        f"WITH (create_slot = false, slot_name = '{slot}')"
    )
    await arrived(pair, 1)


async def arrived(pair: Pair, count: int) -> None:
    async def there() -> bool:
        return len(await pair.destination_sql("SELECT FROM t")) == count

    await eventually(there, f"{count} rows on the destination")
