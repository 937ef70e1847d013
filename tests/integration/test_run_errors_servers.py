"""A server dies (kill -9 of all its processes) before, in and after the pause. Whichever side serves by the decision
record serves the clients, nothing acknowledged is lost, and what was left undone is done when the server is back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from daemon.demo.embedded import EmbeddedPostgres
from tests.conftest import HBA, SETTINGS, SETTINGS_18, SUPERUSER_PASSWORD
from tests.support.daemon import Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair, create_database, drop_databases, make_pair, run_sql
from tests.support.runs import Stop, go_through, refused, told
from tests.support.wait import eventually
from tests.support.writers import SCHEMA, Writers, serving_side

pytestmark = pytest.mark.soak

MAX_PAUSE_MS = 3000
SOAK = pytest.mark.soak
_numbers = itertools.count(1)


def _mortal(major: int, factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    settings = {**SETTINGS, **(SETTINGS_18 if major >= 18 else {}), "max_prepared_transactions": "10"}
    directory = factory.mktemp(f"mortal{major}")
    server = EmbeddedPostgres(major, directory, settings=settings, hba=HBA, password=SUPERUSER_PASSWORD)
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def mortal16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    yield from _mortal(16, tmp_path_factory)


@pytest.fixture(scope="module")
def mortal18(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    yield from _mortal(18, tmp_path_factory)


@pytest.fixture
async def pair(mortal16: EmbeddedPostgres, mortal18: EmbeddedPostgres) -> AsyncIterator[Pair]:
    """As everybody's, but on servers that may be killed."""
    database = f"m{os.getpid()}_{next(_numbers)}"
    fresh = make_pair(mortal16, mortal18, database)
    for server in (mortal16, mortal18):
        await create_database(server, database)
    try:
        yield fresh
    finally:
        await fresh.close_sessions()
        for server in (mortal16, mortal18):
            if not server.running:
                await asyncio.to_thread(server.start)
        await drop_databases((mortal16, mortal18), database)


@contextlib.asynccontextmanager
async def under_load(
    pair: Pair, directory: Path, stop: Stop | None = None, **general: Any
) -> AsyncIterator[tuple[Daemon, Writers]]:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    options = DaemonOptions(
        general={"cutover_max_pause": MAX_PAUSE_MS, "cutover_transaction_timeout": 1000, **general},
        failpoint=stop.failpoint if stop is not None else "",
    )
    async with Daemon(pair, directory / "daemon", options) as daemon:
        async with Writers(daemon, count=4) as writers:
            yield daemon, writers
            await writers.flowing(timeout_s=40)
        assert writers.errors == []


async def die(server: EmbeddedPostgres) -> None:
    await asyncio.to_thread(server.kill)


async def back(server: EmbeddedPostgres) -> None:
    await asyncio.to_thread(server.start)


async def until(daemon: Daemon, verb: str, stop: Stop) -> asyncio.Task[Any]:
    """A run that has come to `stop`. Its answer is the rows, or the error."""

    async def run() -> Any:
        try:
            return await daemon.command(verb)
        except asyncpg.PostgresError as error:
            return error

    stop.shut()
    task = asyncio.create_task(run())
    await stop.reached(daemon)
    return task


async def everything_is_finished(pair: Pair, *, moved: str) -> None:
    """By itself: both journals closed, the old side marked as moved, the way back streaming."""
    states = {}

    async def finished() -> bool:
        for side, sql in (("source", pair.source_sql), ("destination", pair.destination_sql)):
            if await sql("SELECT FROM pgcutover.run WHERE finished_at IS NULL"):
                return False
            states[side] = (await sql("SELECT state FROM pgcutover.identity"))[0][0]
        old = pair.source_server if moved == "source" else pair.destination_server
        workers = await run_sql(
            old,
            "postgres",
            "SELECT FROM pg_stat_subscription w JOIN pg_subscription s ON s.oid = w.subid "
            "JOIN pg_database d ON d.oid = s.subdbid "
            "WHERE d.datname = $1 AND s.subenabled AND w.pid IS NOT NULL AND w.received_lsn IS NOT NULL",
            pair.database,
        )
        return states[moved] == "moved" and len(workers) == 1

    await eventually(finished, f"the run is finished by itself: {states}", timeout_s=40, poll_s=0.3)


STEPS = ["twins", "arrival", *(pytest.param(s, marks=SOAK) for s in ("check", "return stream", "hold", "commit"))]


