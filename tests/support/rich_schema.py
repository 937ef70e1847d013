"""A schema with one of everything that a copy has to get right, its data, and comparisons of two sides."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from replication.endpoint import Endpoint
from replication.session import ControlSession
from tests.support.databases import Pair

LONG = "a_very_long_name_that_uses_all_of_the_sixty_three_bytes_allowed"

SCHEMA = f'''
CREATE SCHEMA app;
CREATE SCHEMA "Weird Schema";
CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN app.email AS text CHECK (VALUE LIKE '%@%');
CREATE TYPE app.pair AS (a int, b text);
CREATE TYPE app.span AS RANGE (subtype = int4);
CREATE FUNCTION app.shout(t text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog
    AS $$ SELECT upper(t) $$;
CREATE PROCEDURE app.nothing(x int) LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE SEQUENCE app.free;
CREATE SEQUENCE app.down INCREMENT -1 MINVALUE -1000 START -1;
CREATE SEQUENCE app.never START 42;
CREATE SEQUENCE app.wheel MAXVALUE 5 CYCLE;
CREATE SEQUENCE app.small AS smallint INCREMENT 5;
CREATE TABLE app.customer (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail app.email UNIQUE, m app.mood DEFAULT 'ok',
    p app.pair, s app.span, loud text GENERATED ALWAYS AS (app.shout(mail::text)) STORED);
COMMENT ON TABLE app.customer IS 'several
lines; of comment';
CREATE TABLE app.orders (
    id bigserial PRIMARY KEY, customer int NOT NULL REFERENCES app.customer,
    boss bigint REFERENCES app.orders DEFERRABLE INITIALLY DEFERRED,
    at timestamptz NOT NULL DEFAULT now(), note text, CHECK (note <> 'bad'));
CREATE INDEX orders_note ON app.orders (lower(note));
CREATE INDEX orders_at ON app.orders (at);
ALTER TABLE app.orders ADD CONSTRAINT positive CHECK (id > 0) NOT VALID;
ALTER TABLE app.orders ADD CONSTRAINT ex EXCLUDE (id WITH =);
CREATE TABLE app.events (id bigint, day date, body jsonb, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE app.events_2024 PARTITION OF app.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE app.events_2025 PARTITION OF app.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
    PARTITION BY LIST (id);
CREATE TABLE app.events_2025_x PARTITION OF app.events_2025 DEFAULT;
CREATE INDEX events_day ON app.events (day);
CREATE TABLE app.full_identity (a int, b text);
ALTER TABLE app.full_identity REPLICA IDENTITY FULL;
CREATE INDEX ON app.full_identity (a);
CREATE TABLE app.by_index (a int NOT NULL, b text);
CREATE UNIQUE INDEX by_index_a ON app.by_index (a);
ALTER TABLE app.by_index REPLICA IDENTITY USING INDEX by_index_a;
CREATE TABLE "Weird Schema"."Ta ble; ""q""" ("Id" int PRIMARY KEY, "sel""ect" text, {LONG} int);
CREATE TABLE public.{LONG} (id int PRIMARY KEY, big text);
CREATE UNLOGGED TABLE app.scratch (id int);
CREATE VIEW app.v AS SELECT c.*, count(*) FROM app.customer c JOIN app.orders o ON o.customer = c.id
    GROUP BY c.id;
