"""What psql and the command line show of a run, and the exit status they end with."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from tests.support.daemon import ADMIN_PASSWORD, ROOT, Daemon, replicate_directly
from tests.support.databases import Pair
from tests.support.writers import SCHEMA, Writers

PSQL = "/usr/bin/psql"
STEPS = [
    "lock",
    "record",
    "check",
    "return stream",
    "sequences ahead",
    "twins",
    "hold",
    "fence",
    "carry over",
    "arrival",
]
STEPS += ["commit", "swap", "retire source", "forward stream off", "return stream on", "way back proven"]
FIGURES = ["pause", "clients held", "longest hold", "transactions waited for", "sessions closed"]


async def finished(*command: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and error output of a command."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def psql(daemon: Daemon, sql: str) -> tuple[int, str, str]:
    where = ["-h", "127.0.0.1", "-p", str(daemon.port), "-U", "admin", "-d", "admin"]
    return await finished(PSQL, "-X", *where, "-c", sql, PGPASSWORD=ADMIN_PASSWORD, LC_ALL="C")


async def command_line(daemon: Daemon, *words: str) -> tuple[int, str, str]:
    return await finished(sys.executable, "-m", "daemon.cli", *words, "--config", str(daemon.config_path))


def table(printed: str) -> dict[str, list[str]]:
    """psql's aligned rows by their first column."""
    rows = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


async def test_psql(pair: Pair, tmp_path: Path) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        async with Writers(daemon, count=2) as writers:
            status, out, err = await psql(daemon, "CUTOVER;")
            assert status == 0, err
            rows = table(out)
            assert rows["step"] == ["status", "started_ms", "duration_ms", "detail"]
            assert [rows[step][0] for step in STEPS] == ["done"] * len(STEPS)
            assert [rows[figure][0] for figure in FIGURES] == ["total"] * len(FIGURES)
            assert list(rows)[-len(FIGURES) :] != []
            assert re.fullmatch(r"\d+\.\d ms", rows["pause"][-1])
            assert int(rows["clients held"][-1]) > 0
            assert rows["sessions closed"][-1] == "0"
            assert re.search(r"NOTICE:  traffic of .app. flows on the new side; pause \d+\.\d ms", err), err
            status, out, err = await psql(daemon, "CUTOVER;")
            assert status == 1
            assert out == ""
            assert re.search(r"^ERROR:  cutover aborted at step record: there is nothing to cutover", err, re.M), err
            assert re.search(r"^DETAIL:  Traffic of \"app\" flows on the source", err, re.M), err
            assert re.search(r"^HINT:  REVERT", err, re.M), err
            status, out, _ = await psql(daemon, "SHOW CUTOVER_HISTORY")
            assert status == 0
            assert "committed" in out
            assert "aborted" not in out  # a run that never began is no run
            await writers.flowing()
        assert writers.errors == []
        assert writers.lost_connections == 0


async def test_the_command_line(pair: Pair, tmp_path: Path) -> None:
    await pair.both_sql(SCHEMA)
    await replicate_directly(pair)
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        async with Writers(daemon, count=2) as writers:
            status, out, err = await command_line(daemon, "cutover", "--json")
            assert status == 0, err
            answer: dict[str, Any] = json.loads(out)
            assert answer["ok"] is True
            done = {row["step"]: row for row in answer["rows"]}
            assert [done[step]["status"] for step in STEPS] == ["done"] * len(STEPS)
            assert [done[figure]["status"] for figure in FIGURES] == ["total"] * len(FIGURES)
            assert any("flows on the new side" in line for line in answer["notices"])
            status, out, err = await command_line(daemon, "cutover", "app", "--json")
            assert status == 1
            answer = json.loads(out)
            assert answer["ok"] is False
            assert answer["error"]["sqlstate"] == "55000"
            assert "nothing to cutover" in answer["error"]["message"]
            assert "flows on" in answer["error"]["detail"]
            assert "REVERT" in answer["error"]["hint"]
            status, out, err = await command_line(daemon, "revert")
            assert status == 0, err
            assert "retire source" in out
            status, out, err = await command_line(daemon, "revert")
            assert status == 1
            assert re.search(r"^ERROR:  revert aborted at step record", err, re.M), err
            assert re.search(r"^DETAIL:  .*flows on", err, re.M), err
            assert re.search(r"^HINT:  CUTOVER", err, re.M), err
            await writers.verify(pair, on_source=True)
        assert writers.errors == []
        assert writers.lost_connections == 0
