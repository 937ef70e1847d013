"""The admin console on a real socket, behind the real log-in, driven by psql, psycopg and asyncpg."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import asyncpg
import psycopg
import pytest
from psycopg.pq import TransactionStatus

from admin.console import serve_console
from config.model import AuthType
from cutover.api import MoveError, RunKind
from proxy.net.client_login import CancelTarget, ClientCredential, LoginSettings, accept_client
from proxy.net.listener import Listener
from proxy.net.port import HandshakePort
from tests.support.console import STARTED_AT, FakeDaemon, example_report
from tests.support.wait import eventually

PSQL = "/usr/bin/psql"
PASSWORD = "secret"
DEADLINE_S = 15
T = TypeVar("T")

pytestmark = pytest.mark.skipif(not os.path.exists(PSQL), reason="psql is not installed")


@dataclass
class Server:
    """The console of a fake daemon on a free port. `sessions` is how many admin sessions are open."""

    daemon: FakeDaemon = field(default_factory=FakeDaemon)
    sessions: int = 0

    async def start(self) -> None:
        lookup = {("admin", "admin"): ClientCredential(PASSWORD, AuthType.SCRAM)}
        self._settings = LoginSettings(lambda database, user: lookup.get((database, user)))
        self.listener = Listener("127.0.0.1", 0, None, self._serve)
        await self.listener.start()

    async def _serve(self, port: HandshakePort) -> None:
        login = await accept_client(port, self._settings)
        if isinstance(login, CancelTarget):
            self.daemon.services.cancels.cancel(login.pid, login.key)
            return
        self.sessions += 1
        try:
            await serve_console(port, login, self.daemon.services)
        finally:
            self.sessions -= 1

    async def stop(self) -> None:
        self.listener.close()
        self.listener.cancel()
        await self.listener.wait_closed()
        await self.daemon.services.background.stop()

    @property
    def address(self) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.listener.bound_port, "user": "admin", "password": PASSWORD}

    @property
    def conninfo(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.address.items()) + " dbname=admin"

    async def psql(self, *arguments: str, script: str | None = None) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        process = await self.start_psql(*arguments)
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate(script.encode() if script is not None else None)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def start_psql(self, *arguments: str) -> Process:
        return await asyncio.create_subprocess_exec(
            PSQL,
            "-X",
            self.conninfo,
            *arguments,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=psql_environment(),
        )

    async def connect_asyncpg(self, **changes: Any) -> asyncpg.Connection:
        return await asyncpg.connect(**self.address, database="admin", ssl=False, timeout=DEADLINE_S, **changes)

    async def connect_psycopg(self, **changes: Any) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self.conninfo, connect_timeout=DEADLINE_S, **changes)

    async def in_thread(self, work: Callable[[psycopg.Connection[Any]], T], **changes: Any) -> T:
        """Run synchronous psycopg code on a connection of its own."""

        def run() -> T:
            with psycopg.connect(self.conninfo, connect_timeout=DEADLINE_S, **changes) as connection:
                return work(connection)

        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.to_thread(run)


def psql_environment() -> dict[str, str]:
    """Nothing of whoever runs the tests, and English."""
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "HOME": "/nonexistent",
        "PAGER": "cat",
    }


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("console")]
        assert not left


async def lines_until(stream: asyncio.StreamReader | None, text: str) -> list[str]:
    assert stream is not None
    lines: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        while not lines or text not in lines[-1]:
            line = await stream.readline()
            assert line, f"the stream ended before {text!r}: {lines}"
            lines.append(line.decode().rstrip("\n"))
    return lines


# -- psql ----------------------------------------------------------------------------------------------------


async def test_psql_prints_tables(server: Server) -> None:
    status, out, err = await server.psql("-c", "SHOW CUTOVER_HISTORY", "-c", 'cutover "My App";')
    assert (status, err) == (0, "NOTICE:  hold: 64 clients\nNOTICE:  commit: epoch 7\n")
    assert "(0 rows)" in out
    assert [word.strip() for word in out.splitlines()[0].split("|")][:4] == [
        "id",
        "kind",
        "source",
        "destination",
    ]
    assert " pause                   | total  |            |       19.25 | 19.2 ms" in out
    assert server.daemon.moves.calls == [("history", None), ("cutover", "My App")]


async def test_psql_runs_a_script_to_its_end_in_spite_of_errors(server: Server) -> None:
    script = """
        SHOW VERSION; -- a comment
        SHOW POOL;
        PAUSE "my app";
        /* nothing */ ;
        PAUSE "My App"; RESUME 'My App';
        SELECT 1 AS one;
        \\echo done
    """
    status, out, err = await server.psql("-At", script=script)
    assert status == 0
    assert out.splitlines() == ["pgcutover 0.1.0", "PAUSE", "RESUME", "1", "done"]
    assert [line for line in err.splitlines() if not line.startswith("LINE")] == [
        'ERROR:  invalid command "SHOW POOL"; SHOW HELP lists what there is',
        'HINT:  Did you mean "SHOW POOLS"?',
        "ERROR:  no such database: my app",
        "HINT:  SHOW DATABASES lists them; names keep their case.",
    ]


async def test_psql_sends_several_statements_in_one_query(server: Server) -> None:
    status, out, err = await server.psql("-At", "-c", "SHOW VERSION; SHOW STATE; RESET ALL; SELECT 1")
    assert (status, err) == (0, "")
    assert out.splitlines() == ["pgcutover 0.1.0", "active|yes", "paused|no", "suspended|no", "RESET", "1"]
    status, out, err = await server.psql("-At", "-c", "PAUSE app; FROBNICATE")
    assert status == 1
    assert server.daemon.proxy.calls == []


async def test_psql_reads_every_table(server: Server) -> None:
    status, out, err = await server.psql("-At", "-c", "SHOW HELP")
    commands = [line.split("|")[0] for line in out.splitlines()]
    shows = [f"{words[0]} {words[1]};" for command in commands if (words := command.split())[0] == "SHOW"]
    assert len(shows) > 15
    status, out, err = await server.psql("-v", "ON_ERROR_STOP=1", script="".join(shows))
    assert (status, err) == (0, "")
    assert out.count("rows)") + out.count("row)") == len(shows)


async def test_psql_shows_errors_of_a_move_with_detail_and_hint(server: Server) -> None:
    server.daemon.moves.error = MoveError(
        "the run ended at step drain", sqlstate="55006", detail="Waited for pid 12.", hint="End it."
    )
    status, _, err = await server.psql("-v", "VERBOSITY=verbose", "-c", "CUTOVER")
    assert status == 1
    assert err == "ERROR:  55006: the run ended at step drain\nDETAIL:  Waited for pid 12.\nHINT:  End it.\n"


async def test_psql_shows_progress_while_the_run_is_under_way(server: Server) -> None:
    moves = server.daemon.moves
    moves.gated = True
    process = await server.start_psql("-c", "CUTOVER app")
    assert await lines_until(process.stderr, "hold") == ["NOTICE:  hold: 64 clients"]
    assert moves.finished == []
    moves.proceed.set()
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    assert err == b"NOTICE:  commit: epoch 7\n"
    assert b"(10 rows)" in out
    assert process.returncode == 0


async def test_interrupting_psql_undoes_a_pause(server: Server) -> None:
    server.daemon.proxy.quiet = False
    process = await server.start_psql("-c", "PAUSE")
    await eventually(lambda: server.daemon.proxy.waiting, "the pause to wait")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(DEADLINE_S):
        _, err = await process.communicate()
    assert b"ERROR:  canceling statement due to user request" in err
    assert not any(view.paused for view in server.daemon.proxy.views.values())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_a_cutover_survives_its_psql(server: Server, how: signal.Signals) -> None:
    moves = server.daemon.moves
    moves.gated = True
    process = await server.start_psql("-c", "CUTOVER")
    await lines_until(process.stderr, "hold")
    process.send_signal(how)
    async with asyncio.timeout(DEADLINE_S):
        _, err = await process.communicate()
    if how is signal.SIGINT:
        assert b"DETAIL:  CUTOVER itself goes on" in err
    await eventually(lambda: server.sessions == 0, "the session to end")
    assert server.daemon.services.background.running == ["CUTOVER"]
    moves.proceed.set()
    assert await server.daemon.services.background.finish(DEADLINE_S)
    assert moves.finished == ["cutover"]


async def test_killing_psql_undoes_a_pause(server: Server) -> None:
    server.daemon.proxy.quiet = False
    process = await server.start_psql("-c", "PAUSE app")
    await eventually(lambda: server.daemon.proxy.waiting, "the pause to wait")
    process.kill()
    await process.wait()
    await eventually(lambda: not server.daemon.proxy.views["app"].paused, "the pause to be undone")
    await eventually(lambda: server.sessions == 0, "the session to end")


async def test_a_terminal_session_has_no_warnings_and_the_right_prompt(server: Server) -> None:
    def talk() -> str:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(PSQL, [PSQL, "-X", "--no-readline", server.conninfo], psql_environment())
        said = b""
        for prompt, answer in (
            (b"admin=# ", b"BEGIN;\n"),
            (b"admin=*# ", b"COMMIT;\n"),
            (b"admin=# ", b"\\q\n"),
        ):
            while not said.endswith(prompt):
                said += os.read(terminal, 1000)
            os.write(terminal, answer)
        while True:
            try:
                said += os.read(terminal, 1000)
            except OSError:  # the other side of the terminal is closed
                break
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] == 0
        return said.decode()

    async with asyncio.timeout(DEADLINE_S):
        said = await asyncio.to_thread(talk)
    assert "server 12.0 (pgcutover 0.1.0)" in said
    assert "WARNING" not in said


async def test_a_wrong_password_stays_outside(server: Server) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(**{**server.address, "password": "wrong"}, database="admin", ssl=False)


# -- psycopg -------------------------------------------------------------------------------------------------


def status_of(connection: psycopg.Connection[Any]) -> TransactionStatus:
    return connection.info.transaction_status


async def test_psycopg_without_autocommit(server: Server) -> None:
    def work(connection: psycopg.Connection[Any]) -> None:
        assert connection.info.server_version == 120000
        row = connection.execute("SHOW DATABASES").fetchone()
        assert row is not None
        assert row[:4] == ("app", "10.0.0.5", 5432, "app")
        assert status_of(connection) == TransactionStatus.INTRANS
        connection.commit()
        assert status_of(connection) == TransactionStatus.IDLE
        with pytest.raises(psycopg.errors.SyntaxError) as caught:
            connection.execute("SHOW POOL")
        assert caught.value.diag.message_hint == 'Did you mean "SHOW POOLS"?'
        assert connection.execute("SHOW VERSION").fetchall() == [("pgcutover 0.1.0",)]
        connection.rollback()
        with connection.transaction(), connection.transaction():
            connection.execute("SHOW STATE")

    await server.in_thread(work)


async def test_psycopg_sync_reads_types_in_both_formats(server: Server) -> None:
    server.daemon.moves.past = [example_report(), example_report(RunKind.REVERT, None)]

    def work(connection: psycopg.Connection[Any]) -> list[Any]:
        found = []
        for binary in (False, True):
            for prepare in (False, True):
                with connection.cursor(binary=binary) as cursor:
                    history = cursor.execute("SHOW CUTOVER_HISTORY", prepare=prepare).fetchall()
                    stats = cursor.execute("SHOW STATS_TOTALS", prepare=prepare).fetchall()
                    replication = cursor.execute("SHOW REPLICATION", prepare=prepare).fetchall()
                    found.append((history, stats, replication))
        return found

    found = await server.in_thread(work, autocommit=True)
    assert all(one == found[0] for one in found)
    (first, second), (stats,), (replication,) = found[0]
    assert first[6] == STARTED_AT
    assert first[6].utcoffset() == timedelta(0)
    assert (first[5], first[7], first[9]) == (7, 812.346, 64)
    assert second[4] is None
    assert stats[2:4] == (Decimal(10), Decimal(20))
    assert replication[5] is True
    assert replication[9:] == (5_000_000_000, 1.235, None)


async def test_psycopg_parameters_on_either_side(server: Server) -> None:
    def work(connection: psycopg.Connection[Any]) -> None:
        connection.execute("PAUSE %s", ("My App",))
        with psycopg.ClientCursor(connection) as cursor:
            cursor.execute("RESUME %s", ("My App",))
        for value in (250, 70_000, "1"):
            for binary in (False, True):
                connection.execute("SET query_timeout = %s", (value,), binary=binary)
                assert connection.execute("SHOW query_timeout").fetchone() == (str(value),)
        with pytest.raises(psycopg.errors.NullValueNotAllowed):
            connection.execute("PAUSE %s", (None,))

    await server.in_thread(work, autocommit=True)
    assert server.daemon.proxy.calls == [("pause", "My App"), ("resume", "My App")]
    assert server.daemon.config.general.query_timeout == 1


async def test_psycopg_several_results_of_one_query(server: Server) -> None:
    def work(connection: psycopg.Connection[Any]) -> None:
        cursor = connection.execute("SHOW VERSION; SHOW STATE; RESET ALL")
        assert cursor.fetchall() == [("pgcutover 0.1.0",)]
        assert cursor.nextset()
        assert [key for key, _ in cursor] == ["active", "paused", "suspended"]
        assert cursor.nextset()
        assert cursor.statusmessage == "RESET"
        assert not cursor.nextset()
        assert connection.execute("").statusmessage is None

    await server.in_thread(work, autocommit=True)


async def test_psycopg_prepares_and_forgets(server: Server) -> None:
    def work(connection: psycopg.Connection[Any]) -> None:
        connection.prepare_threshold = 0
        connection.prepared_max = 2
        for _ in range(3):
            for what in ("VERSION", "STATE", "LISTS", "CONFIG"):
                assert connection.execute(f"SHOW {what}").fetchall()
        connection.execute("DISCARD ALL")

    await server.in_thread(work, autocommit=True)


async def test_psycopg_pipeline(server: Server) -> None:
    def fail(connection: psycopg.Connection[Any]) -> None:
        with connection.pipeline():
            connection.execute("SHOW POOL")
            connection.execute("PAUSE app")

    def work(connection: psycopg.Connection[Any]) -> None:
        with connection.pipeline():
            first = connection.execute("SHOW VERSION")
            second = connection.execute("SHOW STATE")
        assert first.fetchone() == ("pgcutover 0.1.0",)
        assert len(second.fetchall()) == 3
        with pytest.raises(psycopg.errors.SyntaxError):
            fail(connection)
        assert connection.execute("SELECT 1").fetchone() == (1,)

    await server.in_thread(work, autocommit=True)
    assert server.daemon.proxy.calls == []


async def test_psycopg_streams_rows(server: Server) -> None:
    def work(connection: psycopg.Connection[Any]) -> int:
        with connection.cursor() as cursor:
            return sum(1 for _ in cursor.stream("SHOW LISTS"))

    assert await server.in_thread(work, autocommit=True) == 14


async def test_psycopg_async_hears_notices_while_the_run_is_under_way(server: Server) -> None:
    moves = server.daemon.moves
    moves.gated = True
    heard: list[str | None] = []
    async with await server.connect_psycopg(autocommit=True) as connection:
        connection.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        run = asyncio.create_task(connection.execute("CUTOVER app", prepare=True))
        await eventually(lambda: heard, "the first notice")
        assert heard == ["hold: 64 clients"]
        assert not run.done()
        moves.proceed.set()
        rows = await (await run).fetchall()
        assert heard == ["hold: 64 clients", "commit: epoch 7"]
        assert rows[2][:4] == ("pause", "total", None, 19.25)


async def test_psycopg_async_cancels(server: Server) -> None:
    server.daemon.proxy.quiet = False
    async with await server.connect_psycopg(autocommit=True) as connection:
        pause = asyncio.create_task(connection.execute("PAUSE"))
        await eventually(lambda: server.daemon.proxy.waiting, "the pause to wait")
        await connection.cancel_safe(timeout=DEADLINE_S)
        with pytest.raises(psycopg.errors.QueryCanceled):
            await pause
        assert not server.daemon.proxy.views["app"].paused
        cursor = await connection.execute("SELECT version()")
        assert await cursor.fetchone() == ("PostgreSQL 12.0 (pgcutover 0.1.0 admin console)",)


async def test_rollback_warns_of_what_it_does_not_undo(server: Server) -> None:
    heard: list[tuple[str | None, str | None]] = []
    async with await server.connect_psycopg() as connection:
        connection.add_notice_handler(lambda d: heard.append((d.severity, d.message_primary)))
        await connection.execute("PAUSE app")
        await connection.rollback()
        assert heard == [("WARNING", "not undone, commands take effect when they run: PAUSE")]


# -- asyncpg -------------------------------------------------------------------------------------------------


async def test_asyncpg_reads_every_type(server: Server) -> None:
    server.daemon.moves.past = [example_report()]
    connection = await server.connect_asyncpg(
        server_settings={"extra_float_digits": "2", "application_name": "monitor"}
    )
    try:
        assert connection.get_server_version().major == 12
        assert connection.get_settings().application_name == "monitor"
        (run,) = await connection.fetch("SHOW CUTOVER_HISTORY")
        assert (run["started_at"], run["epoch"], run["pause_ms"]) == (STARTED_AT, 7, 19.25)
        (stats,) = await connection.fetch("SHOW STATS")
        assert (stats["total_xact_count"], stats["total_bind_count"]) == (Decimal(10), None)
        (stream,) = await connection.fetch("SHOW REPLICATION")
        assert (stream["enabled"], stream["lag_bytes"], stream["lag_ms"]) == (True, 5_000_000_000, 1.235)
        assert await connection.fetchval("SHOW VERSION") == "pgcutover 0.1.0"
        assert await connection.fetchval("SHOW server_version") == "12.0 (pgcutover 0.1.0)"
        assert await connection.fetchrow("SELECT 1 AS one, 'x'") == (1, "x")
        assert await connection.fetchval("SELECT pg_postmaster_start_time()") == STARTED_AT
    finally:
        await connection.close(timeout=DEADLINE_S)


async def test_asyncpg_executes_scripts_and_parameters(server: Server) -> None:
    connection = await server.connect_asyncpg()
    try:
        assert await connection.execute("PAUSE app; RESUME app") == "RESUME"
        assert await connection.execute("PAUSE $1", "My App") == "PAUSE"
        assert await connection.execute('RESUME "My App"') == "RESUME"
        assert await connection.fetch("DISABLE app") == []
        await connection.execute("SET query_timeout = $1", "125")
        statement = await connection.prepare("SHOW query_timeout")
        assert [attribute.name for attribute in statement.get_attributes()] == ["query_timeout"]
        assert [await statement.fetchval() for _ in range(2)] == ["125", "125"]
        assert await connection.fetch("") == []
    finally:
        await connection.close(timeout=DEADLINE_S)
    assert server.daemon.proxy.calls == [
        ("pause", "app"),
        ("resume", "app"),
        ("pause", "My App"),
        ("resume", "My App"),
        ("enable", "app", False),
    ]


async def test_asyncpg_errors_carry_detail_and_hint_and_end_nothing(server: Server) -> None:
    connection = await server.connect_asyncpg()
    try:
        with pytest.raises(asyncpg.PostgresSyntaxError) as caught:
            await connection.fetch("SHOW POOL")
        assert caught.value.hint == 'Did you mean "SHOW POOLS"?'
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await connection.execute("PAUSE nobody")
        server.daemon.moves.error = MoveError("no", sqlstate="55006", detail="who", hint="what to do")
        with pytest.raises(asyncpg.ObjectInUseError) as refused:
            await connection.fetch("CUTOVER")
        assert (refused.value.detail, refused.value.hint) == ("who", "what to do")
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close(timeout=DEADLINE_S)


async def test_asyncpg_hears_notices_while_the_run_is_under_way(server: Server) -> None:
    moves = server.daemon.moves
    moves.gated = True
    heard: list[tuple[str, str]] = []
    connection = await server.connect_asyncpg()
    try:
        connection.add_log_listener(lambda _, message: heard.append((message.severity, message.message)))
        run = asyncio.create_task(connection.fetch("CUTOVER app"))
        await eventually(lambda: heard, "the first notice")
        assert heard == [("NOTICE", "hold: 64 clients")]
        assert not run.done()
        moves.proceed.set()
        rows = await run
        assert rows[0]["step"] == "hold"
        assert len(heard) == 2
    finally:
        await connection.close(timeout=DEADLINE_S)


async def test_asyncpg_transactions_and_cursors(server: Server) -> None:
    connection = await server.connect_asyncpg()
    try:
        async with connection.transaction(isolation="serializable", readonly=True):
            assert connection.is_in_transaction()
            async with connection.transaction():
                names = [row["list"] async for row in connection.cursor("SHOW LISTS", prefetch=3)]
            cursor = await connection.cursor("SHOW LISTS")
            assert len(await cursor.fetch(5)) == 5
            assert len(await cursor.fetch(100)) == 9
        assert not connection.is_in_transaction()
        assert len(names) == 14
    finally:
        await connection.close(timeout=DEADLINE_S)


async def test_asyncpg_pool_resets_its_connections(server: Server) -> None:
    async with asyncpg.create_pool(**server.address, database="admin", ssl=False, min_size=1, max_size=1) as pool:
        for _ in range(3):
            async with pool.acquire(timeout=DEADLINE_S) as connection:
                await connection.execute("SET application_name = 'changed'")
                assert await connection.fetchval("SHOW application_name") == "changed"
        assert await pool.fetchval("SHOW application_name") == ""


async def test_asyncpg_gives_up_after_its_time_out(server: Server) -> None:
    server.daemon.proxy.quiet = False
    connection = await server.connect_asyncpg()
    try:
        with pytest.raises(TimeoutError):
            await connection.execute("PAUSE app", timeout=0.05)
        await eventually(lambda: not server.daemon.proxy.views["app"].paused, "the pause to be undone")
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close(timeout=DEADLINE_S)


async def test_a_client_that_vanishes_leaves_nothing_behind(server: Server) -> None:
    server.daemon.proxy.quiet = False
    connection = await server.connect_asyncpg()
    pause = asyncio.create_task(connection.execute("PAUSE"))
    await eventually(lambda: server.daemon.proxy.waiting, "the pause to wait")
    connection.terminate()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await pause
    await eventually(lambda: server.sessions == 0, "the session to end")
    assert not any(view.paused for view in server.daemon.proxy.views.values())


async def test_the_end_of_the_daemon_is_told(server: Server) -> None:
    connection = await server.connect_asyncpg()
    server.listener.cancel()
    await eventually(connection.is_closed, "the client to learn of it")


async def test_many_sessions_at_once(server: Server) -> None:
    async def session(number: int) -> None:
        connection = await server.connect_asyncpg()
        try:
            for _ in range(10):
                assert await connection.fetchval(f"SELECT {number}") == number
                assert len(await connection.fetch("SHOW CLIENTS")) == 3
        finally:
            await connection.close(timeout=DEADLINE_S)

    await asyncio.gather(*(session(number) for number in range(10)))
    await eventually(lambda: server.sessions == 0, "the sessions to end")


# -- what monitors of PgBouncer send -------------------------------------------------------------------------


async def test_the_queries_of_pgbouncer_exporter(server: Server) -> None:
    """Simple queries over one connection; figures must read as numbers, unknown ones as NULL."""
    async with await server.connect_psycopg(autocommit=True) as connection:
        for what in ("STATS", "VERSION", "LISTS", "CONFIG", "CLIENTS", "DATABASES", "STATS_TOTALS", "POOLS"):
            cursor = await connection.execute(f"SHOW {what};")
            assert cursor.description is not None
            assert await cursor.fetchall()
        lists = dict(await (await connection.execute("SHOW LISTS;")).fetchall())
        assert lists["used_clients"] == 2
        config = {row[0]: row[1] for row in await (await connection.execute("SHOW CONFIG;")).fetchall()}
        assert int(config["max_client_conn"]) == 1000
