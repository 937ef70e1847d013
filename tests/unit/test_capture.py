"""The answer of an idle backend as a SessionState."""

from __future__ import annotations

import pytest

from proxy.session.capture import Prepared, SessionState, array_literal, state_from_rows


def test_every_kind_of_row() -> None:
    state = state_from_rows(
        [
            [b"role", b"writer", b"alice", b""],
            [b"setting", b"work_mem", b"65536", b""],
            [b"setting", b"search_path", b'"My Schema", public', b""],
            [b"custom", b"my.tenant", b"", b""],
            [b"prepared", b"p", b"SELECT $1, $2", b'25\x1fpublic."Mood"'],
            [b"prepared", b"q", b"SELECT 1", b""],
            [b"prepared_sql", b"r", b"PREPARE r AS SELECT 1", b""],
            [b"listen", b"events", b"", b""],
            [b"listen", b"more", b"", b""],
            [b"cursor", b"c", b"", b""],
            [b"temp", b"t", b"", b""],
        ]
    )
    assert state == SessionState(
        settings={b"work_mem": b"65536", b"search_path": b'"My Schema", public'},
        custom={b"my.tenant": b""},
        role=b"writer",
        session_user=b"alice",
        prepared={
            b"p": Prepared(b"SELECT $1, $2", (b"25", b'public."Mood"'), from_sql=False),
            b"q": Prepared(b"SELECT 1", (), from_sql=False),
            b"r": Prepared(b"PREPARE r AS SELECT 1", (), from_sql=True),
        },
        channels=frozenset((b"events", b"more")),
        cursors=(b"c",),
        temporary=(b"t",),
    )


def test_the_lifted_statement_timeout_is_not_taken_for_the_clients() -> None:
    rows: list[list[bytes | None]] = [
        [b"statement_timeout", b"5ms", b"0", b""],
        [b"role", b"none", b"alice", b""],
        [b"setting", b"statement_timeout", b"0", b""],
    ]
    assert state_from_rows(rows).settings == {b"statement_timeout": b"5ms"}


def test_null_is_empty() -> None:
    assert state_from_rows([[b"custom", b"my.tenant", None, None]]).custom == {b"my.tenant": b""}


def test_nothing_set() -> None:
    assert state_from_rows([[b"role", b"none", b"alice", b""]]) == SessionState(session_user=b"alice")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of session state b'moon'"):
        state_from_rows([[b"moon", b"", b"", b""]])


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (SessionState(), ""),
        (SessionState(temporary=(b"a", b"b")), "temporary objects: a, b"),
        (SessionState(cursors=(b"c",)), "WITH HOLD cursors: c"),
        (SessionState(temporary=(b"t",), cursors=(b"c",)), "temporary objects: t; WITH HOLD cursors: c"),
        (
            SessionState(temporary=tuple(b"t%d" % n for n in range(7))),
            "temporary objects: t0, t1, t2, t3, t4 and 2 more",
        ),
        (SessionState(temporary=(b"\xff",)), "temporary objects: �"),
    ],
)
def test_what_cannot_move_is_named(state: SessionState, reason: str) -> None:
    assert state.immovable == reason


def test_array_literal() -> None:
    assert array_literal([]) == b"{}"
    assert array_literal([b"b.c", b"a.b"]) == b'{"a.b","b.c"}'
    assert array_literal([b'a"b\\c,{}']) == b'{"a\\"b\\\\c,{}"}'
