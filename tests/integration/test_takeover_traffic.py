"""What is in flight when the gate drains: pipelines, COPY, large results, half messages, clients that leave."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from proxy.wire import messages
from tests.support.databases import Pair
from tests.support.runs import Stop, figures, refused, told
from tests.support.takeover import DEADLINE_S, Raw, Stage, stage
from tests.support.wait import eventually


async def draining(on: Stage) -> bool:
    rows = await on.daemon.command("SHOW CUTOVER")
    return any(row["step"] == "hold" for row in rows)


async def begin(on: Stage, verb: str) -> asyncio.Task[list[dict[str, Any]]]:
    """A run that waits for somebody."""
    run = asyncio.create_task(on.daemon.command(verb))
    await eventually(lambda: draining(on), f"{verb} drains")
    return run


# -- clients that leave while they are held ----------------------------------------------------------------------------


async def test_a_client_that_leaves_while_it_is_held(pair: Pair, tmp_path: Path) -> None:
    """Its request is dropped, not run later; whether it is small, or larger than what is read of a held client."""
    stop = Stop(tmp_path, "commit")
    async with stage(pair, tmp_path, failpoint=stop.failpoint, cutover_max_pause=20000) as on:
        requests = {
            "small": messages.query("INSERT INTO note VALUES (1, 'small')"),
            "extended": messages.parse("", "INSERT INTO note VALUES (2, 'extended')")
            + messages.bind("", "")
            + messages.execute("")
            + messages.SYNC,
            # Complete within what is read, with more behind it, so that nobody reads on and sees the end.
            "large": messages.query("INSERT INTO note VALUES (3, 'large')") + messages.query(" " * 400_000),
        }
        leaving = {name: await Raw.open(on) for name in requests}
        staying = await Raw.open(on)
        run = await on.until(stop, "CUTOVER")
        for name, client in leaving.items():
            client.send(requests[name])
        staying.send(messages.query("INSERT INTO note VALUES (4, 'stays')"))
        await eventually(lambda: on.waiting(4), "all are held")
        for client in leaving.values():
            await client.writer.drain()
            client.writer.close()
            await client.writer.wait_closed()
        await eventually(lambda: only_one_or_two_wait(on), "the small ones are known to be gone")
        stop.open()
        assert figures(await run)["sessions closed"] == "0"
        await staying.until(b"Z")
        rows = await pair.destination_sql("SELECT text FROM note ORDER BY id")
        assert [row["text"] for row in rows] == ["stays"]


async def only_one_or_two_wait(on: Stage) -> bool:
    """The one that stays, and the large one, whose socket is not read."""
    return not await on.waiting(3)


async def test_a_held_client_that_sends_much(pair: Pair, tmp_path: Path) -> None:
    """It is read up to a bound only, and loses nothing."""
    stop = Stop(tmp_path, "commit")
    async with stage(pair, tmp_path, failpoint=stop.failpoint, cutover_max_pause=20000) as on:
        clients = [await on.asyncpg() for _ in range(4)]
        for number, client in enumerate(clients):
            await client.execute("INSERT INTO note VALUES ($1, $2)", number, "first")
        assert on.daemon.process is not None
        run = await on.until(stop, "CUTOVER")
        before = resident_bytes(on.daemon.process.pid)
        text = "é" * (4 << 20)
        held = [
            asyncio.create_task(client.execute("INSERT INTO note VALUES ($1, $2)", 10 + number, text))
            for number, client in enumerate(clients)
        ]
        await eventually(lambda: on.waiting(4), "all are held")
        await asyncio.sleep(0.2)  # what could be read by now has been
        assert resident_bytes(on.daemon.process.pid) - before < 8 << 20
        stop.open()
        assert figures(await run)["sessions closed"] == "0"
        await asyncio.wait_for(asyncio.gather(*held), DEADLINE_S)
        rows = await pair.destination_sql("SELECT text FROM note WHERE id >= 10")
        assert [row["text"] == text for row in rows] == [True] * 4


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# -- half messages -----------------------------------------------------------------------------------------------------


async def test_half_a_message(pair: Pair, tmp_path: Path) -> None:
    """Sent while the gate is shut it waits with its client. Sent before, it holds up the run, which says so."""
    stop = Stop(tmp_path, "commit")
    request = messages.query("INSERT INTO note VALUES (1, 'halves')")
    async with stage(
        pair, tmp_path, failpoint=stop.failpoint, cutover_max_pause=20000, cutover_transaction_timeout=300
    ) as on:
        for cut in (3, 20):
            early = await Raw.open(on)
            early.send(request[:cut])
            await eventually(lambda c=early: busy(on), "the first half is under way")
            error = await refused(on.daemon, "CUTOVER")
            assert "in the middle of a message" in told(error)
            early.send(request[cut:])
            assert [kind for kind, _ in await early.until(b"Z")] == [b"C", b"Z"]
            early.send(messages.query("DELETE FROM note"))
            await early.until(b"Z")
        late = await Raw.open(on)
        run = await on.until(stop, "CUTOVER")
        late.send(request[:20])
        await eventually(lambda: on.waiting(), "the first half is held")
        stop.open()
        assert figures(await run)["sessions closed"] == "0"
        late.send(request[20:])
        assert [kind for kind, _ in await late.until(b"Z")][-2:] == [b"C", b"Z"]
        assert len(await pair.destination_sql("SELECT * FROM note")) == 1


async def busy(on: Stage) -> bool:
    return any(row["state"] == "active" for row in await on.daemon.command("SHOW CLIENTS") if row["database"] == "app")


# -- pipelines ---------------------------------------------------------------------------------------------------------


async def test_pipelines_stop_between_two_requests(pair: Pair, tmp_path: Path) -> None:
    """Many requests sent in one go are taken apart at the gate: each runs once, on one side or the other."""
    async with stage(pair, tmp_path) as on:
        stop = asyncio.Event()
        written: dict[int, int] = {}

        async def write(number: int) -> None:
            client = await on.psycopg()
            count = 0
            while not stop.is_set():
                async with client.pipeline() as pipeline:
                    for _ in range(50):
                        value = number * 1_000_000 + count
                        await client.execute("INSERT INTO note VALUES (%s, 'x')", [value])
                        await pipeline.sync()
                        count += 1
                written[number] = count

        writers = [asyncio.create_task(write(number)) for number in (1, 2, 3)]
        for move in (on.cutover, on.revert):
            seen = dict(written)
            await eventually(lambda s=seen: all(written.get(n, 0) > s.get(n, 0) for n in (1, 2, 3)), "pipelines run")
            assert (await move())["sessions closed"] == "0"
        stop.set()
        await asyncio.wait_for(asyncio.gather(*writers), DEADLINE_S)
        rows = await pair.source_sql("SELECT id FROM note ORDER BY id")
        expected = [number * 1_000_000 + n for number in sorted(written) for n in range(written[number])]
        assert [row["id"] for row in rows] == expected


async def test_one_long_pipeline_is_cut_at_the_gate(pair: Pair, tmp_path: Path) -> None:
    """The rest of a pipeline that is sent in one piece while it is held runs after the swap, in order."""
    stop = Stop(tmp_path, "commit")
    async with stage(pair, tmp_path, failpoint=stop.failpoint, cutover_max_pause=20000) as on:
        client = await Raw.open(on)
        client.send(messages.query("SELECT pg_backend_pid()"))
        await client.until(b"Z")
        run = await on.until(stop, "CUTOVER")
        count = 300
        pipeline = b"".join(
            messages.parse("", f"INSERT INTO note VALUES ({n}, 'x')")
            + messages.bind("", "")
            + messages.execute("")
            + messages.SYNC
            for n in range(count)
        )
        client.send(pipeline + messages.query("SELECT count(*) FROM note"))
        await eventually(lambda: on.waiting(), "it is held")
        stop.open()
        await run
        for _ in range(count):
            assert b"E" not in [kind for kind, _ in await client.until(b"Z")]
        (row,) = [body for kind, body in await client.until(b"Z") if kind == b"D"]
        assert row.endswith(b"300")


# -- COPY and large results --------------------------------------------------------------------------------------------

MANY = 20_000


def lines(low: int, high: int) -> str:
    return "".join(f"{number}\tcopied\n" for number in range(low, high))


async def test_copy_in_and_out_are_waited_for(pair: Pair, tmp_path: Path) -> None:
    async with stage(pair, tmp_path, cutover_transaction_timeout=8000, cutover_max_pause=20000) as on:
        into, out = await on.psycopg(), await on.psycopg()
        bystander = await on.asyncpg()
        for verb, low in (("CUTOVER", 0), ("REVERT", MANY)):
            half = low + MANY // 2
            async with into.cursor().copy("COPY note FROM STDIN") as copy:
                await copy.write(lines(low, half))
                run = await begin(on, verb)
                held = asyncio.create_task(bystander.fetchval("SELECT count(*) FROM note"))
                for number in range(half, low + MANY, 1000):
                    await copy.write(lines(number, number + 1000))
                assert not run.done()
            assert figures(await run)["sessions closed"] == "0"
            assert await asyncio.wait_for(held, DEADLINE_S) in (low, low + MANY)
        async with out.cursor().copy(
            "COPY (SELECT i, repeat('x', 500) FROM generate_series(1, 60000) i) TO STDOUT"
        ) as copy:
            received = len(await copy.read())
            run = await begin(on, "CUTOVER")
            while data := await copy.read():
                received += len(data)
        assert received > 60000 * 500
        assert figures(await run)["sessions closed"] == "0"
        assert await (await out.execute("SELECT count(*) FROM note")).fetchone() == (2 * MANY,)


LARGE_ROWS = 50_000


async def test_a_large_result_that_is_read_slowly(pair: Pair, tmp_path: Path) -> None:
    """50 MB. The run waits as long as it may, then gives way; the client gets every byte and never knows."""
    async with stage(pair, tmp_path, cutover_transaction_timeout=500) as on:
        slow = await Raw.open(on, buffer_bytes=2**14)
        bystander = await on.asyncpg()
        slow.send(messages.query(f"SELECT i, repeat('x', 1000) FROM generate_series(1, {LARGE_ROWS}) i"))
        found = await slow.until(b"D", at_least=50)
        error = await refused(on.daemon, "CUTOVER")
        assert "in a request" in told(error)
        assert await bystander.fetchval("SELECT 1") == 1
        found += await slow.until(b"Z")
        assert sum(1 for kind, _ in found if kind == b"D") == LARGE_ROWS
        assert not [body for kind, body in found if kind == b"E"]
        assert [kind for kind, _ in found[-2:]] == [b"C", b"Z"]
        assert (await on.cutover())["sessions closed"] == "0"
        slow.send(messages.query("SELECT 5"))
        assert (await slow.until(b"Z"))[-1][1] == b"I"


async def test_a_result_the_client_has_not_taken_yet_moves_with_it(pair: Pair, tmp_path: Path) -> None:
    """The server has answered everything, but the client has read nothing: whatever its size, the session can be
    asked and moved, and the bytes reach the client in order."""
    async with stage(pair, tmp_path, cutover_transaction_timeout=1500, cutover_max_pause=20000) as on:
        clients = []
        for size in range(100_000, 700_000, 100_000):
            client = await Raw.open(on, buffer_bytes=2**12)
            client.send(messages.query("SET work_mem = '9MB'"))
            await client.until(b"Z")
            client.send(messages.query(f"SELECT repeat('x', {size})"))
            clients.append((client, size))
        for move in (on.cutover, on.revert):
            assert (await move())["sessions closed"] == "0"
        for client, size in clients:
            found = await client.until(b"Z")
            assert [len(body) for kind, body in found if kind == b"D"] == [size + 6]
            client.send(messages.query("SHOW work_mem"))
            assert b"9MB" in b"".join(body for _, body in await client.until(b"Z"))
