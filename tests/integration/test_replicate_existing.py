"""REPLICATE into a destination that has a schema already, and what RESET makes of it."""

from __future__ import annotations

import pytest

from replication.errors import SchemaRefused
from tests.support.databases import Pair
from tests.support.moves import both_schemas, run_replicate, run_reset, traces
from tests.support.rich_schema import sequence_values

SOURCE = """
CREATE TYPE color AS ENUM ('red', 'green');
CREATE TABLE t (id serial PRIMARY KEY, n int, short varchar(10), c color,
    g int GENERATED ALWAYS AS (n + 1) STORED);
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
INSERT INTO t (n, short, c) SELECT g, 's' || g, 'green' FROM generate_series(1, 20) g;
INSERT INTO p SELECT generate_series(1, 10);
"""

WIDER = """
CREATE TYPE color AS ENUM ('red', 'blue', 'green');
CREATE TABLE t (id bigserial PRIMARY KEY, extra text NOT NULL DEFAULT 'new', short text, n bigint, c color,
    g bigint GENERATED ALWAYS AS (n + 1) STORED, more int);
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
CREATE TABLE only_here (id int);
INSERT INTO only_here VALUES (1);
SELECT setval('t_id_seq', 5);
"""

MISFIT = """
CREATE TYPE color AS ENUM ('red');
CREATE TABLE t (n smallint, short varchar(5) NOT NULL, c color, g int, must int NOT NULL);
CREATE TABLE p (id int PRIMARY KEY, x int);
"""


async def test_a_wider_schema_is_used_and_reset_empties_it(pair: Pair) -> None:
    await pair.source_sql(SOURCE)
    await pair.destination_sql(WIDER)
    before = await both_schemas(pair)
    values = await sequence_values(pair, "destination")
    steps = await run_replicate(pair)
    assert "fits" in next(s.detail for s in steps if s.step == "schema")
    rows = await pair.destination_sql("SELECT id, n, short, c::text, g, extra FROM t ORDER BY id")
    assert len(rows) == 20
    assert tuple(rows[4]) == (5, 5, "s5", "green", 6, "new")
    assert len(await pair.destination_sql("SELECT FROM p")) == 10
    assert (await sequence_values(pair, "destination"))["public.t_id_seq"] == (20, True)
    await run_reset(pair)
    assert await traces(pair) == {}
    assert await both_schemas(pair) == before
    assert await sequence_values(pair, "destination") == values
    assert await pair.destination_sql("SELECT FROM t") == []
    assert len(await pair.destination_sql("SELECT FROM only_here")) == 1
    assert len(await pair.source_sql("SELECT FROM t")) == 20


async def test_every_difference_is_named(pair: Pair) -> None:
    await pair.source_sql(SOURCE)
    await pair.destination_sql(MISFIT)
    with pytest.raises(SchemaRefused) as caught:
        await run_replicate(pair)
    for part in (
        "table public.p1 is missing",
        "column id is missing",
        "column n is of type smallint instead of integer",
        "column short is of type character varying(5) instead of character varying(10)",
        "column short is NOT NULL there",
        "column g is generated on the source but not there",
        "column must exists only there, is NOT NULL and has no default",
        "no primary key or replica identity index; the source has (id)",
        "sequence public.t_id_seq is missing",
        "type public.color lacks the labels green",
    ):
        assert part in caught.value.detail
    await run_reset(pair)
    assert await traces(pair) == {}
    assert len(await pair.destination_sql("SELECT FROM pg_class WHERE relname = 't'")) == 1


async def test_tables_with_rows_are_refused(pair: Pair) -> None:
    await pair.both_sql("CREATE TABLE t (id int PRIMARY KEY)")
    await pair.destination_sql("INSERT INTO t VALUES (1)")
    with pytest.raises(SchemaRefused, match=r"hold rows already.*public\.t"):
        await run_replicate(pair)
    await run_reset(pair)
    assert len(await pair.destination_sql("SELECT FROM t")) == 1
    assert await traces(pair) == {}


async def test_objects_of_the_same_name_without_tables_are_refused(pair: Pair) -> None:
    await pair.source_sql("CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY)")
    await pair.destination_sql("CREATE SCHEMA app; CREATE FUNCTION monitor() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(SchemaRefused, match=r"objects of these names.*schema app"):
        await run_replicate(pair)
    await pair.destination_sql("DROP SCHEMA app")
    await run_replicate(pair)
    await run_reset(pair)
    assert len(await pair.destination_sql("SELECT FROM pg_proc WHERE proname = 'monitor'")) == 1
    assert await pair.destination_sql("SELECT FROM pg_namespace WHERE nspname = 'app'") == []
