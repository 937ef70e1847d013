"""Checks of what others are doing on the two servers at this moment."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import asyncpg
import pytest

from config.model import FenceKind
from replication.preflight import CheckContext, Finding, Phase, Severity
from tests.support.databases import Pair
from tests.support.preflight import (
    Roles,
    blocks,
    check,
    client,
    make_context,
    open_transaction,
    temporary_roles,
)
from tests.support.wait import eventually

BLOCK, WARN = Severity.BLOCK, Severity.WARN

_TABLE = "create table t (id int primary key); select 1"
_WRITE = "insert into t values (1)"


@pytest.fixture
async def roles(pair: Pair) -> AsyncIterator[Roles]:
    async with temporary_roles(pair) as made:
        yield made


async def _found(context: CheckContext, id: str) -> list[Finding]:
    """The findings of a check that needs some time to pass."""
    found: list[Finding] = await eventually(lambda: check(context, id), f"{id} to find something")
    return found


async def test_p02a_a_transaction_that_writes(pair: Pair) -> None:
    await pair.both_sql(_TABLE)
    context = await make_context(pair, pause_budget_ms=60_000)
    async with open_transaction(pair.source, _WRITE) as connection:
        assert await check(context, "P02a") == []
        (finding,) = await _found(dataclasses.replace(context, pause_budget_ms=100), "P02a")
    assert finding.severity is BLOCK
    assert f"pid {connection.get_server_pid()}" in finding.object
    assert "an application" in finding.object


async def test_p02a_a_transaction_that_only_reads(pair: Pair) -> None:
    """Of a stranger it does no harm; of a client of the proxy, the gate waits for it."""
    context = await make_context(pair, pause_budget_ms=100)
    async with open_transaction(pair.source, "select 1") as connection:
        (finding,) = await _found(context, "P02a")
        assert finding.severity is WARN
        ours = frozenset({connection.get_server_pid()})
        (finding,) = await check(dataclasses.replace(context, own_source_pids=ours), "P02a")
        assert finding.severity is BLOCK


async def test_p02a_our_own_control_sessions_do_not_count(pair: Pair) -> None:
    """A comparison of tables, for one, keeps its snapshot open for a long time."""
    await pair.both_sql(_TABLE)
    verifying = await pair.source_session()
    await verifying.execute("begin; insert into public.t values (1)")
    async with open_transaction(pair.source, "insert into t values (2)"):
        (finding,) = await _found(await make_context(pair, pause_budget_ms=50), "P02a")
    assert "an application" in finding.object
    await verifying.execute("rollback")


async def test_p02b_a_session_that_idles_in_a_transaction(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replication.preflight.transactions._IDLE_IN_TRANSACTION_WARN_MS", 50)
    async with open_transaction(pair.source, "select 1"):
        (finding,) = await _found(await make_context(pair), "P02b")
    assert finding.severity is WARN


async def test_p02c_a_transaction_that_the_slot_of_the_way_back_waits_for(pair: Pair) -> None:
    """In whichever database of the server; harmless once that slot is there."""
    slot = f"back_{pair.database}"
    context = await make_context(pair, pause_budget_ms=50, reverse_slot=slot)
    elsewhere = dataclasses.replace(pair.destination, database="postgres")
    async with open_transaction(elsewhere, "create temp table x (i int)"):
        (finding,) = await _found(context, "P02c")
        assert finding.severity is BLOCK
    async with open_transaction(elsewhere, "select 1"):
        await asyncio.sleep(0.1)
        assert await check(context, "P02c") == []
    await pair.destination_sql("select pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    async with open_transaction(elsewhere, "create temp table x (i int)"):
        await asyncio.sleep(0.1)
        assert await check(context, "P02c") == []


async def test_p02d_an_index_that_is_being_built(pair: Pair) -> None:
    await pair.both_sql(
        "create function slowly(i int) returns int immutable language plpgsql as"
        " 'begin perform pg_catalog.pg_sleep(20); return i; end';" + _TABLE
    )
    await pair.source_sql(_WRITE)
    context = await make_context(pair)
    assert await check(context, "P02d") == []
    async with client(pair.source) as connection:
        building = asyncio.create_task(connection.execute("create index on t (slowly(id))"))
        (finding,) = await eventually(lambda: _blocking(context, "P02d"), "the index to be seen")
        assert "public.t" in finding.finding
        await pair.source_sql("select pg_cancel_backend($1)", connection.get_server_pid())
        with pytest.raises(asyncpg.QueryCanceledError):
            await building


async def _blocking(context: CheckContext, id: str) -> list[Finding]:
    return blocks(await check(context, id))


async def test_p02d_a_table_that_somebody_has_locked(pair: Pair) -> None:
    await pair.both_sql(_TABLE)
    async with open_transaction(pair.source, "lock table t in access exclusive mode"):
        (finding,) = await check(await make_context(pair), "P02d")
    assert finding.severity is WARN
    assert "has locked public.t" in finding.finding


async def test_p03_sessions_that_do_not_come_through_the_proxy(pair: Pair) -> None:
    context = await make_context(pair)
    assert await check(context, "P03") == []
    expected = {FenceKind.NONE: BLOCK, FenceKind.READ_ONLY: WARN, FenceKind.TRIGGERS: WARN}
    async with client(pair.source) as connection:
        for fence, severity in expected.items():
            (finding,) = await check(dataclasses.replace(context, fence=fence), "P03")
            assert finding.severity is severity
            assert "127.0.0.1" in finding.finding
        link = dataclasses.replace(context, own_source_pids=frozenset({connection.get_server_pid()}))
        assert await check(link, "P03") == []


async def test_p03b_an_application_on_the_destination(pair: Pair, roles: Roles) -> None:
    reader = await roles.create("reader")
    writer = await roles.create("writer")
    await pair.both_sql(_TABLE)
    await pair.destination_sql(f"grant select on t to {reader}; grant insert on t to {writer}")
    context = await make_context(pair)
    assert await check(context, "P03b") == []
    async with client(pair.destination, reader):
        assert [f.severity for f in await check(context, "P03b")] == [WARN]
    async with client(pair.destination, writer) as connection:
        (finding,) = await check(context, "P03b")
        assert finding.severity is BLOCK
        link = dataclasses.replace(context, own_destination_pids=frozenset({connection.get_server_pid()}))
        assert await check(link, "P03b") == []


async def test_p03b_an_administrator_on_the_destination_may_watch_and_not_write(pair: Pair) -> None:
    await pair.both_sql(_TABLE)
    context = await make_context(pair)
    async with client(pair.destination):
        assert [f.severity for f in await check(context, "P03b")] == [WARN]
    async with open_transaction(pair.destination, _WRITE):
        (finding,) = await check(context, "P03b")
    assert finding.severity is BLOCK
    assert "is writing" in finding.finding


async def test_strangers_are_not_overlooked_for_want_of_rights(pair: Pair, roles: Roles) -> None:
    """Without pg_monitor the rows of others are there, but empty."""
    control = await roles.create("control", "login replication")
    pair.source = dataclasses.replace(pair.source, user=control)
    context = await make_context(pair, Phase.SETUP, fence=FenceKind.NONE)
    stranger = dataclasses.replace(pair.source, user="postgres")
    async with client(stranger):
        (finding,) = await check(context, "P03")
        assert "could not be checked" in finding.finding
        assert "GRANT pg_monitor" in finding.remedy
        await pair.source_sql(f"grant pg_monitor to {control}")
        (finding,) = await check(context, "P03")
        assert "not through the proxy" in finding.finding
