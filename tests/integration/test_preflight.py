"""The run of the checks as a whole: a clean pair, both phases, both directions, failures of single checks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from daemon.demo.binaries import BinariesMissing
from daemon.demo.embedded import EmbeddedPostgres
from replication.preflight import CATALOGUE, CheckContext, Phase, ProxiedUser, Severity, run_checks, runner
from tests.conftest import HBA, SETTINGS, SUPERUSER_PASSWORD
from tests.support.databases import Pair, create_database, drop_databases, make_pair
from tests.support.preflight import (
    CLEAN_SCHEMA,
    ROWS,
    Roles,
    blocks,
    check,
    make_context,
    open_transaction,
    replicating_context,
    temporary_roles,
)
from tests.support.wait import eventually


@pytest.fixture
async def roles(pair: Pair) -> AsyncIterator[Roles]:
    async with temporary_roles(pair) as made:
        yield made


@asynccontextmanager
async def _locked(pair: Pair, table: str) -> AsyncIterator[None]:
    async with open_transaction(pair.source, f"lock table {table} in access exclusive mode"):
        yield


def _proxied(pair: Pair) -> tuple[ProxiedUser, ...]:
    return (ProxiedUser("alice", "postgres", pair.database, pair.database),)


async def test_nothing_blocks_setup_before_the_schema_is_copied(pair: Pair) -> None:
    await pair.source_sql(CLEAN_SCHEMA + ROWS)
    context = await make_context(pair, proxied_users=_proxied(pair), links_needed=20)
    findings = await run_checks(context)
    assert blocks(findings) == []
    # What was not compared is said, not passed over.
    assert [f.id for f in findings if "compared once there is one" in f.finding] == ["D01"]


async def test_nothing_blocks_setup_with_the_schema_copied_by_hand(pair: Pair) -> None:
    await pair.source_sql(CLEAN_SCHEMA + ROWS)
    await pair.destination_sql(CLEAN_SCHEMA)
    findings = await run_checks(await make_context(pair, proxied_users=_proxied(pair), links_needed=20))
    assert blocks(findings) == []
    assert "D01" not in {f.id for f in findings}


async def test_nothing_blocks_a_running_replication(pair: Pair) -> None:
    context = await replicating_context(pair)
    context = dataclasses.replace(context, proxied_users=_proxied(pair), links_needed=20)
    assert blocks(await run_checks(context)) == []


async def test_nothing_blocks_the_way_back(pair: Pair) -> None:
    forward = await replicating_context(pair)
    backward = await _turned_round(pair, forward)
    findings = await run_checks(backward)
    assert blocks(findings) == []
    assert await backward.destination.fetchval("show default_transaction_read_only") == "off"


async def _turned_round(pair: Pair, forward: CheckContext) -> CheckContext:
    """As after a cutover: the reverse stream runs, and the side that moved is read-only on purpose."""
    slot = f"back_{pair.database}"
    await pair.destination_sql("create publication back for all tables")
    await pair.destination_sql("select pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    await pair.destination_sql("alter subscription sub disable")
    conninfo = pair.destination.replication_conninfo().replace("'", "''")
    await pair.source_sql(
        f"create subscription back connection '{conninfo}' publication back with (create_slot = false,"
        f" slot_name = '{slot}', copy_data = false{', origin = none' if forward.source.major >= 16 else ''})"
    )
    await pair.source_sql(f'alter database "{pair.database}" set default_transaction_read_only = on')
    backward = dataclasses.replace(
        forward,
        source=await pair.destination_session(),
        destination=await pair.source_session(),
        publication="back",
        subscription="back",
        own_slots=forward.own_slots | {slot},
        own_subscriptions=frozenset({"sub", "back"}),
        baseline=None,
    )

    async def streams() -> bool:
        return not blocks(await check(backward, "P05a", "P05b", "P04a"))

    await eventually(streams, "the reverse stream to run")
    return backward


@pytest.fixture(scope="module")
def pg15(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    try:
        server = EmbeddedPostgres(
            15, tmp_path_factory.mktemp("pg15"), settings=SETTINGS, hba=HBA, password=SUPERUSER_PASSWORD
        )
    except BinariesMissing as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
async def pair_from_15(pg15: EmbeddedPostgres, pg18: EmbeddedPostgres) -> AsyncIterator[Pair]:
    database = f"t15_{os.getpid()}"
    fresh = make_pair(pg15, pg18, database)
    for server in (pg15, pg18):
        await create_database(server, database)
    try:
        yield fresh
    finally:
        await fresh.close_sessions()
        await drop_databases((pg15, pg18), database)


async def test_every_check_works_on_a_server_without_the_newer_catalogues(pair_from_15: Pair) -> None:
    """15 as a publisher, and with the sides exchanged as a subscriber."""
    forward = await replicating_context(pair_from_15)
    assert blocks(await run_checks(forward)) == []
    assert blocks(await run_checks(await _turned_round(pair_from_15, forward))) == []


async def test_nothing_blocks_a_control_user_that_is_no_superuser(pair: Pair, roles: Roles) -> None:
    """With the rights that the remedies name, and no others."""
    control = await roles.create(
        "control",
        "login replication bypassrls password 'its own' in role pg_monitor, pg_signal_backend, pg_create_subscription",
        prefix="",
    )
    await pair.both_sql(f'alter database "{pair.database}" owner to {control}; select 1')
    await pair.both_sql(f"set role {control};" + CLEAN_SCHEMA)
    pair.source = dataclasses.replace(pair.source, user=control, password="its own")
    pair.destination = dataclasses.replace(pair.destination, user=control, password="its own")
    assert blocks(await run_checks(await make_context(pair, links_needed=20))) == []


async def test_findings_are_ordered_by_severity_then_id_then_object(pair: Pair) -> None:
    await pair.source_sql(CLEAN_SCHEMA + "create table b (x int); create table a (x int);")
    await pair.source_sql("create unlogged table c (id int primary key)")
    await pair.source_sql("select lo_create(0)")
    findings = await run_checks(await make_context(pair))
    keys = [(list(Severity).index(f.severity), f.id, f.object) for f in findings]
    assert keys == sorted(keys)
    assert [(f.id, f.object) for f in blocks(findings)] == [
        ("T01", "source: public.a"),
        ("T01", "source: public.b"),
        ("T08", "source: large objects"),
    ]


async def test_the_phase_selects_the_checks(pair: Pair) -> None:
    await pair.both_sql(CLEAN_SCHEMA)
    setup = await run_checks(await make_context(pair))
    arm = await run_checks(await make_context(pair, Phase.ARM))
    arm_only = {entry.id for entry in CATALOGUE.values() if Phase.SETUP not in entry.phases}
    assert not arm_only & {f.id for f in setup}
    # Without a stream every check that looks at it blocks.
    assert {"P04a", "P04b", "P05a", "P05b", "P05c", "P05d"} <= {f.id for f in blocks(arm)}


async def test_a_check_that_may_not_look_blocks_and_the_others_run(pair: Pair, roles: Roles) -> None:
    limited = await roles.create("limited", "login replication password 'pw'")
    await pair.both_sql(CLEAN_SCHEMA)
    await pair.source_sql("create unlogged table secret (id int primary key)")
    pair.source = dataclasses.replace(pair.source, user=limited, password="pw")
    findings = await run_checks(await make_context(pair))
    unchecked = {f.id: f.finding for f in blocks(findings) if "could not be checked" in f.finding}
    assert "permission denied" in unchecked["T03"]
    assert "may not see the sessions of others" in unchecked["P02a"]
    assert "may not see the sessions of others" in unchecked["P03"]
    assert any(f.id == "S04" and limited in f.object for f in findings)
    assert any(f.id == "N04" for f in findings)


async def test_a_check_that_finds_a_table_locked_gives_up_and_says_so(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LOCK_TIMEOUT_MS", 200)
    await pair.source_sql(CLEAN_SCHEMA + "create unlogged table held (id int primary key)")
    context = await make_context(pair)
    async with _locked(pair, "held"):
        findings = await check(context, "T03", "N04")
    (finding,) = blocks(findings)
    assert finding.id == "T03"
    assert "could not be checked" in finding.finding
    assert "lock timeout" in finding.finding
    assert await context.source.fetchval("select current_setting('lock_timeout')") == "0"


async def test_a_check_that_gets_no_answer_in_time_blocks_and_the_next_one_gets_a_new_session(
    pair: Pair,
) -> None:
    await pair.source_sql(CLEAN_SCHEMA + "create unlogged table held (id int primary key)")
    context = dataclasses.replace(await make_context(pair), check_timeout_s=0.5)
    async with _locked(pair, "held"):
        findings = await check(context, "T03", "T08", "N04")
    assert [f.id for f in blocks(findings)] == ["T03"]
    assert "no answer within 0.5 s" in blocks(findings)[0].finding
    assert any(f.id == "N04" for f in findings)
    assert context.source.closed


async def test_a_session_that_was_lost_before_is_replaced(pair: Pair) -> None:
    await pair.source_sql(CLEAN_SCHEMA)
    context = await make_context(pair)
    await pair.source_sql("select pg_terminate_backend($1, 5000)", context.source.pid)
    findings = await check(context, "T01", "T08", "P03", "N04")
    assert blocks(findings) == []
    assert [f.id for f in findings] == ["N04"]


async def test_every_check_blocks_while_a_side_is_out_of_reach(pair: Pair) -> None:
    context = await make_context(pair)
    context.source.endpoint = dataclasses.replace(pair.source, port=1)
    context.source.abort()
    findings = await run_checks(context)
    assert {f.id for f in findings if f.id in ("T01", "T08", "S01a", "N01")} == {"T01", "T08", "S01a", "N01"}
    assert all(f.severity is Severity.BLOCK for f in findings if f.id in ("T01", "T08", "S01a", "N01"))


async def test_unknown_ids_are_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="Z99"):
        await run_checks(await make_context(pair), {"Z99"})
