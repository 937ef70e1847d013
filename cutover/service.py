"""MoveService for all configured pairs: one verb at a time per pair, recovery at start, the check of every link.

A verb runs in a task of its own and is not broken off when its console goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import structlog

from config.model import Config
from proxy.control import ProxyControl
from proxy.errors import AdminShutdown, CannotConnectNow, ServerUnreachable
from replication import decision
from replication.control_schema import ForeignIdentity, ServingState, read_identity
from replication.errors import ReplicationError
from replication.session import ControlUnavailable, StatementFailed, connect

from . import recovery
from .api import (
    CutoverStateRow,
    Finding,
    MoveError,
    NodeRow,
    Notify,
    ReplicationRow,
    RunKind,
    RunOutcome,
    RunReport,
    Severity,
    StepRow,
    TableCopyRow,
)
from .checks import run_pair_checks
from .failpoints import Failpoints
from .finish import NotFinished, clean_up_aborted, finish_committed, save_outcome
from .pair import CONNECT_TIMEOUT_S, Pair, look
from .report import report_from_json
from .run import Run
from .setup import complete_pair, replicate_pair, reset_pair
from .watch import replication_rows, table_copy_rows, watch_lag

log = structlog.get_logger("cutover")

T = TypeVar("T")

LOOK_AGAIN_S = 1.0
LOOK_AGAIN_UNDECIDED_S = 0.2
PATIENCE = 2.0
"""How many times cutover_max_pause an open run of a leader that holds the run lock is left alone."""
NEVER_CHANGED = "no control schema"
SAVE_CONFIG = Callable[[str, str], Awaitable[str]]


class CannotServe(Exception):
    """The configuration and the databases contradict each other; the daemon must not start on a guess."""


async def save_nothing(_source: str, _destination: str) -> str:
    return ""


class Moves:
    """See the file's head. `start` before clients are let in, `close` at the end."""

    def __init__(
        self,
        control: ProxyControl,
        *,
        node: str,
        version: str,
        failpoints: Failpoints | None = None,
        save_config: SAVE_CONFIG = save_nothing,
    ) -> None:
        self.control = control
        self.node = node
        self.version = version
        self._failpoints = failpoints or Failpoints()
        self._save_config = save_config
        self._pairs: dict[str, Pair] = {}
        self._watchers: dict[str, list[asyncio.Task[None]]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find out for every pair who serves. Raises CannotServe; what is not known yet keeps its clients waiting."""
        self.control.frontend.link_check = self.check_link
        self.control.frontend.link_token = self.link_token
        await self.sync_pairs()

    async def sync_pairs(self) -> None:
        """After the configuration was loaded: pairs that came are looked at, pairs that went are let go."""
        wanted = {entry.name for entry in self.control.config.cutover}
        for name in self._pairs.keys() - wanted:
            await self._forget(name)
        for name in sorted(wanted - self._pairs.keys()):
            pair = Pair(name, self.control)
            self._pairs[name] = pair
            await self._settle(pair, first_time=True)
            self._watchers[name] = [
                asyncio.create_task(self._settle_for_ever(pair), name=f"settle-{name}"),
                asyncio.create_task(watch_lag(pair), name=f"lag-{name}"),
            ]

    async def oriented(self, loaded: Config) -> tuple[Config, list[str]]:
        """A configuration just read from its files, with each pair's names on the sides that serve now.

        Raises CannotServe where that cannot be known and the file disagrees with what runs.
        """
        told: list[str] = []
        for entry in loaded.cutover:
            verdict = await look(loaded, entry)
            if isinstance(verdict, recovery.Serve):
                if verdict.name != entry.source:
                    loaded = loaded.swapped(entry.source, entry.destination)
                    there = loaded.database(entry.source)
                    told.append(
                        f'"{entry.name}": {verdict.why}; the file is stale, "{entry.name}" leads to '
                        f"{there.host}:{there.port}"
                        if there is not None
                        else ""
                    )
                continue
            running = self.control.config.database(entry.source)
            new = entry.name not in self._pairs and isinstance(verdict, recovery.Refuse)
            if new or running != loaded.database(entry.source):
                why = "a run is undecided" if isinstance(verdict, recovery.Resolve) else verdict.why
                raise CannotServe(f'"{entry.name}" is not reloaded: {why}')
        return loaded, told

    async def look_again(self) -> list[str]:
        """After a RELOAD: ask both sides of every pair who serves; answers what was found."""
        await self.sync_pairs()
        return [await self._settle(pair) for pair in self._pairs.values()]

    async def close(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=60.0)
        for name in list(self._pairs):
            await self._forget(name)

    async def _forget(self, name: str) -> None:
        pair = self._pairs.pop(name)
        for task in self._watchers.pop(name, []):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await pair.close()

    @property
    def busy(self) -> bool:
        return any(pair.busy.locked() for pair in self._pairs.values())

    @property
    def undecided(self) -> dict[str, str]:
        """The pairs of which it is not known who serves, and why. Their clients wait."""
        return {name: pair.undecided for name, pair in self._pairs.items() if pair.undecided}

    # -- who serves ----------------------------------------------------------------------------------------

    async def _settle(self, pair: Pair, *, first_time: bool = False) -> str:
        """Ask both sides and act on the answer; the configuration file is only the fallback."""
        # A verb that begins waits for the end of this (`_exclusively`): what is found here may be acted upon, and
        # an open run that is found here is nobody's.
        if pair.busy.locked():
            return f'"{pair.name}": a command is under way'
        async with pair.settling:
            return await self._settle_alone(pair, first_time)

    async def _settle_alone(self, pair: Pair, first_time: bool) -> str:
        for _ in range(3):
            verdict = await pair.look()
            match verdict:
                case recovery.Serve():
                    return await self._serve(pair, verdict)
                case recovery.Resolve():
                    try:
                        if not await self._resolve(pair, verdict):
                            return self._wait(pair, f"run {verdict.run_id} is under way in another process")
                    except (ControlUnavailable, StatementFailed) as error:
                        return self._wait(pair, str(error))
                case recovery.Wait():
                    return self._wait(pair, verdict.why)
                case recovery.Refuse():
                    if first_time:
                        raise CannotServe(verdict.why)
                    return self._wait(pair, verdict.why)
        return self._wait(pair, "the decision record does not come to rest")

    async def _serve(self, pair: Pair, verdict: recovery.Serve) -> str:
        pair.epoch = verdict.epoch
        told = f'"{pair.name}": {verdict.why}'
        if verdict.name != pair.source_name:
            other = pair.destination_name
            ended = self.control.end_sessions(
                pair.source_name, AdminShutdown(detail="The database has moved to another server.")
            )
            self.control.apply(self.control.config.swapped(pair.source_name, other))
            there = pair.source
            told += f'; the configuration was stale, "{pair.name}" leads to {there.host}:{there.port} now'
            log.warning(
                "stale_configuration", pair=pair.name, why=verdict.why, leads_to=there.place, sessions_ended=ended
            )
        if pair.undecided:
            pair.undecided = ""
            self.control.open_again(pair.source_name)
            self.control.open_again(pair.destination_name)
        log.info("serving", pair=pair.name, why=verdict.why, epoch=verdict.epoch)
        if verdict.epoch is not None:
            await self._settle_unfinished(pair)
        return told

    def _wait(self, pair: Pair, why: str) -> str:
        if pair.undecided != why:
            log.error("not_known_who_serves", pair=pair.name, why=why)
        pair.undecided = why
        self.control.keep_closed(pair.source_name)
        self.control.keep_closed(pair.destination_name)
        return f'"{pair.name}": {why}; clients wait'

    async def _resolve(self, pair: Pair, verdict: recovery.Resolve) -> bool:
        """Decide an open run as aborted where it is undecided. The next look acts on the outcome.

        A leader that lives holds the run lock; it is left alone (False) for as long as a pause can last. After
        that it may be frozen, and to abort by the arbiter is safe whatever it does when it wakes.
        """
        async with await connect(pair.endpoint(verdict.destination), timeout_s=CONNECT_TIMEOUT_S) as session:
            if not await decision.try_lock(session):
                seen = pair.open_runs.setdefault(verdict.run_id, time.monotonic())
                patience_s = PATIENCE * self.control.config.general.cutover_max_pause / 1000.0
                if time.monotonic() - seen < patience_s:
                    return False
            outcome = await decision.abort(session, verdict.run_id)
        pair.open_runs.clear()
        log.warning("run_recovered", pair=pair.name, run=str(verdict.run_id), outcome=outcome.value)
        if outcome is not decision.Outcome.COMMITTED:
            async with await connect(pair.endpoint(verdict.source), timeout_s=CONNECT_TIMEOUT_S) as session:
                await decision.release_source(session, verdict.run_id)
        return True

    async def _settle_for_ever(self, pair: Pair) -> None:
        """Look again while it is not known who serves, and finish what a run left unfinished."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S if not pair.undecided else LOOK_AGAIN_UNDECIDED_S)
            try:
                if pair.undecided or pair.unfinished:
                    await self._settle(pair)
            except Exception:
                log.exception("settling_failed", pair=pair.name)

    async def _settle_unfinished(self, pair: Pair) -> None:
        """Runs that were decided, or given up, and not cleaned up: by a crash, or while a side was away."""
        open_runs: dict[Any, decision.RunRecord] = {}
        for side in (pair.source, pair.destination):
            try:
                async with await connect(side, timeout_s=CONNECT_TIMEOUT_S) as session:
                    if await read_identity(session) is not None:
                        for record in await decision.runs(session, unfinished_only=True):
                            open_runs.setdefault(record.run_id, record)
            except (ControlUnavailable, StatementFailed) as error:
                if side.name == pair.source_name:
                    pair.unfinished = True
                    pair.unfinished_why = str(error)
                    return
        pair.unfinished = False
        for record in open_runs.values():
            if record.pair == pair.name and not await self._finish_one(pair, record):
                pair.unfinished = True

    async def _finish_one(self, pair: Pair, record: decision.RunRecord) -> bool:
        """Finish or clean up one run; False where it has to be tried again."""
        try:
            async with pair.sessions() as (at_source, at_destination):
                here, there = await read_identity(at_source), await read_identity(at_destination)
                if here is None or there is None or here.run_id not in (None, record.run_id):
                    return True
                run_destination = at_source if here.uuid == record.destination_uuid else at_destination
                if not await decision.try_lock(run_destination):
                    # Its leader lives, and holds nobody up: a source that drains is no matter of this function.
                    pair.unfinished_why = f"run {record.run_id} is under way in another process"
                    return False
                outcome = await decision.abort(run_destination, record.run_id)
                problems = await self._finish_decided(pair, record, outcome, moved_on=here.uuid != record.source_uuid)
        except (ControlUnavailable, StatementFailed, ReplicationError, NotFinished) as error:
            log.warning("finish_incomplete", pair=pair.name, run=str(record.run_id), error=str(error))
            problems = [str(error)]
        pair.unfinished_why = "; ".join(problems)
        return not problems

    @staticmethod
    async def _finish_decided(
        pair: Pair, record: decision.RunRecord, outcome: decision.Outcome, *, moved_on: bool
    ) -> list[str]:
        """What could not be done, in words. `moved_on`: the run's source does not serve any more."""
        report = report_from_json(record.report) if record.report else None
        if outcome is not decision.Outcome.COMMITTED and not moved_on:
            return await clean_up_aborted(record, record.run_id, report, pair.source, pair.destination, {})
        if outcome is decision.Outcome.COMMITTED:
            # The run's destination serves now, so it is this pair's source.
            await finish_committed(record, pair.destination, pair.source, _just_do)
        # What a run made that was aborted before a later one went the same way is gone, or is that one's now.
        return await save_outcome(record.run_id, outcome, report, (pair.source, pair.destination), done=True)

    def link_token(self, database: str) -> object:
        """What was last read of a side's record; a link is good only if it still holds after the login."""
        pair = self._pair_of(database)
        return pair.last_change.get(database) if pair is not None else None

    def _pair_of(self, database: str) -> Pair | None:
        return next((p for p in self._pairs.values() if database in (p.source_name, p.destination_name)), None)

    async def check_link(self, database: str, token: object) -> bool:
        """The check of every link (proxy/net/frontend.py): read the decision record after the link was opened.

        A backend that logged in while a fence was up has its read-only default for good, even where the side
        serves again by now; so the record must not have changed since before the login.
        """
        pair = self._pair_of(database)
        if pair is None:
            return True
        try:
            identity = await pair.identity_now(database)
        except ForeignIdentity as error:
            raise CannotConnectNow(str(error)) from error
        except (ControlUnavailable, StatementFailed) as error:
            raise ServerUnreachable(f'it could not be read whether "{database}" serves: {error}') from error
        change = identity.changed_at if identity is not None else NEVER_CHANGED
        pair.last_change[database] = change
        if identity is None or identity.state is ServingState.SERVING:
            return change == token
        if identity.state is ServingState.DRAINING:
            pair.unfinished = True  # where it is not a run of ours that drains it, somebody has to recover it
            return False
        if database == pair.destination_name:
            raise CannotConnectNow(
                f'database "{database}" is the other side of a move and takes no clients through the proxy',
                hint=f'Connect to "{pair.source_name}", or to the server itself to look at it.',
            )
        log.warning("moved_elsewhere", pair=pair.name, state=identity.state.value)
        pair.unfinished = True
        await self._settle(pair)
        return False

    # -- verbs -----------------------------------------------------------------------------------------------

    def pairs(self) -> Sequence[str]:
        return sorted(self._pairs)

    def _pair(self, name: str | None) -> Pair:
        if name is not None:
            pair = self._pairs.get(name)
            if pair is None:
                known = ", ".join(sorted(self._pairs)) or "none"
                raise MoveError(
                    f'there is no pair "{name}"',
                    sqlstate="42704",
                    hint=f"Configured [[cutover]] pairs: {known}.",
                )
            return pair
        if len(self._pairs) == 1:
            return next(iter(self._pairs.values()))
        if not self._pairs:
            raise MoveError("no [[cutover]] pair is configured", sqlstate="42704")
        raise MoveError(
            "several pairs are configured",
            sqlstate="42704",
            hint="Name one: " + ", ".join(sorted(self._pairs)) + ".",
        )

    async def _exclusively(self, pair: Pair, verb: str, do: Callable[[], Awaitable[T]]) -> T:
        """One verb at a time; it goes on when whoever asked is gone."""
        if pair.busy.locked():
            live = pair.live
            doing = f"{live.kind} at step {live.step}" if live is not None else "another command"
            raise MoveError(
                f'cannot {verb}: "{pair.name}" is busy with {doing}',
                sqlstate="55006",
                hint="SHOW CUTOVER; tells how far it is.",
            )

        async def alone() -> T:
            async with pair.settling:
                if pair.undecided:
                    again = "It is looked at again several times a second."
                    raise MoveError(f"cannot {verb}: {pair.undecided}", hint=again)
                try:
                    return await do()
                except ControlUnavailable as error:
                    raise MoveError(str(error), sqlstate="08006") from error
                except ReplicationError as error:
                    raise MoveError(
                        error.message, sqlstate=error.sqlstate, detail=error.detail, hint=error.hint
                    ) from error
                except StatementFailed as error:
                    raise MoveError(f"the server refused: {error}") from error
                except ForeignIdentity as error:
                    raise MoveError(str(error)) from error

        await pair.busy.acquire()  # it is free, so that nothing comes between the look at it and this
        task = asyncio.create_task(alone(), name=f"{verb}-{pair.name}")
        task.add_done_callback(lambda _task: pair.busy.release())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def check(self, pair: str | None) -> list[Finding]:
        chosen = self._pair(pair)
        try:
            async with chosen.sessions() as (source, destination):
                identity = await read_identity(source)
                return await run_pair_checks(chosen, source, destination, identity)
        except ControlUnavailable as error:
            return [
                Finding(
                    "N00",
                    Severity.BLOCK,
                    chosen.name,
                    str(error),
                    "Let the control user log in on both sides.",
                )
            ]
        except ForeignIdentity as error:
            return [Finding("N01", Severity.BLOCK, chosen.name, str(error), "Remove the copied control schema.")]

    async def replicate(self, pair: str | None, notify: Notify) -> list[StepRow]:
        chosen = self._pair(pair)
        return await self._exclusively(chosen, "replicate", lambda: replicate_pair(chosen, notify))

    async def complete(self, pair: str | None, notify: Notify) -> list[StepRow]:
        chosen = self._pair(pair)
        return await self._exclusively(chosen, "complete", lambda: complete_pair(chosen, notify))

    async def reset(self, pair: str | None, notify: Notify) -> list[StepRow]:
        chosen = self._pair(pair)
        return await self._exclusively(chosen, "reset", lambda: reset_pair(chosen, notify))

    async def cutover(self, pair: str | None, notify: Notify) -> RunReport:
        chosen = self._pair(pair)
        return await self._exclusively(chosen, "cutover", lambda: self._run(chosen, RunKind.CUTOVER, notify))

    async def revert(self, pair: str | None, notify: Notify) -> RunReport:
        chosen = self._pair(pair)
        return await self._exclusively(chosen, "revert", lambda: self._run(chosen, RunKind.REVERT, notify))

    async def _run(self, pair: Pair, kind: RunKind, notify: Notify) -> RunReport:
        verdict = await pair.look()  # another process may have made a run
        if not isinstance(verdict, recovery.Serve):
            pair.unfinished = True
            if isinstance(verdict, recovery.Resolve):
                why = f"run {verdict.run_id} is under way in another process"
            else:
                why = verdict.why
            again = "It is looked at again every second; SHOW CUTOVER; tells what is known."
            raise MoveError(f"cannot {kind.value}: {why}", hint=again)
        await self._serve(pair, verdict)
        if pair.unfinished:
            raise MoveError(
                f"cannot {kind.value}: the last run is not cleaned up yet",
                detail=pair.unfinished_why,
                hint="Both databases must be reachable; it is tried again every second.",
            )
        run = Run(pair, kind, notify, self._failpoints, self.node)
        report = await run.execute()
        await run.finish()
        config = self.control.config
        if config.general.cutover_save_config:
            notify(await self._save_config(report.source, report.destination))
        return report

    # -- what is known -----------------------------------------------------------------------------------------

    async def replication(self, pair: str | None) -> list[ReplicationRow]:
        return [row for chosen in self._chosen(pair) for row in await replication_rows(chosen)]

    async def table_copies(self, pair: str | None) -> list[TableCopyRow]:
        return [row for chosen in self._chosen(pair) for row in await table_copy_rows(chosen)]

    def _chosen(self, pair: str | None) -> list[Pair]:
        return [self._pair(pair)] if pair is not None else list(self._pairs.values())

    async def cutover_state(self, pair: str | None) -> list[CutoverStateRow]:
        return [await self._state(chosen) for chosen in self._chosen(pair)]

    async def _state(self, pair: Pair) -> CutoverStateRow:
        source, destination = pair.source, pair.destination
        live = pair.live
        phase = "running" if live is not None else await self._phase(pair)
        return CutoverStateRow(
            pair=pair.name,
            serving=f"{source.host}:{source.port}/{source.database}",
            other=f"{destination.host}:{destination.port}/{destination.database}",
            epoch=pair.epoch,
            phase=phase,
            run_id=str(live.run_id) if live else "",
            kind=live.kind if live else "",
            step=live.step if live else "",
            elapsed_ms=live.elapsed_ms if live else 0.0,
            waiting_for=live.waiting_for() if live else "",
            gate=self.control.gate_state(pair.source_name),
        )

    @staticmethod
    async def _phase(pair: Pair) -> str:
        if pair.undecided:
            return f"unknown: {pair.undecided}"
        try:
            identity = await pair.identity_now(pair.source_name)
        except (ControlUnavailable, StatementFailed, ForeignIdentity) as error:
            return f"unknown: {error}"
        if identity is None or identity.move_origin is None:
            return "idle"
        if identity.completed:
            return "completed"
        return "replicating" if identity.uuid == identity.move_origin else "moved"

    async def history(self, pair: str | None) -> list[RunReport]:
        """Runs of the pairs, oldest first, as both sides kept them."""
        found: dict[str, RunReport] = {}
        for chosen in self._chosen(pair):
            for side in (chosen.destination, chosen.source):
                try:
                    async with await connect(side, timeout_s=CONNECT_TIMEOUT_S) as session:
                        if await read_identity(session) is None:
                            continue
                        for record in await decision.runs(session):
                            if record.pair == chosen.name and record.outcome is not None:
                                found.setdefault(str(record.run_id), _report_of(record))
                                if record.report is not None:
                                    found[str(record.run_id)] = report_from_json(record.report)
                except (ControlUnavailable, StatementFailed, ForeignIdentity) as error:
                    log.warning("history_incomplete", pair=chosen.name, error=str(error))
        return sorted(found.values(), key=lambda report: report.started_at)

    async def nodes(self) -> list[NodeRow]:
        """This node; several nodes are not coordinated yet."""
        epochs = [pair.epoch for pair in self._pairs.values() if pair.epoch is not None]
        undecided = any(pair.undecided for pair in self._pairs.values())
        gates = {self.control.gate_state(pair.source_name) for pair in self._pairs.values()}
        return [
            NodeRow(
                node=self.node,
                version=self.version,
                config_hash=config_hash(self.control.config),
                config_valid=not undecided,
                epoch=max(epochs, default=None),
                gate="open" if gates <= {"open"} else "/".join(sorted(gates - {"open"})),
                heartbeat_age_ms=0.0,
                clients=self.control.client_count(),
            )
        ]


async def _just_do(_name: str, do: Callable[[], Awaitable[str]]) -> None:
    await do()


def _report_of(record: decision.RunRecord) -> RunReport:
    """A run whose daemon died before it could write its figures."""
    took = record.finished_at - record.started_at if record.finished_at is not None else None
    return RunReport(
        run_id=str(record.run_id),
        kind=RunKind(record.kind),
        source=record.pair,
        destination=str(record.intent.get("destination_name", "")),
        started_at=record.started_at,
        outcome=RunOutcome(record.outcome) if record.outcome else None,
        epoch=record.epoch,
        total_ms=took.total_seconds() * 1000.0 if took is not None else 0.0,
        error="" if record.outcome == RunOutcome.COMMITTED.value else "the daemon ended during the run",
    )


def config_hash(config: Config) -> str:
    """Twelve digits that tell two configurations apart; secrets are not part of it."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
