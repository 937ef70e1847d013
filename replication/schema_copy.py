"""Bring the source's schema to the destination: base and keys before the data, the rest after it.

Theory of operation. The record `schema copy` on the destination holds the stage; every stage is written
before the work it names begins, so after a crash the record says the most that can have happened:

    base    base and keys are being made            a new attempt removes what is there and starts again
    data    base and keys are complete              nothing to do before the data
    rest    the rest is being made                  a new attempt makes what is not there yet
    done    all of it is there

Next to it stand the names of what the copy makes (`objects`: RESET removes those and nothing else), the
archive itself (`archive`: the rest comes from the same dump as the base, whatever happens to the source in
between) and the rights on built-in objects as they were (`rights`). A destination that already has tables
is used as it is if it fits: mode `existing`, and RESET leaves its schema alone.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import structlog

from . import builtin_rights, schema_archive
from .errors import SchemaRefused, ToolFailed, listed
from .inventory import ObjectKey, inventory, tables_of
from .publications import publishable_tables
from .registry import Kind, find, forget, record
from .schema_archive import Contents, TocEntry
from .schema_fit import differences, read_shape
from .schema_prerequisites import missing_prerequisites
from .schema_remove import remove_objects
from .schema_rest import missing_rest, rest_names
from .session import ControlSession
from .tools import Tools

log = structlog.get_logger(__name__)

Notify = Callable[[str], None]

COPIED = "copied"
EXISTING = "existing"

_COPY, _OBJECTS, _ARCHIVE, _RIGHTS, _REST = "copy", "objects", "archive", "rights", "rest"
_APPLICATION = "pgcutover schema restore"
# The rest is made while changes are applied; whichever of the two PostgreSQL picks as the victim of a
# deadlock, trying again is the answer. The apply worker does so by itself.
_DEADLOCK_ATTEMPTS = 5
_GONE_DEADLINE_S = 30.0


async def ensure_base(source: ControlSession, destination: ControlSession, tools: Tools, notify: Notify) -> str:
    """Have tables and keys on the destination; returns what was done in words.

    Raises SchemaRefused before anything is made where the destination cannot take it, ToolFailed.
    """
    stage = await copy_stage(destination)
    if stage in ("data", "rest", "done"):
        return "made by an earlier attempt"
    if stage == "base":
        notify("removing the schema of an attempt that did not finish")
        await remove_schema(destination)
    here, there = await inventory(source), await inventory(destination)
    if tables_of(there):
        await refuse_misfit(source, destination)
        await record(destination, Kind.SCHEMA, _COPY, {"mode": EXISTING, "stage": "done"})
        return "the schema that the destination has already fits"
    await _refuse_obstacles(source, destination, here.keys(), there.keys())
    with tempfile.TemporaryDirectory(prefix="pgcutover-") as folder:
        path = Path(folder) / "schema.dump"
        notify(f"reading the schema of {source.endpoint.name}")
        await schema_archive.dump_schema(source.endpoint, tools, path)
        contents = await schema_archive.read_contents(source, tools, path)
        names = await rest_names(source, contents.rest)
        if set(await inventory(source)) != set(here):
            raise SchemaRefused(
                f'the schema of "{source.endpoint.name}" changed while it was being read',
                hint="Run REPLICATE again when no DDL is under way.",
            )
        await _write_journal(destination, path, contents, names, set(here) - set(there))
        notify(f"making {len(contents.base)} objects, {len(contents.keys)} keys on {destination.endpoint.name}")
        for entries in (contents.base, contents.keys):
            await schema_archive.restore(
                destination.endpoint, tools, path, entries, jobs=1, application_name=_APPLICATION
            )
    late = {(entry.classid, entry.objid) for entry in contents.rest}
    await _refuse_incomplete(
        destination, [key for key, entry in here.items() if (entry.classid, entry.objid) not in late]
    )
    await record(destination, Kind.SCHEMA, _COPY, {"mode": COPIED, "stage": "data"})
    return f"{len(contents.base)} objects and {len(contents.keys)} keys made"


async def ensure_rest(destination: ControlSession, tools: Tools, jobs: int, notify: Notify) -> str:
    """Make indexes, foreign keys, triggers and all else after the data, `jobs` at a time.

    Raises ToolFailed; what is done by then is kept, and the next call makes what is missing.
    """
    stage = await copy_stage(destination)
    if stage == "done":
        return "nothing left to do"
    entries = await _journaled_rest(destination)
    again = stage == "rest"
    with tempfile.TemporaryDirectory(prefix="pgcutover-") as folder:
        path = Path(folder) / "schema.dump"
        path.write_bytes(await _journaled_archive(destination))
        for attempt in range(1, _DEADLOCK_ATTEMPTS + 1):
            todo = entries
            if again:
                await end_restores(destination)
                todo = await missing_rest(destination, entries)
            await record(destination, Kind.SCHEMA, _COPY, {"mode": COPIED, "stage": "rest"})
            notify(f"making {len(todo)} indexes, constraints, triggers and rights, {jobs} at a time")
            try:
                await schema_archive.restore(
                    destination.endpoint, tools, path, [entry for entry, _ in todo],
                    jobs=jobs, application_name=_APPLICATION, again=again,
                )  # fmt: skip
                break
            except ToolFailed as error:
                if "deadlock detected" not in error.detail or attempt == _DEADLOCK_ATTEMPTS:
                    raise
                log.info("replication.restore_deadlock", database=destination.endpoint.name, attempt=attempt)
                again = True
    left = await missing_rest(destination, entries, only_listed=True)
    if left:
        raise ToolFailed(
            f'not everything was made on "{destination.endpoint.name}"',
            detail=listed([entry.text for entry, _ in left]),
            hint="Run REPLICATE again.",
        )
    await _refuse_incomplete(destination, await _made_by_us(destination))
    await record(destination, Kind.SCHEMA, _COPY, {"mode": COPIED, "stage": "done"})
    await forget(destination, Kind.SCHEMA, _ARCHIVE)
    await forget(destination, Kind.SCHEMA, _REST)
    return f"{len(entries)} objects made"


async def remove_schema(destination: ControlSession) -> int:
    """Undo a schema copy, finished or not; returns how many objects were removed. Can be repeated.

    Raises SchemaInTheWay where somebody else's objects depend on it; then nothing is removed.
    """
    await end_restores(destination)
    removed = await remove_objects(destination, await _made_by_us(destination))
    rights = await find(destination, Kind.SCHEMA, _RIGHTS)
    if rights is not None:
        await builtin_rights.restore_builtin_rights(destination, rights.detail["rights"])
    for name in (_ARCHIVE, _REST, _RIGHTS, _OBJECTS, _COPY):
        await forget(destination, Kind.SCHEMA, name)
    return removed


async def copy_stage(destination: ControlSession) -> str | None:
    entry = await find(destination, Kind.SCHEMA, _COPY)
    return str(entry.detail["stage"]) if entry is not None else None


async def copy_mode(destination: ControlSession) -> str | None:
    """COPIED or EXISTING; None before either was decided."""
    entry = await find(destination, Kind.SCHEMA, _COPY)
    return str(entry.detail["mode"]) if entry is not None else None


async def refuse_misfit(
    source: ControlSession, destination: ControlSession, *, only: Collection[Any] | None = None
) -> None:
    """Raise SchemaRefused with every difference that keeps rows of the source from being applied there.

    `only` limits the comparison to some tables; else all that can be published count.
    """
    tables = await publishable_tables(source, leaves_only=True)
    found = differences(
        await read_shape(source),
        await read_shape(destination),
        [table for table in tables if only is None or table in only],
    )
    if found:
        raise SchemaRefused(
            f'the schema on "{destination.endpoint.name}" does not take the rows of "{source.endpoint.name}"',
            detail=listed(found, 20),
            hint="Change it there, or drop all of it and let REPLICATE copy the source's schema.",
        )


async def end_restores(destination: ControlSession) -> None:
    """End the server's side of a pg_restore that nobody waits for any more, and wait until it is gone."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _GONE_DEADLINE_S
    while await destination.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = $1",
        _APPLICATION,
    ):
        if loop.time() >= deadline:
            raise ToolFailed(
                f'an earlier schema restore on "{destination.endpoint.name}" does not end',
                hint=f"Terminate the backends with application_name '{_APPLICATION}' there.",
            )
        await asyncio.sleep(0.1)


