"""The schema as pg_dump writes it, and its table of contents in three parts: base, keys, rest.

Base is what the initial copy needs to exist (types, functions, tables, sequences, views, rights), keys is
what applying changes needs (primary keys, unique constraints, replica identities); the rest (other indexes,
foreign keys, triggers, policies, rules, ...) is made after the copy, when it is cheapest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .endpoint import Endpoint
from .session import ControlSession
from .tools import Tools, base_environment, connection_string, environment, run

# pg_dump --verbose says what it reads; only a server that is stuck is silent for this long.
_DUMP_SILENCE_S = 600.0
_LOCK_WAIT_MS = 30_000

_ENTRY = re.compile(r"^(\d+); (\d+) (\d+) (.*)$")

_ATTACH = "INDEX ATTACH "


@dataclass(frozen=True, slots=True)
class TocEntry:
    """A line of `pg_restore --list`: the archive's number of it, the catalog and OID it had on the source."""

    number: int
    classid: int
    objid: int
    text: str


@dataclass(frozen=True, slots=True)
class KeyEntries:
    """What belongs to the keys: by catalog and OID, and the lines that attach partitions of key indexes."""

    objects: frozenset[tuple[int, int]]
    attached: frozenset[str]


@dataclass(frozen=True, slots=True)
class Contents:
    base: tuple[TocEntry, ...]
    keys: tuple[TocEntry, ...]
    rest: tuple[TocEntry, ...]


def parse_list(text: str) -> tuple[TocEntry, ...]:
    """The entries of `pg_restore --list` output, in its order; comment lines are left out."""
    found = (_ENTRY.match(line) for line in text.splitlines())
    return tuple(TocEntry(int(m[1]), int(m[2]), int(m[3]), m[4]) for m in found if m is not None)


def split_contents(pre_data: Sequence[TocEntry], post_data: Sequence[TocEntry], keys: KeyEntries) -> Contents:
    """Sort the entries that pg_dump would make after the data into keys and rest."""

    def is_key(entry: TocEntry) -> bool:
        return (entry.classid, entry.objid) in keys.objects or entry.text in keys.attached

    return Contents(
        base=tuple(pre_data),
        keys=tuple(entry for entry in post_data if is_key(entry)),
        rest=tuple(entry for entry in post_data if not is_key(entry)),
    )


async def dump_schema(source: Endpoint, tools: Tools, path: Path) -> None:
    """Write the schema of `source`, without ours, to an archive. Raises ToolFailed."""
    await run(
        tools.pg_dump,
        [
            "--schema-only",
            "--format=custom",
            "--no-publications",
            "--no-subscriptions",
            "--exclude-schema=pgcutover",
            "--no-password",
            "--verbose",
            f"--lock-wait-timeout={_LOCK_WAIT_MS}",
            f"--file={path}",
            f"--dbname={connection_string(source)}",
        ],
        environment(source, "pgcutover schema dump"),
        silence_s=_DUMP_SILENCE_S,
    )


async def read_contents(session: ControlSession, tools: Tools, path: Path) -> Contents:
    """The archive's table of contents, split; `session` is on the database that was dumped."""
    pre_data, post_data = [
        parse_list(await run(tools.pg_restore, ["--list", f"--section={section}", str(path)], base_environment()))
        for section in ("pre-data", "post-data")
    ]
    return split_contents(pre_data, post_data, await _key_entries(session))


# Primary keys and unique constraints; replica identity indexes; for tables that are identified by the whole
# row and have no primary key the indexes that the apply worker can search with instead of reading the whole
# table for each change (16+: IsIndexUsableForReplicaIdentityFull).
_KEY_INDEXES = """
WITH key_constraints AS (
    SELECT oid, conindid FROM pg_constraint WHERE contype IN ('p', 'u') AND conindid <> 0
), key_indexes AS (
    SELECT conindid AS oid FROM key_constraints
    UNION
    SELECT i.indexrelid FROM pg_index i
    JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indisreplident OR (
        t.relreplident = 'f' AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] <> 0
        AND x.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')
        AND NOT EXISTS (SELECT FROM pg_index p WHERE p.indrelid = t.oid AND p.indisprimary))
)
"""
_KEY_OBJECTS = (
    _KEY_INDEXES
    + """
SELECT 'pg_constraint'::regclass::oid::bigint AS classid, oid::bigint AS objid FROM key_constraints
UNION ALL SELECT 'pg_class'::regclass::oid::bigint, oid::bigint FROM key_indexes
"""
)
_KEY_ATTACHMENTS = (
    _KEY_INDEXES
    + """
SELECT n.nspname, c.relname, pg_get_userbyid(c.relowner) AS owner
FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE h.inhrelid IN (SELECT oid FROM key_indexes) AND h.inhparent IN (SELECT oid FROM key_indexes)
"""
)


async def _key_entries(session: ControlSession) -> KeyEntries:
    objects = await session.fetch(_KEY_OBJECTS)
    attached = await session.fetch(_KEY_ATTACHMENTS)
    return KeyEntries(
        objects=frozenset((row["classid"], row["objid"]) for row in objects),
        attached=frozenset(attach_line(row["nspname"], row["relname"], row["owner"]) for row in attached),
    )


def attach_line(schema: str, index: str, owner: str) -> str:
    """The line for ALTER INDEX ... ATTACH PARTITION, which has no catalog entry of its own.

    Line breaks in names are written as spaces (PostgreSQL: sanitize_line).
    """
    return _ATTACH + " ".join(re.sub(r"[\r\n]", " ", part) for part in (schema, index, owner))


async def restore(
    destination: Endpoint,
    tools: Tools,
    path: Path,
    entries: Sequence[TocEntry],
    *,
    jobs: int,
    application_name: str,
    again: bool = False,
) -> None:
    """Make the listed entries on `destination`; the first error ends it. Raises ToolFailed.

    With `again` what is there already is dropped first: the entries may have been made in part.
    """
    if not entries:
        return
    chosen = path.with_suffix(".list")
    chosen.write_text("".join(f"{entry.number}\n" for entry in entries), encoding="utf-8")
    arguments = [
        "--exit-on-error",
        "--no-password",
        f"--use-list={chosen}",
        f"--jobs={jobs}",
        f"--dbname={connection_string(destination)}",
    ]
    if again:
        arguments += ["--clean", "--if-exists"]
    # No deadline: an index on a large table takes its time, and says nothing until it is done.
    await run(tools.pg_restore, [*arguments, str(path)], environment(destination, application_name))
