"""Signals to a postmaster and everything it forked.

Each PostgreSQL child calls setsid() (postmaster.c and fork_process.c since 8.x), so a signal to the
postmaster's process group does not reach the backends; the children are looked up in /proc instead.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def children(parent_pid: int) -> set[int]:
    """Living children of a process (zombies do not count)."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _parent_of_living(int(entry.name)) == parent_pid:
            found.add(int(entry.name))
    return found


def _parent_of_living(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, so fields are counted from the last parenthesis (proc(5)).
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def is_alive(pid: int) -> bool:
    return _parent_of_living(pid) is not None


def freeze_tree(pid: int) -> set[int]:
    """SIGSTOP the process and its children; returns all. The parent stops first: no child is missed."""
    _send(pid, signal.SIGSTOP)
    stopped = children(pid)
    for child in stopped:
        _send(child, signal.SIGSTOP)
    return {pid, *stopped}


def thaw_tree(pid: int) -> None:
    for child in children(pid):
        _send(child, signal.SIGCONT)
    _send(pid, signal.SIGCONT)


def kill_tree(pid: int) -> set[int]:
    """SIGKILL the process and its children; returns who was killed. They may take a moment to be gone."""
    everybody = freeze_tree(pid)
    for member in everybody:
        _send(member, signal.SIGKILL)
    return everybody


def wait_gone(pids: set[int], deadline_s: float) -> set[int]:
    """Those of `pids` that still live after `deadline_s` seconds."""
    until = time.monotonic() + deadline_s
    left = {pid for pid in pids if is_alive(pid)}
    while left and time.monotonic() < until:
        time.sleep(0.01)
        left = {pid for pid in left if is_alive(pid)}
    return left


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
