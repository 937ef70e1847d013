"""A server's bytes through the proxy equal those of a direct connection, message for message.

The same scripts run a second time with everything cut into pieces of a few bytes on both sides of the proxy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from daemon.demo.embedded import EmbeddedPostgres
from tests.support.crumbler import Crumbler
from tests.support.plain_proxy import Leads, PlainProxy, leads_to
from tests.support.wait import eventually
from tests.support.wire import Message, Wire
from tests.support.wire_scripts import SCRIPTS, Script

MAJORS = (16, 18)


@pytest.fixture(scope="module")
def servers(pg16: EmbeddedPostgres, pg18: EmbeddedPostgres) -> dict[int, EmbeddedPostgres]:
    return {16: pg16, 18: pg18}


@pytest.fixture(scope="module")
def proxy(servers: dict[int, EmbeddedPostgres], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    leads = {f"on{major}": leads_to(server) for major, server in servers.items()}
    daemon = PlainProxy(leads, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


def _by_nature(message: Message) -> Message:
    """Backend numbers, keys and a walsender's positions differ; their lengths do not."""
    if message.kind == ord("K"):
        return Message(message.kind, bytes(len(message.body)))
    if message.kind == ord("A"):
        return Message(message.kind, bytes(4) + message.body[4:])
    return message


async def converse(host: str, port: int, database: str, script: Script) -> list[Message]:
    """What the server sends from the log-in to the end of the script."""
    heard: list[Message] = []
    async with await Wire.open(host, port) as wire:
        first, *rest = script.steps
        # Without a wait in between where the first step's count says so: clients may send ahead.
        wire.send(script.log_in(database))
        ahead = script.name == "a query behind the start-up packet"
        if first.kind and not ahead:
            heard += await wire.until_ready()
            assert heard[-1].kind == ord("Z"), heard
        for step in (first, *rest):
            wire.send(step.send)
            before = len(heard)
            heard += await wire.until(step.kind, step.count) if step.kind else await wire.until("Z", 10**9)
            if step.kind:
                assert heard[-1].kind == ord(step.kind), (step.send[:60], heard[before:])
    return [_by_nature(message) for message in heard]


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name.replace(" ", "_"))
async def test_the_same_bytes(
    script: Script, major: int, servers: dict[int, EmbeddedPostgres], proxy: PlainProxy
) -> None:
    if major < script.least_major:
        return
    server = servers[major]
    direct = await converse(server.host, server.port, "postgres", script)
    through = await converse("127.0.0.1", proxy.port, f"on{major}", script)
    assert through == direct


@asynccontextmanager
async def crumbling(server: EmbeddedPostgres, proxy: PlainProxy, seed: int) -> AsyncIterator[Crumbler]:
    """A port that leads through the proxy to the server, in crumbs all the way."""
    async with Crumbler(server.host, server.port, seed=seed) as behind:
        proxy.databases["crumbs"] = Leads(behind.host, behind.port)
        proxy.write_files()
        await proxy.command("RELOAD")
        async with Crumbler("127.0.0.1", proxy.port, seed=seed + 1) as before:
            yield before


async def test_the_same_bytes_in_crumbs(pg18: EmbeddedPostgres, proxy: PlainProxy) -> None:
    async with crumbling(pg18, proxy, seed=20) as before:
        for script in SCRIPTS:
            if script.cut_off:
                continue
            direct = await converse(pg18.host, pg18.port, "postgres", script)
            through = await converse(before.host, before.port, "crumbs", script)
            assert through == direct, script.name


async def test_every_script_leaves_its_session_quiet(proxy: PlainProxy) -> None:
    """The proxy knows that nothing is owed any more: else a cutover would wait for such clients in vain."""
    for script in SCRIPTS:
        if not all(step.kind for step in script.steps) or script.loses_count:
            continue
        async with await Wire.open("127.0.0.1", proxy.port) as wire:
            wire.send(script.log_in("on18"))
            await wire.until_ready()
            if script.name != "a query behind the start-up packet":
                for step in script.steps:
                    wire.send(step.send)
                    await wire.until(step.kind, step.count)

            async def idle() -> bool:
                return [client["state"] for client in await proxy.clients()] == ["idle"]

            await eventually(idle, f"the session to be idle after: {script.name}")
        await proxy.nobody_left()
