"""Prepared statements of every kind go on working after a swap, and nothing that stood beside them runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import pq

from proxy.wire import messages
from tests.support.databases import Pair
from tests.support.runs import Stop, figures, refused, told
from tests.support.takeover import DEADLINE_S, Raw, Stage, stage
from tests.support.wait import eventually

SCHEMA = """
CREATE TABLE public.ran (n int);
ALTER TABLE public.ran REPLICA IDENTITY FULL;
CREATE TYPE public."Mood" AS ENUM ('glad', 'so so');
CREATE DOMAIN public.even AS int CHECK (VALUE % 2 = 0);
CREATE TYPE public.pt AS (x int, y int);
CREATE FUNCTION public.become(tenant text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('app.tenant', tenant, false); END $$;
"""
# Only to make OIDs differ.
FILLER = "CREATE TYPE public.filler_a AS ENUM (); CREATE TYPE public.filler_b AS ENUM ();"


async def test_statements_of_the_protocol(pair: Pair, tmp_path: Path) -> None:
    await pair.destination_sql(FILLER)
    async with stage(pair, tmp_path, schema=SCHEMA) as on:
        oid_sql = "SELECT oid FROM pg_type WHERE typname = 'Mood'"
        assert (await pair.source_sql(oid_sql))[0][0] != (await pair.destination_sql(oid_sql))[0][0]
        client = await on.asyncpg()
        statements = [
            (await client.prepare('SELECT $1::public."Mood"'), "so so", "so so"),
            (await client.prepare("SELECT $1::public.even + 1"), 4, 5),
            (await client.prepare("SELECT ($1::public.pt).y"), (1, 2), 2),
            (await client.prepare('SELECT $1::public."Mood"[]'), ["glad"], ["glad"]),
            (await client.prepare("SELECT $1::information_schema.sql_identifier || '!'"), "x", "x!"),
            (await client.prepare("SELECT array_length($1::int[], 1)"), [1, 2, 3], 3),
            (await client.prepare("SELECT $1 || 'b'"), "a", "ab"),
        ]
        assert await client.fetchval("SELECT $1::int + 40", 2) == 42
        other = await on.psycopg()
        cursor = await other.execute('SELECT %s::public."Mood"::text', ["glad"], prepare=True)
        assert await cursor.fetchone() == ("glad",)
        listed = "SELECT name, statement, parameter_types::text FROM pg_prepared_statements ORDER BY name"
        before = await (await other.execute(listed, prepare=False)).fetchall()
        for move in (on.cutover, on.revert):
            assert (await move())["sessions closed"] == "0"
            for statement, argument, answer in statements:
                assert await statement.fetchval(argument) == answer
            assert await client.fetchval("SELECT $1::int + 40", 2) == 42
            assert await (await other.execute(listed, prepare=False)).fetchall() == before
            cursor = await other.execute('SELECT %s::public."Mood"::text', ["glad"], prepare=True)
            assert await cursor.fetchone() == ("glad",)


async def test_what_changes_between_the_twin_and_the_pause(pair: Pair, tmp_path: Path) -> None:
    """The twins are made and know their sessions; then the sessions change once more."""
    stop = Stop(tmp_path, "hold")
    async with stage(pair, tmp_path, schema=SCHEMA, failpoint=stop.failpoint) as on:
        client = await on.asyncpg()
        old = await client.prepare("SELECT 'old'")
        becoming, setting, naming = await on.asyncpg(), await on.asyncpg(), await on.asyncpg()
        become = await becoming.prepare("SELECT public.become($1)")
        set_memory = await setting.prepare("SELECT set_config('work_mem', $1, false)")
        await become.fetchval("before")
        sql = await on.psycopg()
        await sql.execute("PREPARE gone AS SELECT 1")
        await sql.execute("PREPARE other AS SELECT 'first'")
        await sql.execute("PREPARE change(text) AS SELECT set_config('my.prepared', $1, false)")
        unnamed = await Unnamed.open(on)
        await unnamed.prepare("SELECT set_config('my.unnamed', $1, false)")
        await unnamed.execute("before")
        for move in ("CUTOVER", "REVERT"):
            run = await on.until(stop, move)
            new = await client.prepare(f"SELECT '{move}'")
            await become.fetchval(f"during {move}")
            await set_memory.fetchval("9MB" if move == "CUTOVER" else "10MB")
            await naming.execute(f"SET application_name = '{move}'")
            await sql.execute("DEALLOCATE gone" if move == "CUTOVER" else "PREPARE gone AS SELECT 1")
            await sql.execute("DEALLOCATE other")
            await sql.execute(f"PREPARE other AS SELECT '{move}'")
            await sql.execute(f"EXECUTE change('{move}')")
            await unnamed.execute(move)
            stop.open()
            assert figures(await run)["sessions closed"] == "0"
            assert await old.fetchval() == "old"
            assert await new.fetchval() == move
            assert await becoming.fetchval("SHOW app.tenant") == f"during {move}"
            assert await setting.fetchval("SHOW work_mem") == ("9MB" if move == "CUTOVER" else "10MB")
            assert await naming.fetchval("SHOW application_name") == move
            assert await (await sql.execute("EXECUTE other")).fetchone() == (move,)
            assert await (await sql.execute("SHOW my.prepared")).fetchone() == (move,)
            assert await unnamed.execute(move) == move
            if move == "CUTOVER":
                with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                    await sql.execute("EXECUTE gone")
            else:
                assert await (await sql.execute("EXECUTE gone")).fetchone() == (1,)
        assert await unnamed.query("SHOW my.unnamed") == "REVERT"


async def test_prepare_in_sql(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path, schema=SCHEMA) as on:
        client = await on.psycopg()
        await client.execute('/* ours; */ -- and; mine\n PREPARE "Alone" (public."Mood", int) AS SELECT $1::text, $2')
        await client.execute(
            b"""INSERT INTO ran VALUES (1); PREPARE one AS SELECT ';' || $1::text; INSERT INTO ran VALUES (2);
                PREPARE two(int) AS INSERT INTO ran VALUES ($1) RETURNING n; INSERT INTO ran VALUES (3)"""
        )
        await client.execute("DO $$ BEGIN EXECUTE 'PREPARE from_do AS SELECT 7'; END $$")
        listed = "SELECT name, parameter_types::text FROM pg_prepared_statements WHERE from_sql ORDER BY name"
        before = await (await client.execute(listed)).fetchall()
        assert len(before) == 4
        for number, move in enumerate((on.cutover, on.revert)):
            assert (await move())["sessions closed"] == "0"
            assert await (await client.execute(listed)).fetchall() == before
            assert await (await client.execute("EXECUTE \"Alone\" ('so so', 5)")).fetchone() == ("so so", 5)
            assert await (await client.execute("EXECUTE one('x')")).fetchone() == (";x",)
            assert await (await client.execute(f"EXECUTE two({10 + number})".encode())).fetchone() == (10 + number,)
            assert await (await client.execute("EXECUTE from_do")).fetchone() == (7,)
        ran = await (await client.execute("SELECT n FROM ran ORDER BY n")).fetchall()
        assert ran == [(1,), (2,), (3,), (10,), (11,)], "something ran twice"


async def test_a_prepare_that_cannot_be_told_from_its_neighbours(pair: Pair, tmp_path: Path) -> None:
    """It is not guessed at: the session ends, and its neighbours have not run again."""
    async with stage(pair, tmp_path, schema=SCHEMA) as on:
        client = await on.psycopg()
        await client.execute(rb"INSERT INTO ran VALUES (length(E'\'')); PREPARE p AS SELECT 1")
        assert (await on.cutover())["sessions closed"] == "1"
        with pytest.raises(psycopg.errors.AdminShutdown):
            await client.execute("EXECUTE p")
        again = await on.psycopg()
        assert await (await again.execute("SELECT n FROM ran")).fetchall() == [(1,)]


class Unnamed:
    """A client of libpq's own calls: PQprepare with an empty name, then PQexecPrepared as often as it likes."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    async def open(cls, on: Stage) -> Unnamed:
        dsn = f"host=127.0.0.1 port={on.daemon.port} dbname=app user=postgres".encode()
        connection = await asyncio.to_thread(pq.PGconn.connect, dsn)
        on.keep(connection.finish)
        assert connection.status == pq.ConnStatus.OK, connection.error_message
        return cls(connection)

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            result = await asyncio.to_thread(call, *arguments)
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise AssertionError(result.error_message.decode())
        return result

    async def prepare(self, sql: str, *oids: int) -> None:
        await self._run(self.connection.prepare, b"", sql.encode(), oids)

    async def execute(self, *arguments: str) -> str:
        result = await self._run(self.connection.exec_prepared, b"", [a.encode() for a in arguments])
        return str(result.get_value(0, 0).decode())

    async def query(self, sql: str) -> str:
        result = await self._run(self.connection.exec_, sql.encode())
        return str((result.get_value(0, 0) or b"").decode())


async def test_the_unnamed_statement(pair: Pair, tmp_path: Path) -> None:
    """It survives our questions and the swaps, its types translated."""
    await pair.destination_sql(FILLER)
    async with stage(pair, tmp_path, schema=SCHEMA, failpoint="before:commit=error") as on:
        client = await Unnamed.open(on)
        await client.prepare("SELECT $1::int + 1", 23)
        mood = await Unnamed.open(on)
        oid = int(await mood.query("SELECT oid FROM pg_type WHERE typname = 'Mood'"))
        await mood.prepare("SELECT $1", oid)
        untouched = await Unnamed.open(on)
        await untouched.prepare("SELECT 'once ' || $1")
        assert await client.execute("1") == "2"
        assert await mood.execute("glad") == "glad"
        await refused(on.daemon, "CUTOVER")  # everybody was asked, and nobody has moved
        assert await client.execute("1") == "2"
        assert await mood.execute("glad") == "glad"
        await on.cutover()
        assert await client.execute("2") == "3"
        assert await mood.execute("so so") == "so so"
        assert await client.execute("3") == "4"
        await on.revert()
        assert await client.execute("4") == "5"
        assert await mood.execute("glad") == "glad"
        await on.cutover()
        await on.revert()
        assert await untouched.execute("more") == "once more"


async def test_no_unnamed_statement_where_the_client_made_none(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path) as on:
        client = await Unnamed.open(on)
        await client.prepare("SELECT 1")
        await client.query("SET work_mem = '9MB'")  # a simple query destroys it
        await on.cutover()
        with pytest.raises(AssertionError, match="unnamed prepared statement does not exist"):
            await client.execute()


# -- Parse, Describe, Flush, and no Sync ---------------------------------------------------------------------------


async def backend_state(pair: Pair, pid: int) -> str:
    rows = await pair.source_sql("SELECT state FROM pg_stat_activity WHERE pid = $1", pid)
    return str(rows[0]["state"])


async def test_asyncpg_prepare_leaves_a_batch_open(pair: Pair, tmp_path: Path) -> None:
    """conn.prepare() sends no Sync, so the backend is in the middle of a batch, for hours perhaps."""
    async with stage(pair, tmp_path, schema=SCHEMA, cutover_transaction_timeout=200) as on:
        named = await on.asyncpg()
        unnamed = await on.asyncpg(statement_cache_size=0)
        await named.execute("SET work_mem = '9MB'")
        kept = await named.prepare('SELECT $1::public."Mood"')
        also = await unnamed.prepare("SELECT $1 || 'b'", name="")
        assert await backend_state(pair, unnamed.get_server_pid()) == "active"
        await asyncio.sleep(0.5)  # longer than any transaction may last
        assert (await on.cutover())["sessions closed"] == "0"
        assert await kept.fetchval("glad") == "glad"
        assert await also.fetchval("a") == "ab"
        kept = await named.prepare("SELECT 'again'")
        assert (await on.revert())["sessions closed"] == "0"
        assert await kept.fetchval() == "again"
        assert await named.fetchval("SHOW work_mem") == "9MB"


async def test_batches_without_sync_do_not_stop_a_pause(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path) as on:
        client = await on.asyncpg()
        statement = await client.prepare("SELECT 5")
        await asyncio.wait_for(on.daemon.command("PAUSE app"), DEADLINE_S)
        held = asyncio.create_task(statement.fetchval())
        await eventually(lambda: waiting_clients(on), "the client waits")
        await on.daemon.command("RESUME app")
        assert await asyncio.wait_for(held, DEADLINE_S) == 5


async def waiting_clients(on: Stage) -> int:
    rows = await on.daemon.command("SHOW CLIENTS")
    return sum(1 for row in rows if row["state"] == "waiting")


async def test_a_failed_batch_without_sync_is_the_clients_to_end(pair: Pair, tmp_path: Path) -> None:
    """The server skips what comes until the client's own Sync; one of ours would wake it too early. Such a session
    is named as a straggler, and what it sends then is still skipped."""
    async with stage(pair, tmp_path, schema=SCHEMA, cutover_transaction_timeout=300) as on:
        raw = await Raw.open(on)
        raw.send(messages.parse("p", "SELECT nonsense FROM nowhere") + messages.FLUSH)
        assert (await raw.until(b"E"))[-1][0] == b"E"
        with pytest.raises(asyncpg.PostgresError) as raised:
            await on.daemon.command("CUTOVER")
        assert "between Parse and Sync" in told(raised.value)
        insert = messages.parse("", "INSERT INTO ran VALUES (1)") + messages.bind("", "") + messages.execute("")
        raw.send(insert + messages.SYNC)
        assert [kind for kind, _ in await raw.until(b"Z")] == [b"Z"]
        assert await pair.source_sql("SELECT * FROM ran") == []
        assert (await on.cutover())["sessions closed"] == "0"