@pytest.mark.parametrize("step", STEPS)
async def test_the_destination_dies_before_the_commit(pair: Pair, tmp_path: Path, step: str) -> None:
    stop = Stop(tmp_path, step)
    async with under_load(pair, tmp_path, stop) as (daemon, writers):
        run = await until(daemon, "CUTOVER", stop)
        writers.longest_wait_s = 0.0
        await die(pair.destination_server)
        stop.open()
        error = await run
        assert isinstance(error, asyncpg.PostgresError), error
        assert "aborted at step" in str(error), told(error)
        assert "app_next" in told(error), told(error)
        assert f"flows on the source, {pair.source.host}:{pair.source.port}" in told(error)
        await writers.flowing()
        assert writers.longest_wait_s < MAX_PAUSE_MS / 1000
        assert "cannot cutover" in (text := told(await refused(daemon, "CUTOVER"))) or "cannot start" in text, text
        assert writers.lost_connections == 0
        await back(pair.destination_server)
        assert await serving_side(pair) == "source"
        await go_through(daemon, "CUTOVER")
        await writers.verify(pair, on_source=False)
        assert writers.lost_connections == 0
        await everything_is_finished(pair, moved="source")


@pytest.mark.parametrize("verb", ["CUTOVER", pytest.param("REVERT", marks=SOAK)])
async def test_the_new_side_dies_after_the_commit(pair: Pair, tmp_path: Path, verb: str) -> None:
    """Its clients see that their server is gone. They wait or are told so, and are never sent to the old side."""
    stop = Stop(tmp_path, "retire source")
    forwards = verb == "CUTOVER"
    new = pair.destination_server if forwards else pair.source_server
    async with under_load(pair, tmp_path, stop) as (daemon, writers):
        if not forwards:
            await daemon.command("CUTOVER")
        run = await until(daemon, verb, stop)
        await writers.flowing()
        assert writers.lost_connections == 0
        await die(new)
        stop.open()
        rows = await run
        assert not isinstance(rows, BaseException), told(rows)
        await eventually(lambda: writers.lost_connections >= 4, "every client has noticed")
        await back(new)
        await writers.flowing(timeout_s=40)
        assert await serving_side(pair) == ("destination" if forwards else "source")
        await writers.verify(pair, on_source=not forwards)
        await everything_is_finished(pair, moved="source" if forwards else "destination")
        await go_through(daemon, "REVERT" if forwards else "CUTOVER")
        await writers.verify(pair, on_source=forwards)


@pytest.mark.parametrize("verb", ["CUTOVER", pytest.param("REVERT", marks=SOAK)])
async def test_the_old_side_dies_after_the_commit(pair: Pair, tmp_path: Path, verb: str) -> None:
    """Nobody notices. When it is back the run is finished by itself, and the way back works."""
    stop = Stop(tmp_path, "retire source")
    forwards = verb == "CUTOVER"
    old = pair.source_server if forwards else pair.destination_server
    async with under_load(pair, tmp_path, stop) as (daemon, writers):
        if not forwards:
            await daemon.command("CUTOVER")
        run = await until(daemon, verb, stop)
        await die(old)
        stop.open()
        rows = await run
        assert not isinstance(rows, BaseException), told(rows)
        await writers.flowing()
        newcomer = await daemon.connect()
        await newcomer.close(timeout=5)
        error = await refused(daemon, "REVERT" if forwards else "CUTOVER")
        assert "app_next" in told(error), told(error)
        await back(old)
        await everything_is_finished(pair, moved="source" if forwards else "destination")
        assert await serving_side(pair) == ("destination" if forwards else "source")
        await go_through(daemon, "REVERT" if forwards else "CUTOVER")
        await writers.verify(pair, on_source=forwards)
        assert writers.lost_connections == 0


@pytest.mark.parametrize("step", ["fence", pytest.param("carry over", marks=SOAK)])
async def test_the_source_dies_in_the_pause(pair: Pair, tmp_path: Path, step: str) -> None:
    """The run ends; the source serves again when it is back, without its fence, and a new run goes through."""
    stop = Stop(tmp_path, step)
    async with under_load(pair, tmp_path, stop) as (daemon, writers):
        run = await until(daemon, "CUTOVER", stop)
        await die(pair.source_server)
        stop.open()
        error = await run
        assert isinstance(error, asyncpg.PostgresError), error
        assert "aborted at step" in str(error)
        await eventually(lambda: writers.lost_connections >= 4, "every client has noticed")
        assert await pair.destination_sql("SELECT state FROM pgcutover.identity") == [("replica",)]
        await back(pair.source_server)
        await writers.flowing(timeout_s=40)
        assert await serving_side(pair) == "source"
        assert (await pair.source_sql("SHOW default_transaction_read_only"))[0][0] == "off"
        await writers.verify(pair, on_source=True)
        await go_through(daemon, "CUTOVER")
        await writers.verify(pair, on_source=False)
        await everything_is_finished(pair, moved="source")


