"""State that no other server can take over: the session ends with 57P01 or the run gives way, as configured."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from tests.support.databases import Pair
from tests.support.runs import Stop, figures, refused, told
from tests.support.takeover import DEADLINE_S, Stage, stage
from tests.support.wait import eventually

IMMOVABLE = {
    "CREATE TEMP TABLE t (a int)": "temporary objects: t",
    "CREATE TABLE pg_temp.ta AS SELECT 1": "temporary objects: ta",
    "SELECT 1 AS a INTO TEMP ti": "temporary objects: ti",
    "CREATE TEMP VIEW v AS SELECT 1": "temporary objects: v",
    "CREATE TEMP SEQUENCE s": "temporary objects: s",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'": "temporary objects: f",
    "CREATE TYPE pg_temp.e AS ENUM ('a')": "temporary objects: e",
    "CREATE TYPE pg_temp.c AS (a int)": "temporary objects: c",
    "CREATE DOMAIN pg_temp.d AS int": "temporary objects: d",
    "SET search_path = pg_temp; CREATE TABLE tp (a int)": "temporary objects: tp",
    "DECLARE wh CURSOR WITH HOLD FOR SELECT 1": "WITH HOLD cursors: wh",
    "DO $$ BEGIN EXECUTE 'CREATE TEMP TABLE td (a int)'; END $$": "temporary objects: td",
}
MOVABLE_AGAIN = (
    "CREATE TEMP TABLE x (a int); DROP TABLE x",
    "BEGIN; CREATE TEMP TABLE x (a int) ON COMMIT DROP; COMMIT",
    "BEGIN; CREATE TEMP TABLE x (a int); ROLLBACK",
    "DECLARE x CURSOR WITH HOLD FOR SELECT 1; CLOSE x",
    "BEGIN; DECLARE x CURSOR FOR SELECT 1; COMMIT",
    "CREATE TEMP TABLE x (a int); DISCARD ALL",
)


async def run_script(client: psycopg.AsyncConnection[object], script: str) -> None:
    """Statement by statement, or as one string where it holds quotes with semicolons."""
    for statement in [script] if "$$" in script else script.split("; "):
        await client.execute(statement.encode())


async def test_disconnect(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path) as on:
        bystander = await on.asyncpg()
        await bystander.execute("SET work_mem = '9MB'")
        ending = {}
        for script, reason in IMMOVABLE.items():
            client = await on.psycopg()
            await run_script(client, script)
            ending[client] = reason
        staying = [await on.psycopg() for _ in MOVABLE_AGAIN]
        for client, script in zip(staying, MOVABLE_AGAIN, strict=True):
            await run_script(client, script)
        assert (await on.cutover())["sessions closed"] == str(len(IMMOVABLE)), on.daemon.log()
        for client, reason in ending.items():
            with pytest.raises(psycopg.errors.AdminShutdown) as raised:
                await client.execute("SELECT 1")
            assert raised.value.sqlstate == "57P01"
            assert reason in str(raised.value.diag.message_detail)
        for client in staying:
            assert await (await client.execute("SELECT 1")).fetchone() == (1,)
        assert await bystander.fetchval("SHOW work_mem") == "9MB"
        history = await on.daemon.command("SHOW CUTOVER_HISTORY")
        assert history[-1]["sessions_closed"] == len(IMMOVABLE)


async def test_abort(pair: Pair, tmp_path: Path) -> None:
    """The run names them and nobody notices anything; without them it goes through."""
    async with stage(pair, tmp_path, cutover_session_policy="abort") as on:
        bystander = await on.asyncpg()
        temporary, cursor = await on.psycopg(), await on.psycopg()
        await temporary.execute("CREATE TEMP TABLE mine (a int)")
        await cursor.execute("DECLARE held CURSOR WITH HOLD FOR SELECT 7")
        error = await refused(on.daemon, "CUTOVER")
        assert "2 sessions cannot move" in told(error)
        assert "temporary objects: mine" in told(error)
        assert "WITH HOLD cursors: held" in told(error)
        await temporary.execute("INSERT INTO mine VALUES (1)")
        assert await (await cursor.execute("FETCH ALL held")).fetchall() == [(7,)]
        assert await bystander.fetchval("SHOW server_version_num") < "170000"
        await temporary.execute("DROP TABLE mine")
        await cursor.execute("CLOSE held")
        assert (await on.cutover())["sessions closed"] == "0"


async def test_abort_inside_the_pause(pair: Pair, tmp_path: Path) -> None:
    """What a session has made after it was asked counts as well."""
    stop = Stop(tmp_path, "hold")
    async with stage(pair, tmp_path, failpoint=stop.failpoint, cutover_session_policy="abort") as on:
        client = await on.psycopg()
        run = await on.until(stop, "CUTOVER")
        await client.execute("CREATE TEMP TABLE late (a int)")
        stop.open()
        with pytest.raises(Exception, match="1 sessions cannot move"):
            await run
        await client.execute("INSERT INTO late VALUES (1)")
        await client.execute("DROP TABLE late")
        assert (await on.cutover())["sessions closed"] == "0"


async def test_a_temporary_table_made_or_dropped_between_the_twin_and_the_pause(pair: Pair, tmp_path: Path) -> None:
    stop = Stop(tmp_path, "hold")
    async with stage(pair, tmp_path, failpoint=stop.failpoint) as on:
        making, dropping, by_function = await on.psycopg(), await on.psycopg(), await on.psycopg()
        await dropping.execute("CREATE TEMP TABLE t (a int)")
        await by_function.execute("SET search_path = pg_temp, public")
        run = await on.until(stop, "CUTOVER")
        await making.execute("CREATE TEMP TABLE t (a int)")
        await dropping.execute("DROP TABLE t")
        await by_function.execute("CREATE TABLE hidden AS SELECT 1")  # neither its text nor its tag says so
        stop.open()
        assert figures(await run)["sessions closed"] == "2"
        assert await (await dropping.execute("SELECT 1")).fetchone() == (1,)
        for client in (making, by_function):
            with pytest.raises(psycopg.errors.AdminShutdown):
                await client.execute("SELECT 1")


async def test_currval_is_forgotten(pair: Pair, tmp_path: Path) -> None:
    """The documented limit: nobody can tell another server what currval and lastval were."""
    async with stage(pair, tmp_path, schema="CREATE SEQUENCE public.ticket;") as on:
        client = await on.psycopg()
        await client.execute("SELECT nextval('ticket')")
        assert (await on.cutover())["sessions closed"] == "0"
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            await client.execute("SELECT currval('ticket')")
        assert await (await client.execute("SELECT nextval('ticket')")).fetchone() == (2,)
        assert await (await client.execute("SELECT currval('ticket')")).fetchone() == (2,)


class Replication:
    """A walsender connection through the proxy."""

    def __init__(self, connection: pq.PGconn) -> None:
        self.connection = connection

    @classmethod
    async def open(cls, on: Stage) -> Replication:
        dsn = f"host=127.0.0.1 port={on.daemon.port} dbname=app user=postgres replication=database".encode()
        connection = await asyncio.to_thread(pq.PGconn.connect, dsn)
        on.keep(connection.finish)
        assert connection.status == pq.ConnStatus.OK, connection.error_message
        return cls(connection)

    def command(self, sql: str) -> pq.ExecStatus:
        return pq.ExecStatus(self.connection.exec_(sql.encode()).status)

    async def ended(self) -> str:
        """The error that ended it."""
        told: list[str] = []

        def gone() -> bool:
            try:
                self.connection.consume_input()
                size = 1
                while size > 0:
                    size, _ = self.connection.get_copy_data(1)
                if size == -1 and (result := self.connection.get_result()) is not None:
                    told.append(result.error_message.decode())
            except psycopg.OperationalError as error:
                told.append(str(error))
            return bool(told)

        await eventually(gone, "the replication connection ends", timeout_s=DEADLINE_S)
        return told[0]


@pytest.mark.parametrize("policy", ["disconnect", "abort"])
async def test_replication_connections(pair: Pair, tmp_path: Path, policy: str) -> None:
    async with stage(pair, tmp_path, cutover_session_policy=policy) as on:
        bystander = await on.asyncpg()
        idle, streaming = await Replication.open(on), await Replication.open(on)
        assert idle.command("IDENTIFY_SYSTEM") is pq.ExecStatus.TUPLES_OK
        slot = "CREATE_REPLICATION_SLOT through_proxy TEMPORARY LOGICAL pgoutput"
        assert streaming.command(slot) is pq.ExecStatus.TUPLES_OK
        (publication,) = [row["pubname"] for row in await pair.source_sql("SELECT pubname FROM pg_publication")]
        start = f"""START_REPLICATION SLOT through_proxy LOGICAL 0/0
            (proto_version '1', publication_names '"{publication}"')"""
        assert streaming.command(start) is pq.ExecStatus.COPY_BOTH
        if policy == "disconnect":
            assert (await on.cutover())["sessions closed"] == "2"
            assert "Replication connections cannot move" in await streaming.ended()
            assert idle.command("IDENTIFY_SYSTEM") is pq.ExecStatus.FATAL_ERROR
            assert "Replication connections cannot move" in idle.connection.error_message.decode()
        else:
            error = await refused(on.daemon, "CUTOVER")
            assert "a replication connection" in told(error)
            assert idle.command("IDENTIFY_SYSTEM") is pq.ExecStatus.TUPLES_OK
            assert streaming.connection.status == pq.ConnStatus.OK
        assert await bystander.fetchval("SELECT 1") == 1