async def _refuse_obstacles(
    source: ControlSession,
    destination: ControlSession,
    here: Collection[ObjectKey],
    there: Collection[ObjectKey],
) -> None:
    name = destination.endpoint.name
    if destination.major < source.major:
        raise SchemaRefused(
            f'"{name}" is of an older version ({destination.major}) than the source ({source.major}): '
            "a newer version's schema cannot be copied there",
            hint="Make the schema there yourself; REPLICATE uses it if it fits.",
        )
    same = sorted(key for key in set(here) & set(there) if key.type != "extension")
    if same:
        raise SchemaRefused(
            f'"{name}" already has objects of these names, but no tables',
            detail=listed([str(key) for key in same]),
            hint="Drop them there, or make the whole schema there yourself.",
        )
    missing = await missing_prerequisites(source, destination)
    if missing:
        raise SchemaRefused(f'"{name}" lacks what the schema needs', detail="; ".join(missing), hint="Add these first.")


async def _refuse_incomplete(destination: ControlSession, wanted: Collection[ObjectKey]) -> None:
    there = await inventory(destination)
    left = [str(key) for key in sorted(wanted) if key not in there]
    if left:
        raise ToolFailed(
            f'the schema on "{destination.endpoint.name}" is incomplete, although pg_restore saw no error',
            detail=listed(left),
            hint="RESET, then REPLICATE again.",
        )


