"""Checks of server settings, on a server that has too little of everything, and on a standby."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from daemon.demo.embedded import EmbeddedPostgres
from replication.preflight import CATALOGUE, CheckContext, Finding, Phase, Severity
from tests.support.databases import Pair, create_database, drop_databases, make_pair, run_sql, server_endpoint
from tests.support.preflight import blocks, check, make_context, open_transaction
from tests.support.wait import eventually

BLOCK, WARN = Severity.BLOCK, Severity.WARN

_POOR = {
    "wal_level": "replica",
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "20",
    "max_replication_slots": "1",
    "max_wal_senders": "1",
    "max_logical_replication_workers": "1",
    "max_worker_processes": "2",
    "max_active_replication_origins": "1",
    "max_prepared_transactions": "5",
    "max_slot_wal_keep_size": "1GB",
}

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """PostgreSQL 18 on which hardly anything can be replicated."""
    with EmbeddedPostgres(18, tmp_path_factory.mktemp("poor"), settings=_POOR) as server:
        yield server


@pytest.fixture
async def poor_source(poor: EmbeddedPostgres, pg18: EmbeddedPostgres) -> AsyncIterator[Pair]:
    async with _pair(poor, pg18) as fresh:
        yield fresh


@pytest.fixture
async def poor_destination(pg16: EmbeddedPostgres, poor: EmbeddedPostgres) -> AsyncIterator[Pair]:
    async with _pair(pg16, poor) as fresh:
        yield fresh


@asynccontextmanager
async def _pair(source: EmbeddedPostgres, destination: EmbeddedPostgres) -> AsyncIterator[Pair]:
    database = f"settings_{os.getpid()}_{next(_numbers)}"
    fresh = make_pair(source, destination, database)
    for server in (source, destination):
        await create_database(server, database)
    try:
        yield fresh
    finally:
        await fresh.close_sessions()
        await drop_databases((source, destination), database)


def _objects(findings: list[Finding]) -> set[str]:
    return {finding.object for finding in blocks(findings)}


async def test_a_poor_source(poor_source: Pair) -> None:
    context = await make_context(poor_source)
    assert _objects(await check(context, "S01a")) == {"source: wal_level"}
    assert _objects(await check(context, "S02")) == {
        "source: max_replication_slots",
        "source: max_wal_senders",
    }
    assert _objects(await check(context, "S01b")) == set()  # the way back needs one worker and one origin


async def test_a_poor_destination(poor_destination: Pair) -> None:
    context = await make_context(poor_destination)
    findings = await check(context, "S01a")
    assert _objects(findings) == {"destination: wal_level"}
    assert "no way back" in findings[0].finding
    assert _objects(await check(context, "S02")) == set()  # the way back needs one slot and one sender
    assert _objects(await check(context, "S01b")) == {
        "destination: max_logical_replication_workers",
        "destination: max_worker_processes",
        "destination: max_active_replication_origins",
    }
    assert _objects(await check(context, "N05")) == set()
    assert _objects(await check(dataclasses.replace(context, links_needed=8), "N05")) == {"destination"}


async def test_s02_a_slot_in_use_leaves_none_for_the_way_back(poor_destination: Pair) -> None:
    await poor_destination.destination_sql("select pg_create_physical_replication_slot('taken')")
    try:
        context = await make_context(poor_destination, Phase.ARM, subscription="sub")
        assert _objects(await check(context, "S02")) == {"destination: max_replication_slots"}
        made = dataclasses.replace(context, reverse_slot="taken")
        assert _objects(await check(made, "S02")) == set()
    finally:
        await poor_destination.destination_sql("select pg_drop_replication_slot('taken')")


async def test_s01c_a_plugin_that_is_not_allowed(pair: Pair) -> None:
    """The setting is newer than the servers of the tests, so the answer about it is made up."""
    context = await make_context(pair)
    assert await check(context, "S01c") == []
    for value, expected in (("test_decoding", {"source: output_plugin_libraries"}), ("pgoutput, x", set())):
        told = dataclasses.replace(context, memo={"settings source": {"output_plugin_libraries": value}})
        assert _objects(await CATALOGUE["S01c"].run(told)) == expected


async def test_s01d_a_slot_that_may_be_dropped(poor_source: Pair) -> None:
    (finding,) = await check(await make_context(poor_source), "S01d")
    assert (finding.severity, finding.object) == (WARN, "source: max_slot_wal_keep_size")


async def test_s01e_timeouts_of_apply_workers(pair: Pair) -> None:
    await pair.destination_sql(f'alter database "{pair.database}" set lock_timeout = 700; select 1')
    await pair.source_sql(f'alter database "{pair.database}" set lock_timeout = 0; select 1')
    (finding,) = await check(await make_context(pair), "S01e")
    assert (finding.severity, finding.object) == (WARN, "destination: lock_timeout")


async def test_s01f_walsenders_that_wait_for_a_standby(poor: EmbeddedPostgres, poor_source: Pair) -> None:
    context = await make_context(poor_source)
    assert await check(context, "S01f") == []
    async with _set(poor, context, "synchronized_standby_slots", "standby_1"):
        (finding,) = await check(context, "S01f")
    assert finding.severity is BLOCK
    assert "not connected: standby_1" in finding.finding


async def test_s01g_commits_that_wait_for_the_subscription(poor: EmbeddedPostgres, poor_source: Pair) -> None:
    context = await make_context(poor_source, subscription="sub")
    for names in ("FIRST 1 (other, sub)", "sub", '"sub"', "*"):
        async with _set(poor, context, "synchronous_standby_names", names):
            assert _objects(await check(context, "S01g")) == {"source: synchronous_standby_names"}, names
    async with _set(poor, context, "synchronous_standby_names", "FIRST 1 (subs, standby)"):
        assert await check(context, "S01g") == []


@asynccontextmanager
async def _set(server: EmbeddedPostgres, context: CheckContext, name: str, value: str) -> AsyncIterator[None]:
    """A setting of the whole server, until it is taken back; nothing here may wait for a commit."""

    before = await context.source.fetchval("select current_setting($1)", name)

    async def differs() -> bool:
        return bool(await context.source.fetchval("select current_setting($1) <> $2", name, before))

    await run_sql(server, "postgres", f"alter system set {name} = '{value}'")
    await run_sql(server, "postgres", "select pg_reload_conf()")
    try:
        await eventually(differs, f"{name} to be set")
        yield
    finally:
        await run_sql(server, "postgres", f"alter system reset {name}")
        await run_sql(server, "postgres", "select pg_reload_conf()")


async def test_r02_settings_that_clients_notice(pair: Pair) -> None:
    """As clients get them: control sessions set some of these for themselves."""
    context = await make_context(pair)
    assert await check(context, "R02") == []
    changes = {"standard_conforming_strings": "off", "work_mem": "5MB", "DateStyle": "German"}
    for setting, value in changes.items():
        await pair.destination_sql(f"alter database {pair.database} set {setting} = '{value}'; select 1")
    findings = await check(context, "R02")
    assert [(f.severity, f.object) for f in findings] == [
        (BLOCK, "destination: standard_conforming_strings"),
        (WARN, "destination: DateStyle"),
        (WARN, "destination: work_mem"),
    ]
    assert "German" in findings[1].finding


async def test_checks_mean_the_same_where_backslashes_escape(pair: Pair) -> None:
    for run in (pair.source_sql, pair.destination_sql):
        await run(f'alter database "{pair.database}" set standard_conforming_strings = off; select 1')
    assert blocks(await check(await make_context(pair), *CATALOGUE)) == []


async def test_c01_and_r02_another_encoding(pair: Pair) -> None:
    other = f"{pair.database}_ascii"
    await run_sql(
        pair.destination_server,
        "postgres",
        f"create database {other} template template0 encoding 'SQL_ASCII'",
    )
    try:
        pair.destination = server_endpoint(pair.destination_server, "destination", other)
        context = await make_context(pair)
        assert _objects(await check(context, "C01")) == {"destination: encoding"}
        assert "destination: server_encoding" in _objects(await check(context, "R02"))
        assert blocks(await check(context, "N01")) == []
    finally:
        await pair.close_sessions()
        await drop_databases((pair.destination_server,), other)


async def test_p01_prepared_transactions(poor_source: Pair) -> None:
    context = await make_context(poor_source)
    assert await check(context, "P01") == []
    elsewhere = server_endpoint(poor_source.source_server, "elsewhere", "postgres")
    async with open_transaction(elsewhere, "create table left_over (i int)") as connection:
        await connection.execute("prepare transaction 'elsewhere'")
        try:
            (finding,) = await check(context, "P01")
            assert (finding.severity, finding.object) == (BLOCK, "source: elsewhere")
            assert "replication slot waits" in finding.finding
            # Once the slot is made, one of another database does no harm any more.
            (finding,) = await check(dataclasses.replace(context, phase=Phase.ARM), "P01")
            assert finding.severity is WARN
        finally:
            await connection.execute("rollback prepared 'elsewhere'")
            await connection.execute("begin")
    async with open_transaction(poor_source.source, "create table t (i int)") as connection:
        await connection.execute("prepare transaction 'here'")
        try:
            (finding,) = await check(dataclasses.replace(context, phase=Phase.ARM), "P01")
            assert (finding.severity, finding.object) == (BLOCK, "source: here")
        finally:
            await connection.execute("rollback prepared 'here'")
            await connection.execute("begin")


async def test_s03_a_standby(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> None:
    standby = EmbeddedPostgres(18, tmp_path_factory.mktemp("standby"), settings={"shared_buffers": "16MB"})
    standby.create()
    (standby.data / "standby.signal").touch()
    with standby:
        pair.destination = server_endpoint(standby, "destination", "postgres")
        findings = await check(await make_context(pair), "S03")
        await pair.close_sessions()
    assert [(f.severity, f.object) for f in findings] == [(BLOCK, "destination")]


async def test_s03_read_only_by_default_is_no_standby(pair: Pair) -> None:
    for run in (pair.source_sql, pair.destination_sql):
        await run(f'alter database "{pair.database}" set default_transaction_read_only = on; select 1')
    assert await check(await make_context(pair), "S03", "N02") == []
