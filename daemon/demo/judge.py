"""The verdict on both databases once the traffic has stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from .embedded import EmbeddedPostgres
from .ledger import Verdict, check_ledger, content_digest
from .records import ClientRecord
from .stage import Stage

_CAUGHT_UP_DEADLINE_S = 30.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Judgement:
    """The ledger's verdict, and what else is wrong, in words."""

    verdict: Verdict
    problems: list[str]


async def judge(stage: Stage, records: Sequence[ClientRecord], say: Callable[[str], None]) -> Judgement:
    """Check the ledger where it is served, then that the other side holds the same. No traffic may run."""
    serving, other = await serving_first(stage)
    connection = await stage.connect(serving)
    try:
        verdict = await check_ledger(connection, records)
    finally:
        await connection.close(timeout=10)
    problems = await compare_sides(serving, other, stage)
    for line in (*verdict.details, *problems):
        say(line)
    if not problems:
        say(f"PostgreSQL {other.major} holds the same as PostgreSQL {serving.major}, which serves")
    return Judgement(verdict, problems)


async def serving_first(stage: Stage) -> tuple[EmbeddedPostgres, EmbeddedPostgres]:
    """The server that an application reaches through the proxy now, then the other one."""
    async with await psycopg.AsyncConnection.connect(
        host=stage.app.host,
        port=stage.app.port,
        dbname=stage.app.database,
        user=stage.app.user,
        password=stage.app.password,
        sslmode="disable",
        autocommit=True,
    ) as connection:
        row = await (await connection.execute("SELECT inet_server_port()")).fetchone()
    assert row is not None
    first, second = stage.servers
    return (first, second) if row[0] == first.port else (second, first)


async def compare_sides(serving: EmbeddedPostgres, other: EmbeddedPostgres, stage: Stage) -> list[str]:
    """Wait until the stream has brought everything to the side that does not serve; says what differs.

    No traffic may run.
    """
    left = await stage.connect(serving)
    right = await stage.connect(other)
    try:
        wanted = await content_digest(left)
        deadline = time.monotonic() + _CAUGHT_UP_DEADLINE_S
        while (found := await content_digest(right)) != wanted:
            if time.monotonic() > deadline:
                return [
                    f"PostgreSQL {other.major} did not catch up within {_CAUGHT_UP_DEADLINE_S:.0f} s: "
                    f"it holds {found}, PostgreSQL {serving.major} holds {wanted}"
                ]
            await asyncio.sleep(_POLL_S)
        return []
    finally:
        await left.close(timeout=10)
        await right.close(timeout=10)


async def server_version(stage: Stage, server: EmbeddedPostgres) -> str:
    connection = await stage.connect(server)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close(timeout=10)
