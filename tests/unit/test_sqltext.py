"""One PREPARE out of a query string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session.sqltext import prepare_command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("PREPARE p AS SELECT 1", "PREPARE p AS SELECT 1"),
        ("  prepare P as select 1;", "prepare P as select 1"),
        ("/* a; /* b */ c */ -- d;\n PREPARE p AS SELECT 1 -- e; f", "PREPARE p AS SELECT 1 -- e; f"),
        ("INSERT INTO t VALUES (1); PREPARE p AS SELECT 1; INSERT INTO t VALUES (2)", "PREPARE p AS SELECT 1"),
        ("PREPARE q AS SELECT 1; PREPARE p(int) AS SELECT $1; PREPARE r AS SELECT 2", "PREPARE p(int) AS SELECT $1"),
        ("SELECT ';PREPARE p AS SELECT 9'; PREPARE p AS SELECT ';''--'", "PREPARE p AS SELECT ';''--'"),
        ('SELECT 1 AS "; PREPARE p AS SELECT 9"; PREPARE p AS SELECT 1', "PREPARE p AS SELECT 1"),
        ("DO $x$ BEGIN; PREPARE p AS SELECT 9; $x$; PREPARE p AS SELECT $$;$$", "PREPARE p AS SELECT $$;$$"),
        ("SELECT a$b$c; PREPARE p AS SELECT $1::int", "PREPARE p AS SELECT $1::int"),
        ('PREPARE "p" AS SELECT 1', 'PREPARE "p" AS SELECT 1'),
        (r"PREPARE p AS SELECT E'\''", r"PREPARE p AS SELECT E'\''"),
    ],
)
def test_found(text: str, command: str) -> None:
    assert prepare_command(text.encode(), b"p") == command.encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT 1",
        "PREPARE q AS SELECT 1",
        'PREPARE "P" AS SELECT 1',
        "PREPARE p AS SELECT 1; DEALLOCATE p; PREPARE p AS SELECT 2",
        "SELECT 'PREPARE p AS SELECT 1'",
        "/* PREPARE p AS SELECT 1",
        "SELECT '; PREPARE p AS SELECT 1",
        'SELECT "; PREPARE p AS SELECT 1',
        "DO $$; PREPARE p AS SELECT 1",
        r"SELECT E'\';'; PREPARE p AS SELECT 1",
        "EXPLAIN PREPARE p AS SELECT 1",
    ],
)
def test_not_certain(text: str) -> None:
    assert prepare_command(text.encode(), b"p") is None


def test_names() -> None:
    assert prepare_command(b'PREPARE "a""b" AS SELECT 1', b'a"b') is not None
    assert prepare_command("PREPARE größe AS SELECT 1".encode(), "größe".encode()) is not None
    assert prepare_command(b"PREPARE Abc AS SELECT 1", b"abc") is not None


@given(st.text("pP;'\"$/*- \nax", max_size=60))
def test_any_text(noise: str) -> None:
    """Whatever stands before it: the command itself or nothing."""
    found = prepare_command(f"{noise};PREPARE p AS SELECT 1".encode(), b"p")
    assert found in (None, b"PREPARE p AS SELECT 1")
