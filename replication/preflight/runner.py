"""Run the checks one after the other; whatever happens to one of them, the others still run."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection
from dataclasses import replace

import asyncpg
import structlog

from ..session import ControlSession, ControlUnavailable, connect
from .model import CannotCheck, CheckContext, Finding, Severity, redact
from .registry import CATALOGUE, CatalogueEntry

_log = structlog.get_logger(__name__)

# A table that somebody holds locked must not keep a check, and so the operator, waiting for half a minute.
_LOCK_TIMEOUT_MS = 3_000

_ORDER = {severity: rank for rank, severity in enumerate(Severity)}


async def run_checks(context: CheckContext, ids: Collection[str] | None = None) -> list[Finding]:
    """All findings of the checks of `context.phase`, or of those named, ordered by severity, id and object.

    A check that fails, runs out of time or loses its connection becomes a blocking finding "could not be
    checked". A connection that a check lost is replaced for the next ones. Raises ValueError for an unknown
    id, and nothing else.
    """
    unknown = sorted(set(ids or ()) - CATALOGUE.keys())
    if unknown:
        raise ValueError(f"no checks of these ids: {', '.join(unknown)}")
    sessions = _Sessions(context)
    findings: list[Finding] = []
    try:
        for entry in CATALOGUE.values():
            if context.phase in entry.phases and (ids is None or entry.id in ids):
                current = await sessions.context()
                findings += await _run_one(entry, current)
    finally:
        await sessions.close()
    return sorted(set(findings), key=lambda f: (_ORDER[f.severity], f.id, f.object, f.finding))


async def _run_one(entry: CatalogueEntry, context: CheckContext) -> list[Finding]:
    try:
        async with asyncio.timeout(context.check_timeout_s):
            return await entry.run(context)
    except CannotCheck as error:
        return [_unchecked(entry, context, error.reason, error.remedy)]
    except TimeoutError:
        return [_unchecked(entry, context, f"no answer within {context.check_timeout_s:.3g} s")]
    except (ControlUnavailable, asyncpg.PostgresError) as error:
        return [_unchecked(entry, context, str(error))]
    except Exception as error:
        # Not exc_info: a renderer may print the local variables, and passwords are among them.
        trace = redact(traceback.format_exc(), context)
        _log.error("preflight_check_failed", check=entry.id, error=type(error).__name__, trace=trace)
        return [_unchecked(entry, context, f"internal error: {type(error).__name__}: {error}")]


def _unchecked(entry: CatalogueEntry, context: CheckContext, reason: str, remedy: str = "") -> Finding:
    return Finding(
        entry.id,
        Severity.BLOCK,
        context.pair_name,
        f"{entry.title}: could not be checked: {redact(reason, context)}",
        remedy or "mend the cause, then run CHECK again",
    )


class _Sessions:
    """Hands every check two working sessions: the caller's, or a fresh one where that one broke.

    A side that refuses once is not tried again, so that sixty checks do not wait sixty times.
    """

    def __init__(self, context: CheckContext) -> None:
        self._context = replace(context, memo={})
        self._opened: list[ControlSession] = []
        self._prepared: set[int] = set()
        self._given_up: set[str] = set()

    async def context(self) -> CheckContext:
        current = self._context
        source = await self._working(current.source, "source")
        destination = await self._working(current.destination, "destination")
        if source is not current.source or destination is not current.destination:
            self._context = replace(current, source=source, destination=destination)
        return self._context

    async def _working(self, session: ControlSession, side: str) -> ControlSession:
        # The caller's session may be broken without knowing it; a second attempt is with a fresh one.
        for _ in range(2):
            if side in self._given_up:
                break
            try:
                if session.closed:
                    session = await connect(session.endpoint)
                    self._opened.append(session)
                if id(session) not in self._prepared:
                    await session.execute(f"set lock_timeout = {_LOCK_TIMEOUT_MS}")
                    self._prepared.add(id(session))
                return session
            except (ControlUnavailable, asyncpg.PostgresError) as error:
                _log.warning("preflight_session_lost", side=side, error=str(error))
                session.abort()
        self._given_up.add(side)
        return session

    async def close(self) -> None:
        for session in self._context.both:
            if session not in self._opened and not session.closed:
                try:
                    await session.execute("set lock_timeout = 0")
                except (ControlUnavailable, asyncpg.PostgresError):
                    session.abort()
        for session in self._opened:
            await session.close()
