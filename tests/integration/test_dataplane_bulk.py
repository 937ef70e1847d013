"""Much data, big values, long pipelines; and a daemon that stays small whoever does not read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

import psycopg
import pytest

from daemon.demo.embedded import EmbeddedPostgres
from proxy.wire import messages
from tests.support.databases import run_sql
from tests.support.plain_proxy import PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import DEADLINE_S, Wire

MIB = 1024 * 1024
ROW_BYTES = 1000
ROWS = 200_000  # 200 MB
SLACK_BYTES = 24 * MIB
"""What the daemon may grow by: buffers of one chunk per direction, and what an allocator keeps."""
BULK_DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def proxy(pg18: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    daemon = PlainProxy({"app": leads_to(pg18)}, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


class Growth:
    """`with Growth(proxy):` fails where the daemon's memory grew by more than SLACK_BYTES at any moment."""

    def __init__(self, proxy: PlainProxy) -> None:
        self.proxy = proxy

    def __enter__(self) -> Growth:
        self.proxy.forget_peak()
        self.before = self.proxy.resident_bytes()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.check()

    def check(self) -> None:
        grown = self.proxy.peak_bytes() - self.before
        assert grown < SLACK_BYTES, f"the daemon grew by {grown / MIB:.1f} MiB"


def row(number: int) -> bytes:
    letter = chr(97 + number % 26)
    return f"{number}\t".encode().ljust(ROW_BYTES - 1, letter.encode()) + b"\n"


ROW_SQL = f"rpad(g || E'\\t', {ROW_BYTES - 1}, chr(97 + g % 26))"


async def test_copy_out(proxy: PlainProxy) -> None:
    expected = hashlib.md5()
    for number in range(ROWS):
        expected.update(row(number))
    received = hashlib.md5()
    columns = f"split_part({ROW_SQL}, E'\\t', 1), split_part({ROW_SQL}, E'\\t', 2)"
    with Growth(proxy):
        async with await psycopg.AsyncConnection.connect(_dsn(proxy)) as connection:
            async with asyncio.timeout(BULK_DEADLINE_S):
                cursor = connection.cursor()
                async with cursor.copy(
                    f"COPY (SELECT {columns} FROM generate_series(0, {ROWS - 1}) g) TO STDOUT"
                ) as copy:
                    async for block in copy:
                        received.update(block)
    assert received.digest() == expected.digest()


