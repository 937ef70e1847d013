"""Settings, options, roles: whatever a session has set, it answers as before after CUTOVER and after REVERT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.databases import Pair
from tests.support.takeover import Stage, roles, stage

SCHEMA = """
CREATE SCHEMA "Odd, Schema";
CREATE TABLE "Odd, Schema".odd (id int PRIMARY KEY);
CREATE FUNCTION public.become(tenant text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('app.tenant', tenant, false); END $$;
CREATE FUNCTION public.outer_become(tenant text) RETURNS void LANGUAGE sql AS $$ SELECT public.become(tenant) $$;
CREATE FUNCTION public.hurry() RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('work_mem', '77MB', false); SET lock_timeout = '3s'; END $$;
CREATE FUNCTION public.on_note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('app.last_note', NEW.id::text, false); RETURN NEW; END $$;
CREATE TRIGGER on_note BEFORE INSERT ON public.note FOR EACH ROW EXECUTE FUNCTION public.on_note();
CREATE VIEW public.becoming AS SELECT 'seen' AS seen FROM public.become('from a view');
"""


@dataclass(frozen=True)
class Kept:
    """State that `setup` makes and `questions` show."""

    name: str
    setup: Sequence[str]
    questions: Sequence[str]
    answers: Sequence[str | None] | None = None  # what they must be; else: what they were before
    options: dict[str, str] = field(default_factory=dict)  # of the start-up packet
    user: str = "postgres"


def shows(*names: str) -> list[str]:
    return [f"SHOW {name}" for name in names]


KEPT = (
    Kept("integer with a unit", ["SET work_mem = '12345kB'"], shows("work_mem"), ["12345kB"]),
    Kept("integer", ["SET geqo_effort = 7"], shows("geqo_effort"), ["7"]),
    Kept("real", ["SET cpu_tuple_cost = 0.125"], shows("cpu_tuple_cost"), ["0.125"]),
    Kept("boolean", ["SET enable_seqscan = off"], shows("enable_seqscan"), ["off"]),
    Kept("enum", ["SET bytea_output = escape"], shows("bytea_output"), ["escape"]),
    Kept(
        "search_path",
        ["""SET search_path = "Odd, Schema", 'public', "$user" """],
        ["SHOW search_path", "SELECT count(*) FROM odd"],
        ['"Odd, Schema", public, "$user"', "0"],
    ),
    Kept("empty search_path", ["SET search_path = ''"], shows("search_path"), ['""']),
    Kept("time zone", ["SET TIME ZONE 'Asia/Kathmandu'"], shows("TimeZone"), ["Asia/Kathmandu"]),
    Kept("time zone as an interval", ["SET TIME ZONE INTERVAL '-03:30' HOUR TO MINUTE"], shows("TimeZone")),
    Kept("DateStyle", ["SET DateStyle = 'SQL, DMY'"], shows("DateStyle"), ["SQL, DMY"]),
    Kept("application_name", ["SET application_name = 'it''s \"me\"'"], shows("application_name"), ['it\'s "me"']),
    Kept("statement_timeout", ["SET statement_timeout = '1h'"], shows("statement_timeout"), ["1h"]),
    Kept("a short statement_timeout", ["SET statement_timeout = '1ms'"], shows("statement_timeout"), ["1ms"]),
    Kept("statement_timeout 0", ["SET statement_timeout = 0"], shows("statement_timeout"), ["0"]),
    Kept(
        "transaction defaults",
        ["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"],
        shows("default_transaction_isolation", "default_transaction_read_only", "transaction_isolation"),
        ["serializable", "on", "serializable"],
    ),
    Kept("superuser's setting", ["SET log_min_duration_statement = 4321"], shows("log_min_duration_statement")),
    Kept("set_config", ["SELECT set_config('work_mem', '9MB', false)"], shows("work_mem"), ["9MB"]),
    Kept("set_config, local", ["SELECT set_config('work_mem', '9MB', true)"], shows("work_mem")),
    Kept("set by a function", ["SELECT public.hurry()"], shows("work_mem", "lock_timeout"), ["77MB", "3s"]),
    Kept("SET LOCAL", ["BEGIN", "SET LOCAL work_mem = '9MB'", "COMMIT"], shows("work_mem")),
    Kept("rolled back", ["BEGIN", "SET work_mem = '9MB'", "ROLLBACK"], shows("work_mem")),
    Kept("committed", ["BEGIN", "SET work_mem = '9MB'", "COMMIT"], shows("work_mem"), ["9MB"]),
    Kept("reset", ["SET work_mem = '9MB'", "RESET work_mem"], shows("work_mem")),
    Kept(
        "option",
        ["SET my.tenant = 'Ünï ''code'''"],
        ["SHOW my.tenant", "SELECT current_setting('my.tenant')"],
        ["Ünï 'code'", "Ünï 'code'"],
    ),
    Kept("option, quoted", ['SET "my"."Quoted" TO 5'], shows("my.quoted"), ["5"]),
    Kept("option, odd spelling", ["set\n\tsession\n my.spelling\n to 'x'"], shows("my.spelling"), ["x"]),
    Kept("option by set_config", ["SELECT set_config('my.other', 'v', false)"], shows("my.other"), ["v"]),
    Kept("option by a function", ["SELECT public.become('acme')"], shows("app.tenant"), ["acme"]),
    Kept("option by a function in a function", ["SELECT public.outer_become('b')"], shows("app.tenant"), ["b"]),
    Kept("option by a view", ["SELECT * FROM public.becoming"], shows("app.tenant"), ["from a view"]),
    Kept("option by a trigger", ["INSERT INTO public.note VALUES (77, 'x')"], shows("app.last_note"), ["77"]),
    Kept("option by DO", ["DO $$ BEGIN PERFORM set_config('done.x', 'y', false); END $$"], shows("done.x"), ["y"]),
    Kept("option in a multi-statement", ["SELECT 1; SET multi.x = 'a'; SELECT 2"], shows("multi.x"), ["a"]),
    Kept(
        "option never set here",
        [],
        ["SELECT current_setting('my.tenant', true)", "SELECT current_setting('app.tenant', true)"],
        [None, None],
    ),
    Kept("option in -c", [], shows("opt.x"), ["from -c"], options={"options": "-c opt.x=from\\ -c"}),
    Kept(
        "settings in -c",
        [],
        shows("work_mem", "statement_timeout"),
        ["7MB", "8s"],
        options={"options": "-c work_mem=7MB -c statement_timeout=8s"},
    ),
    Kept(
        "start-up values come back after RESET",
        ["SET work_mem = '9MB'", "SET opt.x = 'set'", "RESET work_mem", "RESET opt.x"],
        shows("work_mem", "opt.x"),
        ["7MB", "given"],
        options={"options": "-c work_mem=7MB -c opt.x=given"},
    ),
    Kept(
        "SET ROLE",
        ['SET ROLE "trust_role"'],
        ["SELECT current_user::text", "SELECT session_user::text", "SHOW role"],
        ["trust_role", "postgres", "trust_role"],
    ),
    Kept(
        "SET SESSION AUTHORIZATION",
        ['SET SESSION AUTHORIZATION "trust_role"'],
        ["SELECT current_user::text", "SELECT session_user::text", "SHOW role"],
        ["trust_role", "trust_role", "none"],
    ),
    Kept(
        "both, and a setting only a superuser may set",
        ["SET log_min_duration_statement = 4321", "SET SESSION AUTHORIZATION trust_login", "SET ROLE trust_role"],
        ["SELECT current_user::text", "SELECT session_user::text", "SHOW log_min_duration_statement"],
        ["trust_role", "trust_login", "4321ms"],
    ),
    Kept(
        "a role of its own by default",
        [],
        ["SELECT current_user::text", "SELECT session_user::text"],
        ["trust_role", "trust_with_role"],
        user="trust_with_role",
    ),
    Kept(
        "no role in spite of the default",
        ["SET ROLE NONE"],
        ["SELECT current_user::text", "SHOW role"],
        ["trust_with_role", "none"],
        user="trust_with_role",
    ),
    Kept(
        "a read-only default of the role",
        [],
        shows("default_transaction_read_only"),
        ["on"],
        user="trust_reader",
    ),
    Kept(
        "a read-only default of the client",
        [],
        shows("default_transaction_read_only"),
        ["on"],
        options={"options": "-c default_transaction_read_only=on"},
    ),
)

ROLES = """
CREATE ROLE trust_role; CREATE ROLE trust_login LOGIN IN ROLE trust_role;
CREATE ROLE trust_with_role LOGIN IN ROLE trust_role; ALTER ROLE trust_with_role SET role = 'trust_role';
CREATE ROLE trust_reader LOGIN; ALTER ROLE trust_reader SET default_transaction_read_only = on;
"""
NAMES = ("trust_role", "trust_login", "trust_with_role", "trust_reader")
USERS = ("postgres", "trust_login", "trust_with_role", "trust_reader")


async def answers(client: Any, questions: Sequence[str]) -> list[str | None]:
    """Every answer as text, asked by simple queries, as psql would."""
    found: list[str | None] = []
    for question in questions:
        cursor = await client.execute(question, prepare=False)
        value = (await cursor.fetchone())[0]
        found.append(None if value is None else str(value))
    return found


async def test_what_a_session_has_set(pair: Pair, tmp_path: Path) -> None:
    async with (
        roles(pair, ROLES, NAMES),
        stage(pair, tmp_path, schema=SCHEMA, users=USERS) as on,
    ):
        clients = []
        for kept in KEPT:
            client = await on.psycopg(user=kept.user, client_encoding="utf8", **kept.options)
            for statement in kept.setup:
                await client.execute(statement.encode(), prepare=False)
            clients.append(client)
        before = [await answers(client, kept.questions) for client, kept in zip(clients, KEPT, strict=True)]
        wrong = {k.name: b for k, b in zip(KEPT, before, strict=True) if k.answers is not None and b != [*k.answers]}
        assert wrong == {}, "before anything has moved"
        for move, version in ((on.cutover, "18"), (on.revert, "16"), (on.cutover, "18")):
            figures = await move()
            assert figures["sessions closed"] == "0", on.daemon.log()
            after = [await answers(client, kept.questions) for client, kept in zip(clients, KEPT, strict=True)]
            changed = {k.name: (b, a) for k, b, a in zip(KEPT, before, after, strict=True) if a != b}
            assert changed == {}
            assert str(await answers(clients[0], ["SHOW server_version"])).startswith(f"['{version}")


RESETS = ("RESET ALL", "DISCARD ALL", "RESET default_transaction_read_only")
DEFAULTS = shows(
    "work_mem",
    "search_path",
    "default_transaction_read_only",
    "transaction_read_only",
    "client_encoding",
    "application_name",
    "statement_timeout",
    "role",
)


async def test_resets_restore_what_a_direct_connection_has(pair: Pair, tmp_path: Path) -> None:
    """Also after REVERT, whose destination was fenced by a read-only default while the twins were opened."""
    async with stage(pair, tmp_path) as on:
        clients = [await on.psycopg(application_name="mine") for _ in RESETS]
        for client in clients:
            await client.execute("SET work_mem = '9MB'")
            await client.execute("SET search_path = pg_catalog")
            await client.execute("SET client_encoding = 'LATIN1'")
            await client.execute("SET statement_timeout = '1h'")
            await client.execute("SET application_name = 'changed'")
        for move, server in ((on.cutover, pair.destination_server), (on.revert, pair.source_server)):
            await move()
            direct = await psycopg.AsyncConnection.connect(
                f"host={server.host} port={server.port} dbname={pair.database} user=postgres application_name=mine",
                autocommit=True,
            )
            expected = await answers(direct, DEFAULTS)
            await direct.close()
            for client, reset in zip(clients, RESETS, strict=True):
                assert (await answers(client, ["SHOW default_transaction_read_only"])) == ["off"]
                await client.execute(reset)
                if not reset.startswith("RESET d"):
                    assert await answers(client, DEFAULTS) == expected, reset
                upsert = "INSERT INTO public.note VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET text = 'y'"
                await client.execute(upsert)


async def test_text_in_another_encoding(pair: Pair, tmp_path: Path) -> None:
    schema = 'CREATE SCHEMA "Größe"; CREATE TABLE "Größe".maß (id int PRIMARY KEY);'
    async with stage(pair, tmp_path, schema=schema) as on:
        client = await on.psycopg()
        await client.execute("SET client_encoding = 'LATIN1'")
        await client.execute('SET search_path = "Größe"')
        await client.execute("SET my.tenant = 'Köln'")
        await client.execute("SET application_name = 'app'")
        await client.execute("PREPARE maße AS SELECT 'süß' || count(*) FROM maß")
        await client.execute('LISTEN "Kanäle"')
        questions = ["SHOW client_encoding", "SHOW search_path", "SHOW my.tenant", "EXECUTE maße"]
        questions.append("SELECT pg_listening_channels()")
        expected = ["LATIN1", '"Größe"', "Köln", "süß0", "Kanäle"]
        assert await answers(client, questions) == expected
        for move in (on.cutover, on.revert):
            assert (await move())["sessions closed"] == "0"
            assert await answers(client, questions) == expected
            assert client.info.encoding == "iso8859-1"


class OptionByParameter:
    """The option's name comes in a Bind message; with asyncpg and with psycopg, named and unnamed statements."""

    def __init__(self, on: Stage) -> None:
        self.on = on
        self.checks: list[tuple[Any, str, str]] = []

    async def asyncpg(self, statement: str, *arguments: str, name: str, value: str, cached: bool) -> None:
        client = await (self.on.asyncpg() if cached else self.on.asyncpg(statement_cache_size=0))
        await client.fetchval(statement, *arguments)
        self.checks.append((client, name, value))

    async def verify(self) -> None:
        for client, name, value in self.checks:
            assert await client.fetchval(f"SHOW {name}") == value


async def test_options_whose_names_are_parameters(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path) as on:
        known = OptionByParameter(on)
        for cached in (True, False):
            tail = "cached" if cached else "uncached"
            plain = "SELECT set_config($1, $2, false)"
            await known.asyncpg(plain, f"par.{tail}", "v", name=f"par.{tail}", value="v", cached=cached)
            prefixed = "SELECT set_config('pre.' || $1, $2, false)"
            await known.asyncpg(prefixed, tail, "w", name=f"pre.{tail}", value="w", cached=cached)
        assert (await on.cutover())["sessions closed"] == "0"
        await known.verify()
        # The same statements run again, without a new Parse: the names are noticed all the same.
        client = known.checks[0][0]
        await client.fetchval("SELECT set_config($1, $2, false)", "par.later", "z")
        known.checks.append((client, "par.later", "z"))
        assert (await on.revert())["sessions closed"] == "0"
        await known.verify()


async def test_options_whose_names_cannot_be_known_are_not_lost_in_silence(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path) as on:
        client = await on.psycopg()
        other = await on.asyncpg()
        await client.execute("SELECT set_config('hid' || 'den.' || 'x', 'v', false)")
        assert (await on.cutover())["sessions closed"] == "1"
        assert await other.fetchval("SELECT 1") == 1
        with pytest.raises(psycopg.errors.AdminShutdown) as raised:
            await client.execute("SELECT 1")
        assert "customized options whose names are not known" in str(raised.value.diag.message_detail)
        assert "customized options whose names are not known" in on.daemon.log()


async def test_parameter_status_follows_the_move(pair: Pair, tmp_path: Path) -> None:
    """What a driver remembers of the server changes with it; pg_backend_pid() is what the client was told."""
    async with stage(pair, tmp_path) as on:
        client = await on.psycopg()
        (told,) = await answers(client, ["SELECT pg_backend_pid()"])
        assert told == str(client.info.backend_pid)
        await client.execute("SET TimeZone = 'Asia/Tokyo'")
        for move, version in ((on.cutover, "18"), (on.revert, "16")):
            await move()
            await client.execute("SELECT 1")
            reported = client.info.parameter_status("server_version")
            assert reported is not None
            assert reported.startswith(version)
            assert client.info.parameter_status("TimeZone") == "Asia/Tokyo"
            assert client.info.parameter_status("default_transaction_read_only") == "off"
        other = await on.asyncpg()
        await other.execute("SET application_name = 'x'")
        await on.cutover()
        assert await other.fetchval("SELECT 1") == 1
        assert other.get_settings().server_version.startswith("18")
