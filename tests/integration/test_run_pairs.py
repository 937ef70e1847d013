"""Several pairs in one daemon, and two daemons for one pair that know nothing of each other."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import tomli_w

from tests.support.daemon import ROOT, Daemon, DaemonOptions, replicate_directly
from tests.support.databases import Pair, create_database, drop_databases, make_pair
from tests.support.moves import traces
from tests.support.runs import Stop, refused, step_row, told
from tests.support.wait import eventually
from tests.support.writers import SCHEMA, Writers, serving_side

pytestmark = pytest.mark.soak


async def major_behind(daemon: Daemon, database: str = "app") -> int:
    client = await daemon.connect(database)
    try:
        return int(await client.fetchval("SHOW server_version_num")) // 10000
    finally:
        await client.close(timeout=5)


# -- several pairs ---------------------------------------------------------------------------------------------


class TwoPairs(Daemon):
    """The daemon with a second pair, "crm" and "crm_next"."""

    def __init__(self, pair: Pair, second: Pair, directory: Path, options: DaemonOptions | None = None) -> None:
        self.second = second
        super().__init__(pair, directory, options)

    def write_files(self) -> None:
        super().write_files()
        config = tomllib.loads(self.config_path.read_text())
        users = tomllib.loads(self.users_path.read_text())
        names = {"app": "crm", "app_next": "crm_next"}
        config["databases"] += [
            {**entry, "name": names[entry["name"]], "database_name": self.second.database}
            for entry in config["databases"]
        ]
        config["cutover"] += [{**entry, "source": "crm", "destination": "crm_next"} for entry in config["cutover"]]
        users["users"] += [{**user, "database": names[user["database"]]} for user in users["users"]]
        self.config_path.write_text(tomli_w.dumps(config))
        self.users_path.write_text(tomli_w.dumps(users))


class Door:
    """What Writers need of a daemon, for another database."""

    def __init__(self, daemon: Daemon, database: str) -> None:
        self._daemon = daemon
        self._database = database

    async def connect(self) -> Any:
        return await self._daemon.connect(self._database)


@pytest.fixture
async def second(pair: Pair) -> AsyncIterator[Pair]:
    database = f"{pair.database}_crm"
    fresh = make_pair(pair.source_server, pair.destination_server, database)
    servers = (pair.source_server, pair.destination_server)
    for server in servers:
        await create_database(server, database)
    try:
        yield fresh
    finally:
        await fresh.close_sessions()
        await drop_databases(servers, database)


@contextlib.asynccontextmanager
async def two_pairs(pair: Pair, second: Pair, directory: Path) -> AsyncIterator[tuple[Daemon, Writers, Writers]]:
    for each, name in ((pair, "app"), (second, "crm")):
        await each.both_sql(SCHEMA)
        await replicate_directly(each, name)
    async with TwoPairs(pair, second, directory / "daemon") as daemon:
        door: Any = Door(daemon, "crm")
        async with Writers(daemon, count=2) as of_app, Writers(door, count=2) as of_crm:
            yield daemon, of_app, of_crm
        for writers in (of_app, of_crm):
            assert writers.errors == []
            assert writers.lost_connections == 0


async def test_a_verb_needs_a_name(pair: Pair, second: Pair, tmp_path: Path) -> None:
    async with two_pairs(pair, second, tmp_path) as (daemon, of_app, of_crm):
        for verb in ("CHECK", "REPLICATE", "CUTOVER", "REVERT", "COMPLETE", "RESET"):
            error = await refused(daemon, verb)
            assert error.sqlstate == "42704"
            assert "several pairs" in str(error)
            assert "app, crm" in (error.hint or "")
        of_app.longest_wait_s = 0.0
        rows = await daemon.command("CUTOVER crm")
        assert "0 strangers" in step_row(rows, "fence")["detail"]
        await of_crm.flowing()
        await of_app.flowing()
        assert of_app.longest_wait_s < 0.3
        assert (await major_behind(daemon, "app"), await major_behind(daemon, "crm")) == (16, 18)
        await of_crm.verify(second, on_source=False)
        await of_app.verify(pair, on_source=True)
        found = {row["pair"]: row["phase"] for row in await daemon.command("SHOW CUTOVER")}
        assert found == {"app": "replicating", "crm": "moved"}
        [run] = await daemon.command("SHOW CUTOVER_HISTORY")
        assert (run["source"], run["outcome"]) == ("crm", "committed")
        await daemon.command("RELOAD")  # stale for one pair, right for the other
        assert (await major_behind(daemon, "app"), await major_behind(daemon, "crm")) == (16, 18)
        await daemon.command("REVERT crm")
        await of_crm.verify(second, on_source=True)
        await of_app.flowing()


async def test_both_at_once(pair: Pair, second: Pair, tmp_path: Path) -> None:
    async with two_pairs(pair, second, tmp_path) as (daemon, of_app, of_crm):
        for verb, on_source in (("CUTOVER", False), ("REVERT", True)):
            await asyncio.gather(daemon.command(f"{verb} app"), daemon.command(f"{verb} crm"))
            await of_app.verify(pair, on_source=on_source)
            await of_crm.verify(second, on_source=on_source)


# -- configurations that cannot be -------------------------------------------------------------------------------


async def check_config(daemon: Daemon) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.cli", "check-config", "--config", str(daemon.config_path),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


def line_of(text: str, wanted: str, nth: int = 1) -> int:
    """The number of the nth line that begins so."""
    numbers = [number for number, line in enumerate(text.splitlines(), 1) if line.startswith(wanted)]
    return numbers[nth - 1]


async def nothing_starts(daemon: Daemon, line: int, *words: str) -> None:
    status, printed = await check_config(daemon)
    assert status == 1
    assert f"pgcutover.toml:{line}" in printed, printed
    assert all(word in printed for word in words), printed
    await daemon.start(expect_exit=True)
    assert daemon.process is not None
    assert daemon.process.returncode != 0
    assert f"pgcutover.toml:{line}" in daemon.log()


async def test_one_database_under_two_names(pair: Pair, tmp_path: Path) -> None:
    daemon = Daemon(pair, tmp_path / "daemon")
    text = daemon.config_path.read_text()
    same = text.replace(f"port = {pair.destination.port}\ndatabase_name", f"port = {pair.source.port}\ndatabase_name")
    assert same != text
    daemon.config_path.write_text(same)
    await nothing_starts(daemon, line_of(same, 'destination = "app_next"'), "the same database", '"app_next"')


async def test_one_server_under_two_names(pair: Pair, tmp_path: Path) -> None:
    """Addresses that only look different are found out by asking both, before anything is made."""
    await pair.both_sql(SCHEMA)
    daemon = Daemon(pair, tmp_path / "daemon")
    text = daemon.config_path.read_text()
    old = f'host = "127.0.0.1"\nport = {pair.destination.port}\ndatabase_name'
    assert old in text
    daemon.config_path.write_text(text.replace(old, f'host = "localhost"\nport = {pair.source.port}\ndatabase_name'))
    async with daemon:
        async with Writers(daemon, count=2) as writers:
            error = await refused(daemon, "REPLICATE")
            assert "same" in told(error), told(error)
            await refused(daemon, "CUTOVER")
            await writers.flowing()
        assert writers.errors == []
        assert writers.lost_connections == 0
    assert await traces(pair) == {}


async def test_pairs_that_share_a_database(pair: Pair, second: Pair, tmp_path: Path) -> None:
    daemon = TwoPairs(pair, second, tmp_path / "daemon")
    text = daemon.config_path.read_text().replace('destination = "crm_next"', 'destination = "app_next"')
    daemon.config_path.write_text(text)
    line = line_of(text, 'destination = "app_next"', nth=2)
    await nothing_starts(daemon, line, '"app_next"', "one pair only", f"line {line_of(text, '[[cutover]]')}")


# -- two daemons ---------------------------------------------------------------------------------------------------


class Both:
    """Two daemons with the same databases behind them, and writers that go through each."""

    def __init__(self, one: Daemon, other: Daemon, of_one: Writers, of_other: Writers) -> None:
        self.one, self.other = one, other
        self.of_one, self.of_other = of_one, of_other

    async def flowing(self) -> None:
        await asyncio.gather(self.of_one.flowing(), self.of_other.flowing())

    async def whole(self, pair: Pair, *, on_source: bool) -> None:
        """To be asked when the writers have ended: all that either was acknowledged is there."""
        all_of_them = Writers(self.one, 0)
        all_of_them.acknowledged = self.of_one.acknowledged | self.of_other.acknowledged
        all_of_them.unknown = self.of_one.unknown | self.of_other.unknown
        await all_of_them.verify(pair, on_source=on_source)


@contextlib.asynccontextmanager
async def two_daemons(
    pair: Pair, directory: Path, failpoint: str = "", *, patience_ms: int = 2000, **general: Any
) -> AsyncIterator[Both]:
    """`general` and `failpoint` are the first one's; `patience_ms` is how long the second leaves a run alone whose
    leader says nothing. Only clients of the second may lose connections."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    first = Daemon(pair, directory / "one", DaemonOptions(general=general, failpoint=failpoint))
    second = Daemon(pair, directory / "other", DaemonOptions(general={"cutover_max_pause": patience_ms // 2}))
    async with first, second, Writers(first, count=3) as of_one, Writers(second, count=3, first=101) as of_other:
        both = Both(first, second, of_one, of_other)
        yield both
        await both.flowing()
    assert of_one.errors == []
    assert of_other.errors == []
    assert of_one.lost_connections == 0


async def test_the_clients_of_the_other_daemon_follow(pair: Pair, tmp_path: Path) -> None:
    """Their links are strangers' to the run, so they are closed; they come back on the side that serves."""
    async with two_daemons(pair, tmp_path) as both:
        rows = await both.one.command("CUTOVER")
        terminated = int(step_row(rows, "fence")["detail"].split()[0])
        assert terminated >= 3, "the clients of the other daemon"
        await both.flowing()
        assert both.of_other.lost_connections >= 3
        assert await major_behind(both.other) == 18
        assert f"{pair.destination.host}:{pair.destination.port}" in both.other.log()
        [state] = await both.other.command("SHOW CUTOVER")
        assert (state["phase"], state["epoch"]) == ("moved", 2)
        error = await refused(both.other, "CUTOVER")
        assert "nothing to cutover" in str(error), told(error)
    await both.whole(pair, on_source=False)


@pytest.mark.soak
async def test_turns(pair: Pair, tmp_path: Path) -> None:
    """Each daemon makes runs in turn; the other one's clients pay with their connections, never with a write."""
    async with two_daemons(pair, tmp_path) as both:
        for number in range(6):
            leader = both.one if number % 4 < 2 else both.other
            await leader.command("CUTOVER" if number % 2 == 0 else "REVERT")
            await both.flowing()
        both.of_one.lost_connections = 0
    await both.whole(pair, on_source=True)


async def test_a_daemon_that_was_idle_meanwhile(pair: Pair, tmp_path: Path) -> None:
    """Without clients it has not noticed the cutover. Its first client, and its verbs, follow the record."""
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    async with Daemon(pair, tmp_path / "one") as one, Daemon(pair, tmp_path / "other") as other:
        await one.command("CUTOVER")
        error = await refused(other, "CUTOVER")
        assert "nothing to cutover" in str(error), told(error)
        await one.command("REVERT")
        assert await major_behind(other) == 16
        await one.command("CUTOVER")
        assert await major_behind(other) == 18
        await other.command("REVERT")
        assert await major_behind(one) == 16


@pytest.mark.parametrize("step", [pytest.param("twins", marks=pytest.mark.soak), "carry over"])
async def test_only_one_of_them_runs(pair: Pair, tmp_path: Path, step: str) -> None:
    """The second run is refused by the lock of the first, which goes through undisturbed."""
    stop = Stop(tmp_path, step)
    stop.shut()
    async with two_daemons(pair, tmp_path, stop.failpoint, patience_ms=20_000, cutover_max_pause=20_000) as both:
        run = asyncio.create_task(both.one.command("CUTOVER"))
        await stop.reached(both.one)
        error = await refused(both.other, "CUTOVER")
        assert "another" in told(error), told(error)
        await asyncio.sleep(1.5)  # the other daemon looks at the open run every second at least
        stop.open()
        rows = await run
        assert [row["step"] for row in rows if row["status"] == "failed"] == []
        await both.flowing()
        assert await major_behind(both.other) == 18
    await both.whole(pair, on_source=False)


@pytest.mark.parametrize(
    ("step", "limit_ms", "serves"),
    [
        ("before:commit", 60_000, 16),
        ("answer:commit", 2_000, 18),
        pytest.param("before:commit", 2_000, 16, marks=pytest.mark.soak),
    ],
)
async def test_a_frozen_leader(pair: Pair, tmp_path: Path, step: str, limit_ms: int, serves: int) -> None:
    """Stopped in its pause like a virtual machine that is moved. The other daemon finds the outcome by the arbiter
    and serves; the leader learns it when it wakes, however much time it believes to have left."""
    moment, _, name = step.partition(":")
    stop = Stop(tmp_path, name, moment)
    stop.shut()
    async with two_daemons(pair, tmp_path, stop.failpoint, cutover_max_pause=limit_ms) as both:
        run = asyncio.create_task(both.one.command("CUTOVER", 90))
        await stop.reached(both.one)
        both.one.send_signal(signal.SIGSTOP)
        try:
            await both.of_other.flowing(timeout_s=20)
            assert await major_behind(both.other) == serves
        finally:
            stop.open()
            both.one.send_signal(signal.SIGCONT)
        if serves == 16:
            with pytest.raises(asyncpg.PostgresError) as caught:
                await run
            assert "aborted" in str(caught.value)
        else:
            await run
        await both.flowing()
        assert await major_behind(both.one) == serves
        assert await serving_side(pair) == ("source" if serves == 16 else "destination")
        both.of_one.lost_connections = 0
    await both.whole(pair, on_source=serves == 16)


async def test_a_leader_that_dies(pair: Pair, tmp_path: Path) -> None:
    """Nobody restarts it. The other daemon settles what it left open."""
    stop = Stop(tmp_path, "arrival")
    stop.shut()
    async with two_daemons(pair, tmp_path, stop.failpoint, patience_ms=20_000, cutover_max_pause=60_000) as both:
        run = asyncio.create_task(both.one.command("CUTOVER", 60))
        await stop.reached(both.one)
        both.one.kill()
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await run
        await both.of_other.flowing()
        assert await major_behind(both.other) == 16
        stop.open()
        await both.one.start()
        await both.flowing()
        await eventually(lambda: _commits(both.other), "a run of the other daemon", timeout_s=20)
        await both.flowing()
        both.of_one.lost_connections = 0
    await both.whole(pair, on_source=False)


async def _commits(daemon: Daemon) -> bool:
    try:
        await daemon.command("CUTOVER")
    except asyncpg.PostgresError as error:
        assert "not cleaned up yet" in str(error), told(error)
        return False
    return True