async def test_copy_in(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    await run_sql(pg18, "postgres", "CREATE UNLOGGED TABLE bulk (id int, t text)")
    try:
        with Growth(proxy):
            async with await psycopg.AsyncConnection.connect(_dsn(proxy)) as connection:
                async with asyncio.timeout(BULK_DEADLINE_S):
                    async with connection.cursor().copy("COPY bulk FROM STDIN") as copy:
                        for start in range(0, ROWS, 500):
                            await copy.write(b"".join(map(row, range(start, start + 500))))
        (found,) = await run_sql(
            pg18,
            "postgres",
            "SELECT count(*), count(DISTINCT id) AS ids, min(id), max(id),"
            " count(*) FILTER (WHERE id || E'\\t' || t = rpad(id || E'\\t', $1, chr(97 + id % 26))) AS intact"
            " FROM bulk",
            ROW_BYTES - 1,
        )
        assert tuple(found) == (ROWS, ROWS, 0, ROWS - 1, ROWS)
    finally:
        await run_sql(pg18, "postgres", "DROP TABLE bulk")


async def test_one_value_of_100_mb_each_way(proxy: PlainProxy) -> None:
    size = 100_000_000
    with Growth(proxy):
        async with await psycopg.AsyncConnection.connect(_dsn(proxy)) as connection:
            async with asyncio.timeout(BULK_DEADLINE_S):
                cursor = await connection.execute(
                    "SELECT convert_to(repeat('0123456789', %s), 'UTF8')", [size // 10], binary=True
                )
                (value,) = await cursor.fetchone() or (b"",)
                assert len(value) == size
                assert value[:10] == value[-10:] == b"0123456789"
                del value
                sent = b"\xfe" * size
                cursor = await connection.execute("SELECT length(%b), md5(%b)", [sent, b"x"])
                found = await cursor.fetchone()
                assert found == (size, hashlib.md5(b"x").hexdigest())


async def test_ten_thousand_queries_in_one_write(proxy: PlainProxy) -> None:
    count = 10_000
    async with await Wire.login("127.0.0.1", proxy.port, "app") as wire:
        wire.send(b"".join(messages.query(f"SELECT {number}") for number in range(count)))
        heard = await wire.until_ready(count, timeout_s=BULK_DEADLINE_S)
        values = [messages.decode_data_row(message.body)[0] for message in heard if message.kind == ord("D")]
        assert values == [str(number).encode() for number in range(count)]
        # The same as one pipeline of extended queries, an error in the middle of which only costs its own part.
        parts = [
            messages.parse("", f"SELECT {number} / ({number} - 5000)")
            + messages.bind("", "")
            + messages.execute("")
            + messages.SYNC
            for number in range(count)
        ]
        wire.send(b"".join(parts))
        heard = await wire.until_ready(count, timeout_s=BULK_DEADLINE_S)
        assert sum(message.kind == ord("E") for message in heard) == 1
        assert sum(message.kind == ord("D") for message in heard) == count - 1
        assert await wire.value("SELECT 'in step'") == "in step"


async def test_a_pipeline_of_ten_thousand_statements_of_psycopg(proxy: PlainProxy) -> None:
    async with await psycopg.AsyncConnection.connect(_dsn(proxy), autocommit=True) as connection:
        async with asyncio.timeout(BULK_DEADLINE_S), connection.pipeline():
            cursors = [await connection.execute("SELECT %s::int", [number]) for number in range(10_000)]
            values = [(await cursor.fetchone() or (None,))[0] for cursor in cursors]
    assert values == list(range(10_000))


# -- those who do not read ---------------------------------------------------------------------------------


async def test_a_client_that_does_not_read(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """The server stops sending; the daemon keeps no more than a buffer; and then it goes on where it stopped."""
    rows = 500_000
    with Growth(proxy) as growth:
        async with await Wire.login("127.0.0.1", proxy.port, "app", receive_buffer=64 * 1024) as wire:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            wire.send(messages.query(f"SELECT repeat('x', 1000) FROM generate_series(1, {rows})"))
            await eventually(lambda: _waits_for(pg18, wire.pid, "ClientWrite"), "the server to wait for its client")
            growth.check()
            assert [client["state"] for client in await proxy.clients()] == ["active"]
            wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
            passed = 0
            async with asyncio.timeout(DEADLINE_S):
                while passed < 50 * MIB:
                    passed += len(await wire.reader.read(MIB))
            wire.reset()
    await proxy.nobody_left()
    await eventually(lambda: _is_gone(pg18, wire.pid), "the backend to leave")


async def test_a_server_that_does_not_read(proxy: PlainProxy, pg18: EmbeddedPostgres) -> None:
    """A client that sends behind a query that hangs is made to wait; nothing is lost when it goes on."""
    size, count = 200_000, 500  # 100 MB
    lock = await psycopg.AsyncConnection.connect(pg18.dsn(), autocommit=True)
    try:
        await lock.execute("SELECT pg_advisory_lock(4711)")
        with Growth(proxy) as growth:
            async with await Wire.login("127.0.0.1", proxy.port, "app") as wire:
                wire.send(messages.query("SELECT pg_advisory_lock(4711)"))
                await eventually(lambda: _waits_for(pg18, wire.pid, "advisory"), "the server to wait")
                request = messages.query("SELECT 1 /*" + "x" * size + "*/")
                for _ in range(count):
                    wire.send(request)
                queued = wire.writer.transport.get_write_buffer_size
                await eventually(lambda: _stands_still(queued), "nothing to go on", poll_s=0)
                assert queued() > size * count // 2  # most of it stayed where it came from
                growth.check()
                await lock.execute("SELECT pg_advisory_unlock(4711)")
                heard = await wire.until_ready(count + 1, timeout_s=BULK_DEADLINE_S)
                assert sum(message.kind == ord("D") for message in heard) == count + 1
    finally:
        await lock.close()


async def _stands_still(size: object) -> bool:
    """Whether nothing moves for half a second."""
    assert callable(size)
    before = size()
    await asyncio.sleep(0.5)
    return bool(before == size())


async def _waits_for(server: EmbeddedPostgres, pid: int, event: str) -> bool:
    rows = await run_sql(server, "postgres", "SELECT wait_event FROM pg_stat_activity WHERE pid = $1", pid)
    return [row["wait_event"] for row in rows] == [event]


async def _is_gone(server: EmbeddedPostgres, pid: int) -> bool:
    return not await run_sql(server, "postgres", "SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid)


def _dsn(proxy: PlainProxy) -> str:
    return f"host=127.0.0.1 port={proxy.port} user=postgres dbname=app sslmode=disable"
