"""Names and values inside SQL text, for the statements that take no parameters (DDL)."""

from __future__ import annotations


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, name: str) -> str:
    return f"{identifier(schema)}.{identifier(name)}"


def literal(text: str) -> str:
    """A string constant that means the same whatever standard_conforming_strings says."""
    quoted = text.replace("'", "''")
    if "\\" not in text:
        return f"'{quoted}'"
    return " E'" + quoted.replace("\\", "\\\\") + "'"
