"""psql cannot tell the proxy from the server: its output over tests/support/statements is the same."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.demo.embedded import EmbeddedPostgres
from tests.support.databases import run_sql
from tests.support.plain_proxy import PlainProxy, leads_to

STATEMENTS = Path(__file__).resolve().parents[1] / "support" / "statements"
SCRIPTS = sorted(path.stem for path in STATEMENTS.glob("*.sql"))
DATABASES = {16: "see_through_16", 18: "see_through_18"}

# A backend's own number and the time: nothing else differs by nature.
_BY_NATURE = re.compile(rb"(?<=server process with PID )\d+")


@dataclass(frozen=True)
class Output:
    status: int
    stdout: bytes
    stderr: bytes


@pytest.fixture(scope="module")
def servers(pg16: EmbeddedPostgres, pg18: EmbeddedPostgres) -> dict[int, EmbeddedPostgres]:
    return {16: pg16, 18: pg18}


@pytest.fixture(scope="module")
def proxy(servers: dict[int, EmbeddedPostgres], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainProxy]:
    leads = {DATABASES[major]: leads_to(server, DATABASES[major]) for major, server in servers.items()}
    daemon = PlainProxy(leads, tmp_path_factory.mktemp("proxy"))
    daemon.start_now()
    yield daemon
    daemon.stop_now()


async def _fresh(server: EmbeddedPostgres, database: str) -> None:
    await run_sql(server, "postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    await run_sql(server, "postgres", f"CREATE DATABASE {database} TEMPLATE template0")


def psql(server: EmbeddedPostgres, port: int, script: Path, folder: Path) -> Output:
    folder.mkdir()
    done = subprocess.run(
        [str(server.bin_dir / "psql"), "-X", "-a", "-f", str(script)],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "postgres",
            "PGDATABASE": DATABASES[server.major],
            "PGSSLMODE": "disable",
            "PGCLIENTENCODING": "UTF8",
            "LC_ALL": "C.UTF-8",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Output(done.returncode, _BY_NATURE.sub(b"PID", done.stdout), _BY_NATURE.sub(b"PID", done.stderr))


@pytest.mark.parametrize("name", SCRIPTS)
async def test_psql(name: str, servers: dict[int, EmbeddedPostgres], proxy: PlainProxy, tmp_path: Path) -> None:
    script = STATEMENTS / f"{name}.sql"
    async with asyncio.TaskGroup() as group:
        for major, server in servers.items():
            if name == "psql18" and major < 18:
                continue  # commands that psql has since 18
            group.create_task(_compare(server, proxy, script, tmp_path / str(major)))
    await proxy.nobody_left()


async def _compare(server: EmbeddedPostgres, proxy: PlainProxy, script: Path, folder: Path) -> None:
    folder.mkdir()
    outputs = []
    for port, name in ((server.port, "direct"), (proxy.port, "through")):
        await _fresh(server, DATABASES[server.major])
        outputs.append(await asyncio.to_thread(psql, server, port, script, folder / name))
    direct, through = outputs
    # A script that psql gave up in the middle would prove little.
    assert script.read_bytes().rstrip().splitlines()[-1] in direct.stdout
    assert through.stdout.splitlines() == direct.stdout.splitlines()
    assert through.stderr.splitlines() == direct.stderr.splitlines()
    assert through == direct
