"""The command line. `main` is what `pgcutover` and `python -m daemon.cli` run."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from config.load import load
from config.problems import ConfigError, Problem
from config.template import render_init

from . import output
from .verbs import add_verbs
from .version import version

app = typer.Typer(
    name="pgcutover",
    help="A PostgreSQL proxy that moves live traffic from one database to another with one command.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # Tracebacks with local variables could show passwords.
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration file.")]
UsersOption = Annotated[
    Path | None,
    typer.Option("--users", help="The users file. [default: users.toml beside the configuration]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]

DEFAULT_CONFIG = Path("pgcutover.toml")


def main() -> None:
    """Run the command line; ends the process."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pgcutover {version()}")
        raise typer.Exit(0)


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def serve(config: ConfigOption = DEFAULT_CONFIG, users: UsersOption = None) -> None:
    """Run the proxy until it is told to stop: SIGTERM, SIGINT or SHUTDOWN; SIGHUP reloads."""
    from .app import serve as serve_until_stopped

    try:
        status = serve_until_stopped(config, users_beside(config, users))
    except ConfigError as error:
        output.print_problems(error.problems)
        status = 1
    raise typer.Exit(status)


@app.command("check-config")
def check_config(config: ConfigOption = DEFAULT_CONFIG, users: UsersOption = None, json: JsonOption = False) -> None:
    """Check both files and list everything that is wrong with them. Connects to nothing."""
    users = users_beside(config, users)
    problems: tuple[Problem, ...] = ()
    summary = ""
    try:
        loaded = load(config, users)
        counts = {"database": loaded.databases, "pair": loaded.cutover, "user entry": loaded.users}
        summary = ", ".join(_counted(len(entries), word) for word, entries in counts.items())
    except ConfigError as error:
        problems = error.problems
    notes = readable_by_others([config, users])
    if json:
        found = [output.problem_json(problem) for problem in problems]
        output.print_json({"ok": not problems, "problems": found, "notes": notes})
    else:
        for note in notes:
            output.tell(f"note: {note}")
        if problems:
            output.print_problems(problems)
        else:
            print(f"{config} and {users} are fine: {summary}")
    raise typer.Exit(1 if problems else 0)


@app.command()
def init(
    directory: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    json: JsonOption = False,
) -> None:
    """Write pgcutover.toml and users.toml to start from: every key, with its description and default."""
    files = render_init(admin_password=secrets.token_urlsafe(18))
    texts = {directory / DEFAULT_CONFIG: files.config, directory / "users.toml": files.users}
    there = [str(path) for path in texts if path.exists() or path.is_symlink()]
    if there and not force:
        problem = f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} already there; --force overwrites"
    else:
        problem = _write_private(texts, "w" if force else "x")
    if json:
        output.print_json({"ok": not problem, "written": [] if problem else [str(p) for p in texts], "error": problem})
    elif problem:
        output.print_error(problem)
    else:
        print(f"wrote {' and '.join(map(str, texts))}; put in your addresses and users, then:")
        print(f"  pgcutover check-config --config {directory / DEFAULT_CONFIG}")
    raise typer.Exit(1 if problem else 0)


@app.command()
def demo(
    clients: Annotated[int, typer.Option(min=1, help="Clients that write short transactions.")] = 32,
    slow_clients: Annotated[int, typer.Option(min=0, help="Clients with long transactions.")] = 4,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures as JSON.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the latency plot as SVG.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    directory: Annotated[Path | None, typer.Option(help="Folder for servers and logs; it is kept.")] = None,
) -> None:
    """Two PostgreSQL servers, live writers, CUTOVER, REVERT, and a verdict on every write."""
    raise typer.Exit(run_the_demo(clients, slow_clients, json, svg, keep, directory))


def run_the_demo(
    clients: int, slow_clients: int, json: Path | None, svg: Path | None, keep: bool, directory: Path | None
) -> int:
    """The options of the command line as those of `daemon.demo.run`; returns the exit status."""
    try:
        from .demo.run import DemoOptions, run_demo
    except ModuleNotFoundError as error:
        output.print_error(f"the demo needs the package {error.name}", hint='Install pgcutover with its extra "demo".')
        return 1
    options = DemoOptions(
        clients=clients,
        slow_clients=slow_clients,
        json_path=json,
        svg_path=svg,
        keep=keep,
        directory=directory,
    )
    try:
        return asyncio.run(run_demo(options))
    except KeyboardInterrupt:
        return 130


def users_beside(config: Path, users: Path | None) -> Path:
    return users if users is not None else config.with_name("users.toml")


def readable_by_others(paths: list[Path]) -> list[str]:
    """Files with passwords that every user of this machine can read."""
    notes = []
    for path in paths:
        try:
            mode = path.stat().st_mode & 0o777
        except OSError:
            continue
        if mode & 0o004:
            notes.append(f"{path} can be read by every user of this machine (mode {mode:04o}); it holds passwords")
    return notes


def _write_private(texts: dict[Path, str], mode: str) -> str:
    """Write files that only their owner can read. Returns what went wrong, or nothing."""
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, mode, encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(text)
    except OSError as error:
        return f"cannot write {error.filename or ''}: {error.strerror}"
    return ""


def _counted(count: int, word: str) -> str:
    if count == 1:
        return f"1 {word}"
    return f"{count} {word[:-1]}ies" if word.endswith("y") else f"{count} {word}s"


add_verbs(app)

if __name__ == "__main__":
    main()
