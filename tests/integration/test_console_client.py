"""The console client against a real PostgreSQL, which speaks as the console does."""

from __future__ import annotations

import asyncio
import socket

import pytest

from daemon.console_client import Answer, ConnectionBroken, ConsoleFailure, Door, ask, is_gone
from daemon.demo.embedded import EmbeddedPostgres
from tests.support.cable import Cable
from tests.support.wait import eventually


def _door(server: EmbeddedPostgres, **changes: object) -> Door:
    values: dict[str, object] = {
        "host": server.host,
        "port": server.port,
        "user": server.superuser,
        "database": "postgres",
        "password": server.password,
    }
    return Door(**{**values, **changes})  # type: ignore[arg-type]


async def _ask(door: Door, command: str) -> Answer:
    return await ask(door, command, lambda _text: None)


async def test_values_as_json_knows_them(pg16: EmbeddedPostgres) -> None:
    answer = await _ask(
        _door(pg16),
        "SELECT 'x' AS text, 7::int8 AS whole, 1.50 AS point, 12::numeric AS round, 2.5::float8 AS float, "
        "'NaN'::float8 AS nan, true AS yes, NULL AS none, timestamptz '2026-01-02 03:04:05.5Z' AS moment",
    )
    assert answer.columns == ("text", "whole", "point", "round", "float", "nan", "yes", "none", "moment")
    assert answer.rows == [
        {
            "text": "x",
            "whole": 7,
            "point": 1.5,
            "round": 12,
            "float": 2.5,
            "nan": None,
            "yes": True,
            "none": None,
            "moment": "2026-01-02T03:04:05.500000+00:00",
        }
    ]


async def test_columns_are_known_without_rows(pg16: EmbeddedPostgres) -> None:
    assert await _ask(_door(pg16), "SELECT 1 AS one WHERE false") == Answer(("one",), [])
    assert await _ask(_door(pg16), "DISCARD ALL") == Answer((), [])


async def test_notices_arrive_while_the_command_runs(pg16: EmbeddedPostgres) -> None:
    heard: list[str] = []
    command = "DO $$ BEGIN RAISE NOTICE 'one'; PERFORM pg_sleep(60); END $$"
    asking = asyncio.create_task(ask(_door(pg16), command, heard.append))
    await eventually(lambda: heard == ["one"], "the first notice")
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_error_has_its_parts(pg16: EmbeddedPostgres) -> None:
    heard: list[str] = []
    with pytest.raises(ConsoleFailure) as caught:
        await ask(
            _door(pg16),
            "DO $$ BEGIN RAISE NOTICE 'before'; RAISE EXCEPTION 'no' USING "
            "ERRCODE = '55000', DETAIL = 'who', HINT = 'what'; END $$",
            heard.append,
        )
    failure = caught.value
    assert (failure.message, failure.sqlstate, failure.detail, failure.hint) == ("no", "55000", "who", "what")
    assert heard == ["before"]


async def test_a_login_that_is_refused(pg16: EmbeddedPostgres) -> None:
    with pytest.raises(ConsoleFailure) as caught:
        await _ask(_door(pg16, user="nobody", password="hunter2"), "SELECT 1")
    where = f'cannot log in at 127.0.0.1:{pg16.port} as "nobody"'
    assert caught.value.message == f'{where}: password authentication failed for user "nobody"'
    assert caught.value.sqlstate == "28P01"


async def test_nobody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        door = Door("127.0.0.1", reserved.getsockname()[1], "admin", "admin")
        with pytest.raises(ConsoleFailure) as caught:
            await _ask(door, "RELOAD")
        assert caught.value.message == f"cannot connect to 127.0.0.1:{door.port}: Connection refused"
        assert await is_gone(door)


async def test_somebody_listens(pg16: EmbeddedPostgres) -> None:
    assert not await is_gone(_door(pg16), timeout_s=0.3)


async def test_a_connection_that_breaks_is_not_an_answer(pg16: EmbeddedPostgres) -> None:
    heard: list[str] = []
    with Cable(pg16.host, pg16.port) as cable:
        command = "DO $$ BEGIN RAISE NOTICE 'under way'; PERFORM pg_sleep(60); END $$"
        asking = asyncio.create_task(ask(_door(pg16, port=cable.port), command, heard.append))
        await eventually(lambda: heard, "the command to be under way")
        cable.cut()
        with pytest.raises(ConnectionBroken, match="the connection broke before the answer came"):
            async with asyncio.timeout(10):
                await asking