async def _write_journal(
    destination: ControlSession,
    path: Path,
    contents: Contents,
    names: dict[int, list[Any]],
    made: Collection[ObjectKey],
) -> None:
    archive = await asyncio.to_thread(path.read_bytes)
    rights = builtin_rights.as_json(await builtin_rights.builtin_rights(destination))
    rest = [[entry.number, entry.classid, entry.objid, entry.text, names.get(entry.number)] for entry in contents.rest]
    await record(destination, Kind.SCHEMA, _OBJECTS, {"objects": [key.as_json() for key in sorted(made)]})
    await record(destination, Kind.SCHEMA, _ARCHIVE, {"archive": base64.b64encode(archive).decode()})
    await record(destination, Kind.SCHEMA, _RIGHTS, {"rights": rights})
    await record(destination, Kind.SCHEMA, _REST, {"rest": rest})
    await record(destination, Kind.SCHEMA, _COPY, {"mode": COPIED, "stage": "base"})


async def _made_by_us(destination: ControlSession) -> list[ObjectKey]:
    entry = await find(destination, Kind.SCHEMA, _OBJECTS)
    return [ObjectKey.from_json(value) for value in entry.detail["objects"]] if entry is not None else []


async def _journaled_rest(destination: ControlSession) -> list[tuple[TocEntry, list[Any] | None]]:
    entry = await find(destination, Kind.SCHEMA, _REST)
    if entry is None:
        raise AssertionError("the list of the rest is written before the stage that needs it")
    return [
        (TocEntry(number, classid, objid, text), name) for number, classid, objid, text, name in entry.detail["rest"]
    ]


async def _journaled_archive(destination: ControlSession) -> bytes:
    entry = await find(destination, Kind.SCHEMA, _ARCHIVE)
    if entry is None:
        raise AssertionError("the archive is written before the stage that needs it")
    return base64.b64decode(entry.detail["archive"])
