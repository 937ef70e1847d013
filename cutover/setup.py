"""REPLICATE, RESET and COMPLETE for one pair: the checks first, then what replication/ does, as rows."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from replication.control_schema import read_identity
from replication.setup import replicate
from replication.steps import SetupStep
from replication.teardown import complete, reset

from .api import Finding, MoveError, Notify, Severity, StepRow
from .checks import note_baseline, run_pair_checks, subscribed
from .pair import Pair


async def replicate_pair(pair: Pair, notify: Notify) -> list[StepRow]:
    """Raises MoveError where a check blocks, and what replication.setup raises."""
    began = time.monotonic()
    row = await _check(pair, notify)
    general = pair.config.replication
    offset_ms = (time.monotonic() - began) * 1000.0
    rows = _rows(
        await replicate(
            pair.source,
            pair.destination,
            pair.name,
            pg_bin_dir=general.pg_bin_dir,
            copy_jobs=general.copy_jobs,
            adopt_subscription=pair.entry.subscription,
            notify=notify,
        ),
        offset_ms=offset_ms,
    )
    async with pair.sessions() as (source, destination):
        identity = await read_identity(source)
        if identity is not None:
            await note_baseline(pair, identity, destination)
    await _learn_epoch(pair)
    return [*row, *rows]


async def _check(pair: Pair, notify: Notify) -> list[StepRow]:
    """What would make the copy wrong or stop it is found before anything is made; not again on the way."""
    began = time.monotonic()
    async with pair.sessions() as (source, destination):
        identity = await read_identity(source)
        if identity is not None and await subscribed(pair, identity, destination):
            return []
        findings = await run_pair_checks(pair, source, destination, identity, setup=True)
    blocking = [finding for finding in findings if finding.severity is Severity.BLOCK]
    if blocking:
        raise MoveError(
            f"{len(blocking)} checks block REPLICATE; the first: {_one_line(blocking[0])}",
            detail="\n".join(_one_line(finding) for finding in blocking[1:20]),
            hint=f"{blocking[0].remedy} CHECK; lists every finding with its remedy.",
        )
    notify(f"check: nothing blocks, {len(findings)} findings to read with CHECK;")
    return [StepRow("check", "done", 0.0, (time.monotonic() - began) * 1000.0, f"{len(findings)} findings")]


def _one_line(finding: Finding) -> str:
    return f"{finding.id} {finding.object}: {finding.finding}"


async def complete_pair(pair: Pair, notify: Notify) -> list[StepRow]:
    return await _ending(pair, notify, complete)


async def reset_pair(pair: Pair, notify: Notify) -> list[StepRow]:
    return await _ending(pair, notify, reset)


async def _ending(pair: Pair, notify: Notify, verb: Callable[..., Awaitable[Sequence[SetupStep]]]) -> list[StepRow]:
    rows = _rows(await verb(pair.source, pair.destination, notify=notify))
    await _learn_epoch(pair)
    return rows


async def _learn_epoch(pair: Pair) -> None:
    async with pair.sessions() as (source, _destination):
        identity = await read_identity(source)
    pair.epoch = identity.epoch if identity is not None else None


def _rows(steps: Sequence[SetupStep], offset_ms: float = 0.0) -> list[StepRow]:
    return [
        StepRow(step.step, step.status, step.started_ms + offset_ms, step.duration_ms, step.detail) for step in steps
    ]
