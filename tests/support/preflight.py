"""A schema that no check objects to, and short ways to run checks on a pair of databases."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from replication.endpoint import Endpoint
from replication.preflight import CheckContext, Finding, Phase, Severity, run_checks
from replication.preflight.replication_state import read_error_baseline
from tests.support.databases import Pair
from tests.support.wait import eventually

# Of everything that the checks look at, the form that they accept.
CLEAN_SCHEMA = """
create schema shop;
create type shop.mood as enum ('sad', 'fine', 'happy');
create domain shop.code as text check (value <> '');
create type shop.point3 as (x int, y int, z int);
create sequence shop.free_numbers increment by -3 minvalue -1000 maxvalue 1000 start 10;
create function shop.next_code() returns text language sql set search_path = pg_catalog as $$ select 'c' $$;
create table shop.customers (
    id bigint generated always as identity primary key,
    name text not null unique,
    mood shop.mood not null default 'fine',
    code shop.code default shop.next_code(),
    place shop.point3,
    shout text generated always as (upper(name)) stored
);
create table shop.orders (
    id serial primary key,
    customer bigint not null references shop.customers (id),
    at timestamptz not null default now(),
    amount numeric(12, 2) check (amount >= 0)
);
create index on shop.orders (customer, at desc) where amount > 100;
create table shop.events (at date not null, id int not null, body jsonb, primary key (at, id))
    partition by range (at);
create table shop.events_2025 partition of shop.events for values from ('2025-01-01') to ('2026-01-01');
create table shop.events_2026 partition of shop.events for values from ('2026-01-01') to ('2027-01-01');
create table "Odd names" ("Primary key" int primary key, "select" text);
create view shop.totals as select customer, sum(amount) as total from shop.orders group by customer;
create function shop.touch() returns trigger language plpgsql as $$ begin new.at := now(); return new; end $$;
create trigger touch before update on shop.orders for each row execute function shop.touch();
"""

ROWS = """
insert into shop.customers (name) select 'customer ' || i from generate_series(1, 50) i;
insert into shop.orders (customer, amount) select i, i * 10 from generate_series(1, 50) i;
insert into shop.events select date '2025-06-01' + i * 10, i, '{}' from generate_series(1, 50) i;
insert into "Odd names" values (1, 'x');
select nextval('shop.free_numbers');
"""

PUBLICATION = "pub"
SUBSCRIPTION = "sub"


async def make_context(pair: Pair, phase: Phase = Phase.SETUP, **changes: Any) -> CheckContext:
    return CheckContext(
        source=await pair.source_session(),
        destination=await pair.destination_session(),
        pair_name="app",
        phase=phase,
        **changes,
    )


async def replicating_context(pair: Pair, *, rows: str = ROWS, schema: str = CLEAN_SCHEMA) -> CheckContext:
    """Both sides with `schema`, the source with `rows`, and a subscription that has copied everything."""
    await pair.both_sql(schema)
    await pair.source_sql(rows)
    slot = subscription_slot(pair)
    await pair.source_sql(f"create publication {PUBLICATION} for all tables")
    # Not in one go: making the slot waits for other transactions, also of tests that are being cleaned up.
    await pair.source_sql("select pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    conninfo = pair.source.replication_conninfo().replace("'", "''")
    await pair.destination_sql(
        f"create subscription {SUBSCRIPTION} connection '{conninfo}' publication {PUBLICATION}"
        f" with (create_slot = false, slot_name = '{slot}')"
    )
    context = await make_context(
        pair, Phase.ARM, publication=PUBLICATION, subscription=SUBSCRIPTION, own_slots=frozenset({slot})
    )
    await eventually(lambda: _in_sync(context), "the subscription to be in sync", 20)
    baseline = await read_error_baseline(context.destination, SUBSCRIPTION)
    return dataclasses.replace(context, baseline=baseline)


def subscription_slot(pair: Pair) -> str:
    return f"slot_{pair.database}"


async def _in_sync(context: CheckContext) -> bool:
    return not blocks(await run_checks(context, {"P05a", "P05b", "P04a", "P04b"}))


async def check(context: CheckContext, *ids: str) -> list[Finding]:
    return await run_checks(context, ids)


def blocks(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.BLOCK]


@dataclasses.dataclass
class Roles:
    """Roles that exist on both servers for one test, with names nobody else uses."""

    pair: Pair
    names: list[str] = dataclasses.field(default_factory=list)

    async def create(
        self, suffix: str, options: str = "login", *, only_source: bool = False, prefix: str = "trust_"
    ) -> str:
        """Returns the name. With the prefix trust_ it logs in without a password (see HBA in conftest)."""
        name = f"{prefix}{self.pair.database}_{suffix}"
        self.names.append(name)
        await self.pair.source_sql(f"create role {name} {options}")
        if not only_source:
            await self.pair.destination_sql(f"create role {name} {options}")
        return name

    async def drop(self) -> None:
        for run in (self.pair.source_sql, self.pair.destination_sql):
            known = {row["name"] for row in await run("select rolname::text as name from pg_roles")}
            for name in known.intersection(self.names):
                # A test may have left the database read-only, as a fence does.
                await run(
                    f"set transaction_read_only = off; reassign owned by {name} to postgres;"
                    f" drop owned by {name}; drop role {name};"
                )


@asynccontextmanager
async def temporary_roles(pair: Pair) -> AsyncIterator[Roles]:
    made = Roles(pair)
    try:
        yield made
    finally:
        await made.drop()


@asynccontextmanager
async def client(endpoint: Endpoint, user: str | None = None) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is not a control session, as an application's."""
    connection = await asyncpg.connect(
        host=endpoint.host,
        port=endpoint.port,
        user=user or endpoint.user,
        password=endpoint.password,
        database=endpoint.database,
        ssl=False,
        server_settings={"application_name": "an application"},
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


@asynccontextmanager
async def open_transaction(endpoint: Endpoint, sql: str, user: str | None = None) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of an application that has run `sql` and stays open."""
    async with client(endpoint, user) as connection:
        await connection.execute(f"begin; {sql}")
        try:
            yield connection
        finally:
            await connection.execute("rollback")
