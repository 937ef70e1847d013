"""Checks of who the databases are, whether they reach each other, and who may log in where."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import pytest

from replication.preflight import CheckContext, Finding, ProxiedUser, Severity
from tests.support.databases import Pair
from tests.support.preflight import (
    CLEAN_SCHEMA,
    Roles,
    blocks,
    check,
    client,
    make_context,
    temporary_roles,
)

BLOCK, WARN, INFO = Severity.BLOCK, Severity.WARN, Severity.INFO


@pytest.fixture
async def roles(pair: Pair) -> AsyncIterator[Roles]:
    async with temporary_roles(pair) as made:
        yield made


async def test_n01_both_names_lead_to_one_database(pair: Pair) -> None:
    context = await make_context(pair)
    same = dataclasses.replace(context, destination=await pair.source_session())
    (finding,) = await check(same, "N01")
    assert finding.severity is BLOCK
    assert "same database" in finding.finding
    assert await check(context, "N01") == []
    held = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    assert await same.source.fetchval(held) == 0
    assert await same.destination.fetchval(held) == 0


async def test_n01_two_databases_of_one_server_are_different(pair: Pair) -> None:
    other = dataclasses.replace(pair.source, database="postgres")
    pair.destination = other
    assert await check(await make_context(pair), "N01") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("login", {"may not replicate", "may not create schemas and publications", "may not subscribe"}),
        ("login superuser", set()),
    ],
)
async def test_s04_rights_of_the_control_user(pair: Pair, roles: Roles, options: str, words: set[str]) -> None:
    name = await roles.create("control", options)
    for endpoint in ("source", "destination"):
        setattr(pair, endpoint, dataclasses.replace(getattr(pair, endpoint), user=name))
    findings = await check(await make_context(pair), "S04")
    for side in ("source", "destination"):
        assert {f.finding for f in blocks(findings) if f.object == f"{side}: {name}"} == words


async def test_s04_every_right_granted_one_by_one(pair: Pair, roles: Roles) -> None:
    name = await roles.create("control", "login replication in role pg_create_subscription")
    await pair.source_sql(f'grant create on database "{pair.database}" to {name}')
    await pair.destination_sql(f'grant create on database "{pair.database}" to {name}')
    for endpoint in ("source", "destination"):
        setattr(pair, endpoint, dataclasses.replace(getattr(pair, endpoint), user=name))
    assert await check(await make_context(pair), "S04") == []


async def test_n02_servers_that_reach_each_other_leave_nothing_behind(pair: Pair) -> None:
    assert await check(await make_context(pair), "N02") == []
    for run in (pair.source_sql, pair.destination_sql):
        assert await run("select subname from pg_subscription where subname like 'pgcutover_probe%'") == []


async def test_n02_a_wrong_address_is_found_in_each_direction(pair: Pair) -> None:
    context = await make_context(pair)
    context.source.endpoint = dataclasses.replace(pair.source, replication_host="127.0.0.1", replication_port=1)
    (finding,) = await check(context, "N02")
    assert (finding.severity, finding.object) == (BLOCK, "destination -> source")
    assert "127.0.0.1:1" in finding.finding

    context.source.endpoint = pair.source
    context.destination.endpoint = dataclasses.replace(pair.destination, replication_port=1)
    (finding,) = await check(context, "N02")
    assert finding.object == "source -> destination"


async def test_n02_the_password_shows_up_nowhere(pair: Pair) -> None:
    secret = "it's \\very secret"
    context = await make_context(pair)
    context.source.endpoint = dataclasses.replace(pair.source, user="nobody_there", password=secret)
    (finding,) = await check(context, "N02")
    assert finding.severity is BLOCK
    assert "nobody_there" in finding.finding
    assert "secret" not in repr(finding)
    for server in (pair.source_server, pair.destination_server):
        assert "very secret" not in server.log_text()


async def test_n04_versions(pair: Pair) -> None:
    context = await make_context(pair)
    (finding,) = await check(context, "N04")
    assert (finding.severity, finding.finding) == (INFO, "from version 16 to version 18")

    down = dataclasses.replace(context, source=context.destination, destination=context.source)
    (finding,) = await check(down, "N04")
    assert finding.severity is WARN

    strict = dataclasses.replace(context, minimum_major=17, maximum_major=17)
    assert [(f.severity, f.object) for f in await check(strict, "N04")] == [
        (BLOCK, "source"),
        (WARN, "destination"),
        (INFO, "app"),
    ]


async def test_n05_room_for_the_links(pair: Pair) -> None:
    context = await make_context(pair)
    assert await check(dataclasses.replace(context, links_needed=50), "N05") == []
    (finding,) = await check(dataclasses.replace(context, links_needed=200), "N05")
    assert finding.severity is BLOCK
    assert "210 connections are needed" in finding.finding

    await pair.destination_sql(f'alter database "{pair.database}" connection limit 5')
    (finding,) = await check(dataclasses.replace(context, links_needed=50), "N05")
    assert "the database allows 5" in finding.finding


async def test_n05_links_that_are_open_already_are_not_counted_twice(pair: Pair) -> None:
    context = await make_context(pair)
    await pair.destination_sql(f'alter database "{pair.database}" connection limit 2')
    async with client(pair.destination) as link:
        known = dataclasses.replace(context, links_needed=2, own_destination_pids=frozenset({link.get_server_pid()}))
        assert await check(known, "N05") == []
        (finding,) = await check(dataclasses.replace(context, links_needed=2), "N05")
        assert "others use 1" in finding.finding


def _user(pair: Pair, role: str, **changes: object) -> ProxiedUser:
    user = ProxiedUser("alice", role, pair.database, pair.database)
    return dataclasses.replace(user, **changes)  # type: ignore[arg-type]


async def _n03(pair: Pair, user: ProxiedUser) -> list[Finding]:
    return await check(dataclasses.replace(await make_context(pair), proxied_users=(user,)), "N03")


async def test_n03_a_role_that_is_the_same_on_both_sides(pair: Pair, roles: Roles) -> None:
    name = await roles.create("alice", "login connection limit 7")
    assert await _n03(pair, _user(pair, name)) == []


async def test_n03_a_missing_role(pair: Pair, roles: Roles) -> None:
    name = await roles.create("alice", only_source=True)
    (finding,) = await _n03(pair, _user(pair, name))
    assert (finding.severity, finding.object) == (BLOCK, f"destination: {name}")
    assert '"alice"' in finding.finding


async def test_n03_a_role_that_cannot_log_in(pair: Pair, roles: Roles) -> None:
    name = await roles.create("alice")
    for change, words, undo in (
        ("nologin", "may not log in", "login"),
        ("valid until '2001-01-01'", "no longer valid", "valid until 'infinity'"),
        ("connection limit 3", "3 connections here, any number on the source", "connection limit -1"),
    ):
        await pair.destination_sql(f"alter role {name} {change}")
        (finding,) = await _n03(pair, _user(pair, name))
        assert finding.severity is BLOCK
        assert words in finding.finding
        await pair.destination_sql(f"alter role {name} {undo}")
    await pair.destination_sql(f'revoke connect on database "{pair.database}" from public')
    (finding,) = await _n03(pair, _user(pair, name))
    assert finding.severity is BLOCK
    assert "may not connect" in finding.finding
    (finding,) = await _n03(pair, _user(pair, name, database_destination="nowhere"))
    assert finding.severity is BLOCK
    assert '"nowhere"' in finding.finding


async def test_n03_passwords(pair: Pair, roles: Roles) -> None:
    name = await roles.create("alice", "login password 'one'")
    # Two salts: the same password, and nothing proves it.
    (finding,) = await _n03(pair, _user(pair, name))
    assert finding.severity is WARN
    assert "verifiers differ" in finding.finding

    (finding,) = await _n03(pair, _user(pair, name, same_verifier_needed=True))
    assert finding.severity is BLOCK

    await pair.destination_sql(f"alter role {name} password null")
    (finding,) = await _n03(pair, _user(pair, name))
    assert (finding.severity, finding.finding) == (
        BLOCK,
        "the role has no password here, on the source it has one",
    )

    (verifier,) = await pair.source_sql("select rolpassword from pg_authid where rolname = $1", name)
    await pair.destination_sql(f"alter role {name} password '{verifier['rolpassword']}'")
    assert await _n03(pair, _user(pair, name, same_verifier_needed=True)) == []


async def test_n03_says_so_where_passwords_cannot_be_compared(pair: Pair, roles: Roles) -> None:
    name = await roles.create("limited")
    pair.destination = dataclasses.replace(pair.destination, user=name)
    (finding,) = await _n03(pair, _user(pair, name))
    assert finding.severity is WARN
    assert "not compared" in finding.finding


async def test_r01_a_role_that_is_connected_now(pair: Pair, roles: Roles) -> None:
    name = await roles.create("report", only_source=True)
    context = await make_context(pair)
    assert await check(context, "R01") == []
    async with client(pair.source, name):
        (finding,) = await check(context, "R01")
        proxied = dataclasses.replace(context, proxied_users=(_user(pair, name),))
        assert await check(proxied, "R01") == []  # N03 speaks about it
    assert (finding.severity, finding.object) == (BLOCK, f"destination: {name}")


async def test_r01_settings_and_memberships(pair: Pair, roles: Roles) -> None:
    name = await roles.create("alice")
    group = await roles.create("group", "nologin")
    database = pair.database
    await pair.source_sql(f"alter role {name} set work_mem = '9MB'; grant {group} to {name};")
    await pair.source_sql(f'alter database "{database}" set statement_timeout = 70007; select 1')
    await pair.source_sql(f'alter database "{database}" set default_transaction_read_only = on; select 1')
    context = dataclasses.replace(await make_context(pair), proxied_users=(_user(pair, name),))
    settings, memberships = sorted(await check(context, "R01"), key=lambda f: f.object, reverse=True)
    assert {settings.severity, memberships.severity} == {WARN}
    assert f"role {name}: work_mem=9MB" in settings.finding
    assert "statement_timeout=70007" in settings.finding
    assert "read_only" not in settings.finding  # the fence, not the operator's wish
    assert f"{name} in {group}" in memberships.finding


async def _d07(pair: Pair) -> tuple[CheckContext, list[Finding]]:
    context = await make_context(pair)
    return context, await check(context, "D07")


async def test_d07_a_grantee_that_is_missing_before_the_schema_is_copied(pair: Pair, roles: Roles) -> None:
    name = await roles.create("grantee", only_source=True)
    await pair.source_sql(CLEAN_SCHEMA + f"grant select on shop.orders to {name}")
    _, (finding,) = await _d07(pair)
    assert (finding.severity, finding.object) == (BLOCK, f"destination: {name}")


async def test_d07_an_owner_and_rights_that_differ(pair: Pair, roles: Roles) -> None:
    name = await roles.create("owner")
    await pair.both_sql("create table t (id int primary key); create table u (id int primary key)")
    await pair.source_sql(f"alter table t owner to {name}; grant insert on u to {name};")
    _, findings = await _d07(pair)
    assert [(f.severity, f.object) for f in findings] == [
        (WARN, "destination: public.t"),
        (WARN, "destination: public.u"),
    ]
    assert f"owned by postgres, on the source by {name}" in findings[0].finding
    assert f"INSERT to {name}" in findings[1].finding
