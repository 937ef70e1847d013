"""Checks of code that apply workers run, of row-level security, and of what roles may do."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import pytest

from config.model import FenceKind
from replication.preflight import Phase, Severity
from tests.support.databases import Pair
from tests.support.preflight import Roles, blocks, check, make_context, replicating_context, temporary_roles
from tests.support.wait import eventually

BLOCK, WARN = Severity.BLOCK, Severity.WARN

_TABLE = "create table t (id int primary key);"
_SECURED = _TABLE + "alter table t enable row level security; select 1"


@pytest.fixture
async def roles(pair: Pair) -> AsyncIterator[Roles]:
    async with temporary_roles(pair) as made:
        yield made


def _log_in_as(pair: Pair, name: str) -> None:
    pair.source = dataclasses.replace(pair.source, user=name)
    pair.destination = dataclasses.replace(pair.destination, user=name)


async def test_g01_triggers_that_fire_for_replicated_rows(pair: Pair) -> None:
    trigger = (
        _TABLE + "create function f() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger loud before insert on t for each row execute function f();"
    )
    await pair.both_sql(trigger)
    assert await check(await make_context(pair), "G01") == []
    for state in ("always", "replica"):
        await pair.destination_sql(f"alter table t enable {state} trigger loud")
        (finding,) = await check(await make_context(pair), "G01")
        assert (finding.severity, finding.object) == (WARN, "destination: loud on public.t")
        assert f"ENABLE {state.upper()}" in finding.finding


async def test_g02_rules_that_act_on_replicated_rows(pair: Pair) -> None:
    await pair.destination_sql(
        _TABLE + "create rule r as on insert to t do nothing; alter table t enable always rule r"
    )
    (finding,) = await check(await make_context(pair), "G02")
    assert (finding.severity, finding.object) == (WARN, "destination: r on public.t")


async def test_g03_event_triggers(pair: Pair) -> None:
    await pair.source_sql(
        "create function f() returns event_trigger language plpgsql as 'begin end';"
        "create event trigger watch on ddl_command_end execute function f()"
    )
    (finding,) = await check(await make_context(pair), "G03")
    assert (finding.severity, finding.object) == (WARN, "source: watch")


async def test_g04a_row_level_security_hides_rows_from_the_copy(pair: Pair, roles: Roles) -> None:
    await pair.both_sql(_SECURED)
    assert await check(await make_context(pair), "G04a") == []  # a superuser sees every row
    name = await roles.create("copier", "login replication")
    _log_in_as(pair, name)
    (finding,) = await check(await make_context(pair), "G04a")
    assert (finding.severity, finding.object) == (BLOCK, "source: public.t")
    assert f'"{name}"' in finding.finding
    await pair.both_sql(f"alter role {name} bypassrls")
    assert await check(await make_context(pair), "G04a") == []


async def test_g04b_row_level_security_stops_applying(pair: Pair, roles: Roles) -> None:
    """From 16 on the owner of the table counts, and only FORCE holds for an owner."""
    owner = await roles.create("owner")
    await pair.both_sql(_SECURED)
    await pair.both_sql(f"alter table t owner to {owner}")
    context = await make_context(pair)
    assert await check(context, "G04b") == []
    await pair.destination_sql("alter table t force row level security")
    (finding,) = await check(context, "G04b")
    assert (finding.severity, finding.object) == (BLOCK, "destination: public.t")
    assert f'"{owner}"' in finding.finding


async def test_g04b_is_right_about_what_the_server_does(pair: Pair, roles: Roles) -> None:
    """The apply worker really fails where the check says so, and the check then sees the error, too."""
    owner = await roles.create("owner")
    context = await replicating_context(pair, schema=_TABLE + "select 1", rows="insert into t values (1)")
    await pair.destination_sql(
        f"alter table t owner to {owner}; alter table t enable row level security;"
        " alter table t force row level security"
    )
    assert [f.id for f in blocks(await check(context, "G04b", "G04a"))] == ["G04b"]
    await pair.source_sql("insert into t values (2)")
    assert await _apply_error(pair, "row-level security")


async def _apply_error(pair: Pair, words: str) -> bool:
    log = pair.destination_server
    return bool(await eventually(lambda: words in log.log_text(), f"{words} in the server's log"))


async def test_g04c_a_subscription_that_may_not_act_as_an_owner(pair: Pair, roles: Roles) -> None:
    control = await roles.create("control", "login replication")
    owner = await roles.create("owner")
    await pair.both_sql(_TABLE + f"alter table t owner to {owner}; select 1")
    assert await check(await make_context(pair), "G04c") == []  # a superuser may act as anybody
    _log_in_as(pair, control)
    findings = await check(await make_context(pair), "G04c")
    assert [(f.severity, f.object) for f in findings] == [
        (BLOCK, f"destination: {owner}"),
        (BLOCK, f"source: {owner}"),
    ]
    assert "public.t" in findings[0].finding
    await pair.both_sql(f"grant {owner} to {control}")
    assert await check(await make_context(pair), "G04c") == []


async def test_g05_functions_without_a_search_path(pair: Pair) -> None:
    await pair.destination_sql(
        _TABLE + "create function f(i int) returns int immutable language sql as 'select abs(i)';"
        "alter table t add check (f(id) > 0), alter id set default f(1);"
        "create index on t (f(id))"
    )
    findings = await check(await make_context(pair), "G05")
    assert {(f.severity, f.object) for f in findings} == {(WARN, "destination: public.f(integer)")}
    for words, finding in zip(("check constraint", "default", "index"), findings, strict=True):
        assert words in finding.finding
    await pair.destination_sql("alter function f(int) set search_path = pg_catalog")
    assert await check(await make_context(pair), "G05") == []


async def test_p09_the_fence_needs_rights(pair: Pair, roles: Roles) -> None:
    control = await roles.create("control", "login replication in role pg_monitor")
    _log_in_as(pair, control)
    context = await make_context(pair)
    findings = blocks(await check(context, "P09"))
    assert {f.object for f in findings} == {f"source: {control}", f"destination: {control}"}
    assert len(findings) == 4
    assert await check(dataclasses.replace(context, fence=FenceKind.NONE), "P09") == []

    await pair.both_sql(f'alter database "{pair.database}" owner to {control}')
    await pair.both_sql(f"grant pg_signal_backend to {control}")
    assert blocks(await check(context, "P09")) == []


async def test_p09_the_trigger_fence_needs_every_table(pair: Pair, roles: Roles) -> None:
    control = await roles.create("control", "login replication in role pg_monitor, pg_signal_backend")
    await pair.both_sql(_TABLE + f'alter database "{pair.database}" owner to {control}')
    _log_in_as(pair, control)
    context = await make_context(pair)
    assert blocks(await check(context, "P09")) == []
    findings = blocks(await check(dataclasses.replace(context, fence=FenceKind.TRIGGERS), "P09"))
    assert len(findings) == 2
    assert all("public.t" in f.finding for f in findings)


async def test_q01a_sequences_that_the_control_user_may_not_set(pair: Pair, roles: Roles) -> None:
    control = await roles.create("control", "login replication")
    await pair.both_sql(_TABLE + "create sequence s")
    _log_in_as(pair, control)
    context = await make_context(pair, Phase.ARM)
    findings = blocks(await check(context, "Q01a"))
    assert {f.object for f in findings} == {"source: public.s", "destination: public.s"}
    await pair.both_sql(f"grant select, update on sequence s to {control}")
    assert await check(context, "Q01a") == []
