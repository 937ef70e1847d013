"""Finding and running pg_dump and pg_restore, with programs made for the occasion."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from config.model import SslMode
from replication.endpoint import Endpoint
from replication.errors import ToolFailed, ToolsMissing
from replication.tools import connection_string, environment, find_tools, run
from tests.support.wait import eventually

ENDPOINT = Endpoint("db", "10.0.0.1", 5433, "it's \\ mine", "me", "s3cret", SslMode.REQUIRE, sslrootcert="/ca.pem")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def pair_of(folder: Path, dump: str, restore: str | None = None) -> str:
    program(folder / "pg_dump", f"echo 'pg_dump (PostgreSQL) {dump}'")
    program(folder / "pg_restore", f"echo 'pg_restore (PostgreSQL) {restore or dump}'")
    return str(folder)


async def test_the_configured_folder_is_the_only_one_looked_at(tmp_path: Path) -> None:
    tools = await find_tools(18, pair_of(tmp_path / "new", "18.1 (Debian 18.1-1)"))
    assert (tools.major, tools.pg_dump) == (18, tmp_path / "new" / "pg_dump")
    with pytest.raises(ToolsMissing, match=r"PostgreSQL 18 or newer.*17\)") as caught:
        await find_tools(18, pair_of(tmp_path / "old", "17.9"))
    assert "pg_bin_dir" in caught.value.hint
    with pytest.raises(ToolsMissing, match="Found: none"):
        await find_tools(18, str(tmp_path / "nothing"))


async def test_a_newer_one_on_the_path_is_found_behind_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair_of(tmp_path / "old", "15.4"), pair_of(tmp_path / "new", "99beta1")
    monkeypatch.setenv("PATH", os.pathsep.join([old, new, os.environ["PATH"]]))
    assert (await find_tools(99, None)).pg_dump == tmp_path / "new" / "pg_dump"


async def test_the_very_version_is_preferred_to_a_newer_one_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [pair_of(tmp_path / version, version) for version in ("99.1", "98.1", "97.1")]
    monkeypatch.setenv("PATH", os.pathsep.join([*folders, os.environ["PATH"]]))
    assert (await find_tools(97, None)).major == 97
    assert (await find_tools(96, None)).major == 97


async def test_a_server_before_17_refuses_what_newer_programs_set(tmp_path: Path) -> None:
    with pytest.raises(ToolsMissing, match=r"PostgreSQL 15 up to 16 .*\(18\)"):
        await find_tools(15, pair_of(tmp_path / "new", "18.1"))
    assert (await find_tools(15, pair_of(tmp_path / "ok", "16.1"))).major == 16


async def test_two_versions_in_one_folder_and_programs_that_fail_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(ToolsMissing, match="17 and 18"):
        await find_tools(17, pair_of(tmp_path / "mixed", "18.1", "17.1"))
    program(tmp_path / "broken" / "pg_dump", "exit 3")
    program(tmp_path / "broken" / "pg_restore", "exit 3")
    with pytest.raises(ToolsMissing, match="not runnable"):
        await find_tools(17, str(tmp_path / "broken"))


async def test_the_embedded_package_is_a_last_resort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("replication.tools._SYSTEM_PATTERNS", ())
    assert (await find_tools(18, None)).major == 18
    assert (await find_tools(16, None)).major == 16


def test_the_password_is_in_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    monkeypatch.setenv("PGHOSTADDR", "1.2.3.4")
    env = environment(ENDPOINT, "pgcutover test")
    assert env["PGPASSWORD"] == "s3cret"
    assert (env["PGHOST"], env["PGPORT"], env["PGUSER"]) == ("10.0.0.1", "5433", "me")
    assert (env["PGSSLMODE"], env["PGSSLROOTCERT"]) == ("require", "/ca.pem")
    assert "PGSERVICE" not in env
    assert "PGHOSTADDR" not in env
    assert connection_string(ENDPOINT).startswith("dbname='it\\'s \\\\ mine' ")
    assert "s3cret" not in connection_string(ENDPOINT)


async def test_a_failure_has_the_status_and_the_last_words(tmp_path: Path) -> None:
    heard: list[str] = []
    bad = program(tmp_path / "bad", "echo one >&2; echo 'error: two' >&2; exit 7")
    with pytest.raises(ToolFailed, match="exit status 7") as caught:
        await run(bad, [], dict(os.environ), on_line=heard.append)
    assert caught.value.detail == "one\nerror: two"
    assert heard == ["one", "error: two"]
    with pytest.raises(ToolFailed, match="cannot be run"):
        await run(tmp_path / "missing", [], {})


async def test_output_is_returned(tmp_path: Path) -> None:
    good = program(tmp_path / "good", 'echo "$1"; echo "$WORD"')
    assert await run(good, ["a b"], {"WORD": "c", "PATH": os.environ["PATH"]}) == "a b\nc\n"


async def test_silence_ends_it_but_a_talking_one_goes_on(tmp_path: Path) -> None:
    talker = program(tmp_path / "talker", "for i in 1 2 3 4 5; do echo . >&2; sleep 0.2; done; echo done")
    assert await run(talker, [], dict(os.environ), silence_s=0.8) == "done\n"
    mute = program(tmp_path / "mute", "sleep 60")
    started = time.monotonic()
    with pytest.raises(ToolFailed, match=r"silent for 0\.3 s"):
        await run(mute, [], dict(os.environ), silence_s=0.3)
    assert time.monotonic() - started < 5


async def test_cancelling_ends_the_program_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    parent = program(tmp_path / "parent", f"sleep 60 & echo $! $$ > {pids}; wait")
    task = asyncio.create_task(run(parent, [], dict(os.environ)))
    await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the child to start")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()), "both to end")


def alive(pid: int) -> bool:
    """Running, not merely waiting for somebody to take note of its end."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
