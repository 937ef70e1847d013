"""Where a test stops or kills the daemon: `PGCUTOVER_FAILPOINT="before:commit=kill"`. Unset in production.

Actions: `kill` (SIGKILL to ourselves), `error` (the step fails), `wait:PATH` (create PATH.reached, go on when
PATH.go exists; gives up after 30 s). Several, separated by commas. Each fires once, but for `error*`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

ENVIRONMENT_VARIABLE = "PGCUTOVER_FAILPOINT"


class InjectedFailure(Exception):
    """The failure that a test asked for."""


class Failpoints:
    def __init__(self, text: str = "") -> None:
        self._actions: dict[str, str] = {}
        for item in filter(None, text.split(",")):
            where, _, action = item.partition("=")
            self._actions[where] = action

    @classmethod
    def from_environment(cls) -> Failpoints:
        return cls(os.environ.get(ENVIRONMENT_VARIABLE, ""))

    @property
    def active(self) -> bool:
        return bool(self._actions)

    async def reach(self, where: str) -> None:
        action = self._actions.get(where)
        if action is None:
            return
        if not action.endswith("*"):
            del self._actions[where]
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action.startswith("wait:"):
            await _wait_for_go(Path(action.removeprefix("wait:").rstrip("*")))
        else:
            raise InjectedFailure(f"injected at {where}")


async def _wait_for_go(path: Path) -> None:
    Path(f"{path}.reached").touch()
    go = Path(f"{path}.go")
    deadline = time.monotonic() + 30.0
    while not go.exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
