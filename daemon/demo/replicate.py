"""REPLICATE and CHECK as the operator sees them, with the progress of the copy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from .operator import VERB_S, CommandFailed, Operator
from .screen import Screen

_IN_SYNC_DEADLINE_S = 120.0
_POLL_S = 0.2


async def replicate(operator: Operator, watcher: Operator, screen: Screen, live_text: Callable[[], str]) -> None:
    """REPLICATE with the copy's progress until the stream has caught up, then CHECK. Raises CommandFailed."""
    screen.heading("REPLICATE;")
    progress = _CopyProgress(watcher)
    following = asyncio.create_task(progress.follow())
    try:
        async with screen.live(lambda: f"{progress.text}   {live_text()}"):
            await operator.ask("REPLICATE", VERB_S)
            await _wait_in_sync(operator)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    for row in await operator.ask("SHOW TABLE_COPIES"):
        screen.line(f"{row['schema']}.{row['table']}: {row['state']}, {row['rows']} rows")
    screen.heading("CHECK;")
    findings = await operator.ask("CHECK", VERB_S)
    for finding in findings:
        if finding["severity"] != "info":
            style = "bold red" if finding["severity"] == "block" else "yellow"
            screen.line(f"{finding['severity']} {finding['id']} {finding['object']}: {finding['finding']}", style)
    blocking = sum(finding["severity"] == "block" for finding in findings)
    screen.line(f"{len(findings)} findings, {blocking} of them blocking")


class _CopyProgress:
    """Follows the initial copy over a session of its own."""

    def __init__(self, watcher: Operator) -> None:
        self.text = "preparing"
        self._watcher = watcher

    async def follow(self) -> None:
        while True:
            try:
                copies = await self._watcher.ask("SHOW TABLE_COPIES")
                streams = await self._watcher.ask("SHOW REPLICATION")
            except CommandFailed:  # nothing to show before the streams are made
                copies, streams = [], []
            if copies:
                rows = sum(int(row["rows"] or 0) for row in copies)
                ready = sum(row["state"] == "ready" for row in copies)
                self.text = f"{ready} of {len(copies)} tables ready, {rows} rows copied, {_lag_text(streams)}"
            await asyncio.sleep(_POLL_S)


async def _wait_in_sync(operator: Operator) -> None:
    """Until the forward stream is known to be streaming with every table ready. Raises CommandFailed."""
    deadline = time.monotonic() + _IN_SYNC_DEADLINE_S
    while True:
        streams = await operator.ask("SHOW REPLICATION")
        if any(_in_sync(stream) for stream in streams if stream["direction"] == "forward"):
            return
        if time.monotonic() > deadline:
            state = "; ".join(f"{one['direction']}: {one['state']}, {_lag_text([one])}" for one in streams)
            raise CommandFailed("REPLICATE", TimeoutError(f"not in sync after {_IN_SYNC_DEADLINE_S:.0f} s ({state})"))
        await asyncio.sleep(_POLL_S)


def _in_sync(stream: dict[str, Any]) -> bool:
    ready, total = int(stream["tables_ready"] or 0), int(stream["tables_total"] or 0)
    return stream["state"] == "streaming" and 0 < total == ready and stream["lag_bytes"] is not None


def _lag_text(streams: list[dict[str, Any]]) -> str:
    forward = [stream for stream in streams if stream["direction"] == "forward"]
    if not forward or forward[0]["lag_bytes"] is None:
        return "lag unknown"
    return f"lag {int(forward[0]['lag_bytes'])} bytes"
