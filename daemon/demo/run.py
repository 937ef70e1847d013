"""`pgcutover demo`: two servers, live traffic, REPLICATE, CUTOVER, REVERT, and a verdict on every write."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psycopg

from .binaries import BinariesMissing, NoAccount
from .embedded import EmbeddedError
from .figures import RunFigures
from .judge import judge, server_version
from .operator import CommandFailed
from .plot_svg import svg_plot
from .plot_text import text_plot
from .records import samples
from .replicate import replicate
from .report import DemoResult, runs_table, totals_table
from .screen import Screen
from .stage import DESTINATION, SERVER_DATABASE, SOURCE, Stage, StageFailed, StageOptions
from .workload import Live, Workload, WorkloadFailed, WorkloadOptions

# Clients of the traffic that goes on with --keep, well apart from those of the demo.
_KEEP_NUMBERS_FROM = 500


# What can go wrong with servers, daemon and connections; anything else is a mistake of the demo.
_EXPECTED = (
    BinariesMissing,
    NoAccount,
    EmbeddedError,
    StageFailed,
    WorkloadFailed,
    CommandFailed,
    psycopg.Error,
    asyncpg.PostgresError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The command line's choices. Paths are written only when given; a given directory is not removed."""

    clients: int = 32
    slow_clients: int = 4
    tx_per_second: float = 800.0
    before_s: float = 4.0
    between_s: float = 4.0
    after_s: float = 4.0
    json_path: Path | None = None
    svg_path: Path | None = None
    keep: bool = False
    directory: Path | None = None

    def workload(self) -> WorkloadOptions:
        return WorkloadOptions(clients=self.clients, slow_clients=self.slow_clients, tx_per_second=self.tx_per_second)


async def run_demo(options: DemoOptions) -> int:
    """Run it and print as it goes. Returns 0 only when no write was harmed and both runs committed."""
    screen = Screen()
    stage: Stage | None = None
    try:
        stage = Stage(StageOptions(connections=options.clients + options.slow_clients), options.directory)
        await stage.start(screen.line)
        result = await _perform(options, stage, screen)
        _publish(options, result, screen)
        if options.keep:
            await _keep(options, stage, screen)
    except _EXPECTED as error:
        screen.line(str(error), "bold red")
        if stage is not None and not isinstance(error, StageFailed):
            screen.line(f"end of the daemon's log:\n{stage.daemon_log()[-2000:]}")
        return 1
    finally:
        if stage is not None:
            screen.line("stopping the servers")
            await stage.stop()
    return 0 if result.ok else 1


async def _perform(options: DemoOptions, stage: Stage, screen: Screen) -> DemoResult:
    """Traffic from before the first command until after the last; then the check of both databases."""
    operator = await stage.operator(screen.notice)
    watcher = await stage.operator()
    try:
        screen.heading(f"{options.clients} clients and {options.slow_clients} slow ones start writing")
        async with Workload(stage.app, options.workload(), stage.directory) as workload:
            await replicate(operator, watcher, screen, lambda: _live_text(workload.live()))
            begin_s = time.monotonic()
            runs: list[RunFigures] = []
            await _watch(workload, screen, options.before_s)
            for command, pause_after_s in (("CUTOVER", options.between_s), ("REVERT", options.after_s)):
                screen.heading(f"{command};")
                async with screen.live(lambda: _live_text(workload.live())):
                    runs.append(await operator.run(command))
                _print_run(runs[-1], screen)
                await _watch(workload, screen, pause_after_s)
                if not runs[-1].committed:
                    break
            end_s = time.monotonic()
            screen.heading("Stopping the clients, checking every write")
            records = await workload.stop()
        assert stage.seed is not None
        all_records = [stage.seed, *records]
        judgement = await judge(stage, all_records, screen.line)
        return DemoResult(
            source_version=await server_version(stage, stage.source_server),
            destination_version=await server_version(stage, stage.destination_server),
            clients=options.clients + options.slow_clients,
            begin_s=begin_s,
            end_s=end_s,
            runs=runs,
            records=all_records,
            verdict=judgement.verdict,
            problems=judgement.problems,
        )
    finally:
        await operator.close()
        await watcher.close()


def _live_text(live: Live) -> str:
    return f"{live.transactions} transactions, {live.errors} errors, longest wait now {live.oldest_ms:.0f} ms"


async def _watch(workload: Workload, screen: Screen, seconds: float) -> None:
    async with screen.live(lambda: _live_text(workload.live())):
        await asyncio.sleep(seconds)
    screen.line(_live_text(workload.live()))


def _print_run(run: RunFigures, screen: Screen) -> None:
    if run.committed:
        screen.line(
            f"committed: pause {run.pause_ms:.1f} ms, {run.clients_held} clients held, "
            f"hold p50 {run.hold_p50_ms:.1f} ms, longest {run.hold_max_ms:.1f} ms",
            "bold green",
        )
    else:
        screen.line(f"{run.outcome}: {run.error}", "bold red")


def _publish(options: DemoOptions, result: DemoResult, screen: Screen) -> None:
    quick = samples(result.traffic, slow=False)
    screen.heading("Latency of the quick clients")
    width = min(screen.console.width, 140)
    screen.console.print(text_plot(quick, result.runs, result.begin_s, result.end_s, width=width))
    screen.console.print()
    screen.console.print(runs_table(result))
    screen.console.print(totals_table(result))
    if options.json_path is not None:
        options.json_path.write_text(json.dumps(result.as_json(), indent=2) + "\n")
    if options.svg_path is not None:
        versions = f"PostgreSQL {result.source_version} to {result.destination_version} and back"
        title = f"{versions}, {result.clients} clients"
        options.svg_path.write_text(svg_plot(quick, result.runs, result.begin_s, result.end_s, title))


async def _keep(options: DemoOptions, stage: Stage, screen: Screen) -> None:
    """Leave all of it running, with some traffic, until Ctrl-C."""
    screen.heading("Everything keeps running; Ctrl-C ends it")
    app, admin = stage.app, stage.admin
    screen.line(f"console:     psql {_uri(admin.user, admin.password, admin.port, admin.database)}")
    screen.line(f"application: psql {_uri(app.user, app.password, app.port, app.database)}")
    for name, server in zip((SOURCE, DESTINATION), stage.servers, strict=True):
        screen.line(f"{name} at first: psql '{server.dsn(SERVER_DATABASE)}'")
    screen.line(f"files:       {stage.directory}")
    screen.line("try: SHOW CUTOVER;  CUTOVER;  REVERT;  SHOW CUTOVER_HISTORY;")
    quiet = WorkloadOptions(clients=8, slow_clients=0, tx_per_second=50, numbers_from=_KEEP_NUMBERS_FROM)
    try:
        async with Workload(stage.app, quiet, stage.directory) as workload:
            async with screen.live(lambda: _live_text(workload.live())):
                await asyncio.Event().wait()
    except asyncio.CancelledError:
        # asyncio turns Ctrl-C into the cancellation of the main task; this is the end that was asked for.
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()


def _uri(user: str, password: str | None, port: int, database: str) -> str:
    return f"'postgresql://{user}:{password or ''}@127.0.0.1:{port}/{database}?sslmode=disable'"