async def test_the_source_dies_when_everything_has_arrived(pair: Pair, tmp_path: Path) -> None:
    """It is not needed any more: the run commits, and the held clients never learn of it."""
    stop = Stop(tmp_path, "commit")
    async with under_load(pair, tmp_path, stop) as (daemon, writers):
        run = await until(daemon, "CUTOVER", stop)
        await die(pair.source_server)
        stop.open()
        rows = await run
        assert not isinstance(rows, BaseException), told(rows)
        await writers.flowing()
        assert writers.lost_connections == 0
        await back(pair.source_server)
        await everything_is_finished(pair, moved="source")
        await go_through(daemon, "REVERT")
        await writers.verify(pair, on_source=True)
        assert writers.lost_connections == 0


@pytest.mark.soak
async def test_the_daemon_restarts_while_the_old_side_is_dead(pair: Pair, tmp_path: Path) -> None:
    stop = Stop(tmp_path, "retire source")
    async with under_load(pair, tmp_path, stop) as (daemon, writers):
        run = await until(daemon, "CUTOVER", stop)
        await die(pair.source_server)
        daemon.kill()
        with contextlib.suppress(OSError, asyncpg.InterfaceError):
            await run
        stop.open()
        await daemon.start()
        await writers.flowing()
        await back(pair.source_server)
        await everything_is_finished(pair, moved="source")
        await go_through(daemon, "REVERT")
        await writers.verify(pair, on_source=True)


async def test_a_prepared_transaction_stays_nowhere(pair: Pair, tmp_path: Path) -> None:
    """Nobody can end it by closing a session, and it would commit on the old side: the run goes back."""
    stop = Stop(tmp_path, "hold")
    async with under_load(pair, tmp_path, stop) as (daemon, writers):
        run = await until(daemon, "CUTOVER", stop)
        await pair.source_sql("BEGIN; CREATE TABLE public.later (id int); PREPARE TRANSACTION 'left over'")
        stop.open()
        error = await run
        assert isinstance(error, asyncpg.PostgresError), error
        assert "aborted at step fence" in str(error), told(error)
        assert "left over" in told(error)
        assert "ROLLBACK PREPARED" in told(error)
        assert "left over" in told(await refused(daemon, "CUTOVER"))
        await pair.source_sql("ROLLBACK PREPARED 'left over'")
        await go_through(daemon, "CUTOVER")
        await writers.verify(pair, on_source=False)
        assert writers.lost_connections == 0


@pytest.mark.soak
async def test_a_commit_that_hangs(pair: Pair, tmp_path: Path) -> None:
    """A destination that waits for a standby that is not there: nobody can know, clients stay held, and asking again
    does not fill the server with sessions that wait. Then it answers, and the answer is the outcome."""
    stop = Stop(tmp_path, "commit")
    async with under_load(pair, tmp_path, stop, query_wait_timeout=60_000) as (daemon, writers):
        run = await until(daemon, "CUTOVER", stop)
        server = pair.destination_server
        await run_sql(server, "postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await run_sql(server, "postgres", "SELECT pg_reload_conf()")
        try:
            stop.open()
            await eventually(lambda: "outcome unknown" in daemon.log(), "the leader is in doubt", timeout_s=15)
            await asyncio.sleep(12)
            waiting = await run_sql(
                server,
                "postgres",
                "SELECT FROM pg_stat_activity "
                "WHERE datname = $1 AND backend_type = 'client backend' AND state = 'active'",
                pair.database,
            )
            assert len(waiting) <= 3, f"{len(waiting)} sessions wait"
            [state] = await daemon.command("SHOW CUTOVER")
            assert "app_next" in state["waiting_for"]
        finally:
            await run_sql(server, "postgres", "ALTER SYSTEM RESET synchronous_standby_names")
            await run_sql(server, "postgres", "SELECT pg_reload_conf()")
        rows = await run
        assert not isinstance(rows, BaseException), told(rows)
        await writers.flowing()
        await writers.verify(pair, on_source=False)
        assert writers.lost_connections == 0
        await everything_is_finished(pair, moved="source")
