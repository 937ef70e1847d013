"""Failpoints: where they are, what they do, and that there are none without the environment variable."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cutover.failpoints import ENVIRONMENT_VARIABLE, Failpoints, InjectedFailure
from tests.support.wait import eventually


async def test_nothing_happens_without_any() -> None:
    none = Failpoints()
    assert not none.active
    await none.reach("before:commit")


def test_they_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert not Failpoints.from_environment().active
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "before:commit=error")
    assert Failpoints.from_environment().active


async def test_an_error_fires_once_where_it_is_and_nowhere_else() -> None:
    points = Failpoints("before:fence=error,after:hold=error")
    await points.reach("before:hold")
    with pytest.raises(InjectedFailure, match="before:fence"):
        await points.reach("before:fence")
    await points.reach("before:fence")
    with pytest.raises(InjectedFailure, match="after:hold"):
        await points.reach("after:hold")
    assert not points.active


async def test_with_a_star_it_fires_every_time() -> None:
    points = Failpoints("before:fence=error*")
    for _ in range(3):
        with pytest.raises(InjectedFailure):
            await points.reach("before:fence")
    assert points.active


async def test_waiting_until_told_to_go(tmp_path: Path) -> None:
    flag = tmp_path / "a flag"
    points = Failpoints(f"before:twins=wait:{flag}")
    reaching = asyncio.create_task(points.reach("before:twins"))
    await eventually(Path(f"{flag}.reached").exists, "the failpoint to be reached")
    assert not reaching.done()
    Path(f"{flag}.go").touch()
    await asyncio.wait_for(reaching, 5)
    await asyncio.wait_for(points.reach("before:twins"), 5)


async def test_waiting_with_a_star_goes_through_while_the_way_is_free(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    Path(f"{flag}.go").touch()
    points = Failpoints(f"before:twins=wait:{flag}*")
    for _ in range(2):
        await asyncio.wait_for(points.reach("before:twins"), 5)
    Path(f"{flag}.go").unlink()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await points.reach("before:twins")


def test_kill_is_a_kill() -> None:
    program = "import asyncio; from cutover.failpoints import Failpoints; p = Failpoints.from_environment();"
    program += "asyncio.run(p.reach('before:commit')); print('still here')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={ENVIRONMENT_VARIABLE: "before:commit=kill"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""
