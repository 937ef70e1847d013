"""Rows copied into tables that were there before, empty: remembered, so that RESET empties them."""

from __future__ import annotations

from collections.abc import Sequence

from .publications import TableName
from .registry import Kind, find, forget, record
from .session import ControlSession
from .sqltext import literal

_NAME = "tables"
_TIMEOUT_S = 600.0
_TABLES_PER_QUERY = 100

_SEQUENCES = """
SELECT format('%I.%I', schemaname, sequencename) AS name, start_value, last_value FROM pg_sequences
WHERE schemaname <> 'pgcutover'
"""


async def tables_with_rows(session: ControlSession, tables: Sequence[TableName]) -> list[str]:
    """Which of the tables, all of which exist, hold rows."""
    filled = []
    for start in range(0, len(tables), _TABLES_PER_QUERY):
        question = " UNION ALL ".join(
            f"SELECT {index}, EXISTS (SELECT FROM {table.sql})"
            for index, table in enumerate(tables[start : start + _TABLES_PER_QUERY], start)
        )
        filled += [str(tables[row[0]]) for row in await session.fetch(question) if row[1]]
    return filled


async def record_empty_tables(session: ControlSession, tables: Sequence[TableName]) -> None:
    """Call it just before the copy begins: from here on the rows in these tables are ours."""
    detail = {
        "tables": [[table.schema, table.name] for table in tables],
        "sequences": [[row["name"], row["last_value"], row["start_value"]] for row in await session.fetch(_SEQUENCES)],
    }
    await record(session, Kind.DATA, _NAME, detail)


async def forget_tables(session: ControlSession) -> None:
    await forget(session, Kind.DATA, _NAME)


async def remove_rows(session: ControlSession) -> str:
    """Empty the recorded tables and put their sequences back; returns what was done. Can be repeated."""
    entry = await find(session, Kind.DATA, _NAME)
    if entry is None:
        return "none to remove"
    there = await session.fetch(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p')"
    )
    present = {(row["nspname"], row["relname"]) for row in there}
    tables = [TableName(schema, name) for schema, name in entry.detail["tables"] if (schema, name) in present]
    if tables:
        await session.execute("TRUNCATE " + ", ".join(table.sql for table in tables), timeout_s=_TIMEOUT_S)
    for name, last_value, start_value in entry.detail["sequences"]:
        value = start_value if last_value is None else last_value
        await session.execute(
            f"SELECT setval(to_regclass({literal(name)}), {value}, {str(last_value is not None).lower()}) "
            f"WHERE to_regclass({literal(name)}) IS NOT NULL"
        )
    await forget_tables(session)
    return f"{len(tables)} tables emptied"