CREATE MATERIALIZED VIEW app.mv AS SELECT customer, count(*) AS n FROM app.orders GROUP BY 1;
CREATE UNIQUE INDEX ON app.mv (customer);
CREATE MATERIALIZED VIEW app.mv_on_mv AS SELECT sum(n) AS n FROM app.mv;
CREATE MATERIALIZED VIEW app.mv_on_key AS SELECT c.id, c.mail FROM app.customer c GROUP BY c.id;
CREATE INDEX mv_on_key_mail ON app.mv_on_key (mail);
CREATE MATERIALIZED VIEW app.mv_empty AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION app.mark() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN NEW.note := coalesce(NEW.note, 'x') || '!'; RETURN NEW; END $$;
CREATE TRIGGER mark BEFORE INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION app.mark();
CREATE RULE keep AS ON DELETE TO app.scratch DO INSTEAD NOTHING;
CREATE POLICY everybody ON app.customer USING (true);
CREATE STATISTICS app.st ON customer, at FROM app.orders;
CREATE CAST (app.mood AS app.email) WITH INOUT;
CREATE TEXT SEARCH CONFIGURATION app.words (COPY = pg_catalog.simple);
CREATE FUNCTION app.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER watch_ddl ON ddl_command_end EXECUTE FUNCTION app.on_ddl();
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO PUBLIC;
GRANT SELECT ON app.customer TO PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO PUBLIC;
'''

DATA = f'''
INSERT INTO app.customer (mail, p, s) SELECT 'c' || g || '@x', ROW(g, 'p')::app.pair, app.span(g, g + 5)
FROM generate_series(1, 50) g;
INSERT INTO app.orders (customer, note) SELECT 1 + g % 50, 'n' || g FROM generate_series(1, 500) g;
INSERT INTO app.events SELECT g, date '2024-01-01' + g % 700, '{{"k": 1}}' FROM generate_series(1, 600) g;
INSERT INTO app.full_identity SELECT g, 'f' FROM generate_series(1, 50) g;
INSERT INTO app.by_index SELECT g, 'i' FROM generate_series(1, 50) g;
INSERT INTO "Weird Schema"."Ta ble; ""q""" SELECT g, E'q\\n\\t', g FROM generate_series(1, 20) g;
INSERT INTO public.{LONG} SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 1000) g;
INSERT INTO app.scratch VALUES (1);
SELECT nextval('app.free') FROM generate_series(1, 7);
SELECT nextval('app.down') FROM generate_series(1, 3);
SELECT nextval('app.wheel') FROM generate_series(1, 7);
SELECT nextval('app.small') FROM generate_series(1, 4);
REFRESH MATERIALIZED VIEW app.mv;
REFRESH MATERIALIZED VIEW app.mv_on_mv;
REFRESH MATERIALIZED VIEW app.mv_on_key;
'''

_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relkind = 'm' AS is_view
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated AND c.oid >= 16384
  AND n.nspname NOT IN ('information_schema', 'pgcutover') ORDER BY 1
"""
_SEQUENCES = """
SELECT format('%I.%I', schemaname, sequencename) AS name FROM pg_sequences ORDER BY 1
"""


async def fill(pair: Pair) -> None:
    await pair.source_sql(SCHEMA)
    await pair.source_sql(DATA)


async def row_hashes(pair: Pair, side: str, *, views: bool = False) -> dict[str, tuple[int, str]]:
    """Of every permanent table, with `views` of filled materialized views too: count and hash of the rows."""
    session = await _session(pair, side)
    result = {}
    for table in await session.fetch(_TABLES):
        if table["is_view"] and not views:
            continue
        row = await session.fetchrow(
            "SELECT count(*) AS n, md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) AS h "
            f"FROM {table['name']} t"
        )
        assert row is not None
        result[table["name"]] = (row["n"], row["h"])
    return result


async def sequence_values(pair: Pair, side: str) -> dict[str, tuple[int, bool]]:
    session = await _session(pair, side)
    result = {}
    for sequence in await session.fetch(_SEQUENCES):
        row = await session.fetchrow(f"SELECT last_value, is_called FROM {sequence['name']}")
        assert row is not None
        result[sequence["name"]] = (row["last_value"], row["is_called"])
    return result


async def _session(pair: Pair, side: str) -> ControlSession:
    return await (pair.source_session() if side == "source" else pair.destination_session())


async def schema_text(endpoint: Endpoint, bin_dir: Path) -> str:
    """The schema as pg_dump prints it, without pgcutover and without what differs from run to run."""
    environment = {**os.environ, "PGPASSWORD": endpoint.password or ""}
    process = await asyncio.create_subprocess_exec(
        str(bin_dir / "pg_dump"), "--schema-only", "--exclude-schema=pgcutover",
        "--no-publications", "--no-subscriptions",
        "-h", endpoint.host, "-p", str(endpoint.port), "-U", endpoint.user, "-d", endpoint.database,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    lines = (
        line
        for line in output.decode().splitlines()
        if line and not line.startswith(("\\restrict", "\\unrestrict", "--"))
    )
    # Before 18 NOT NULL has no name in the catalogs; pg_dump shows the one of 18 where it is not the default.
    return "\n".join(re.sub(r"CONSTRAINT \w+_not_null NOT NULL", "NOT NULL", line) for line in lines)
