"""Which statements lead from one session state to another."""

from __future__ import annotations

import pytest

from proxy.session.capture import Prepared, SessionState
from proxy.session.replay import (
    SET_CONFIG,
    UNKNOWN_ROLE,
    CannotReplay,
    CloseNamed,
    Item,
    ParseNamed,
    Run,
    items,
    quoted,
    type_names,
)

FRESH = SessionState(session_user=b"alice", role=UNKNOWN_ROLE)
ALICE = SessionState(session_user=b"alice")


def _items(have: SessionState, want: SessionState, types: dict[bytes, int] | None = None) -> list[Item]:
    return items(have, want, types or {}, b"alice")


def _sql(found: list[Item]) -> list[str]:
    """As text: the statement, or what it sets to what."""
    shown = []
    for item in found:
        if isinstance(item, ParseNamed):
            shown.append(f"parse {item.name.decode()}")
        elif isinstance(item, CloseNamed):
            shown.append(f"close {item.name.decode()}")
        elif item.sql == SET_CONFIG:
            shown.append("=".join(part.decode() for part in item.parameters))
        else:
            shown.append(item.sql.decode())
    return shown


def test_a_fresh_link_is_told_its_role() -> None:
    """ALTER ROLE ... SET role may have given it another one."""
    assert _sql(_items(FRESH, ALICE)) == ["SET ROLE NONE"]
    assert _sql(_items(FRESH, SessionState(session_user=b"alice", role=b"writer"))) == ['SET ROLE "writer"']


def test_the_same_state_needs_nothing() -> None:
    state = SessionState(
        settings={b"a": b"1", b"statement_timeout": b"5"},
        custom={b"my.x": b"1"},
        role=b"writer",
        session_user=b"alice",
        prepared={b"p": Prepared(b"SELECT 1", (), from_sql=False)},
        channels=frozenset((b"c",)),
    )
    assert _items(state, state) == []


def test_settings_are_set_and_reset_the_encoding_first() -> None:
    have = SessionState(
        settings={b"work_mem": b"1", b"TimeZone": b"UTC"}, custom={b"my.x": b"1"}, session_user=b"alice"
    )
    want = SessionState(
        settings={b"work_mem": b"2", b"client_encoding": b"LATIN1"}, custom={b"my.y": b"2"}, session_user=b"alice"
    )
    assert _sql(_items(have, want)) == [
        "client_encoding=LATIN1",
        'RESET "TimeZone"',
        "work_mem=2",
        'RESET "my"."x"',
        "my.y=2",
    ]
    assert _sql(_items(want, have))[0] == 'RESET "client_encoding"'


def test_timeouts_come_last() -> None:
    want = SessionState(
        settings={b"lock_timeout": b"1", b"statement_timeout": b"2", b"transaction_timeout": b"3", b"work_mem": b"4"},
        session_user=b"alice",
        prepared={b"p": Prepared(b"SELECT 1", (), from_sql=False)},
        channels=frozenset((b"c",)),
    )
    assert _sql(_items(ALICE, want)) == [
        "work_mem=4",
        "parse p",
        'LISTEN "c"',
        "lock_timeout=1",
        "statement_timeout=2",
        "transaction_timeout=3",
    ]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({b"statement_timeout": b"5ms"}, ["statement_timeout=0", 'LISTEN "c"', "statement_timeout=5ms"]),
        ({b"statement_timeout": b"9ms"}, ["statement_timeout=0", 'LISTEN "c"', "statement_timeout=9ms"]),
        ({}, ["statement_timeout=0", 'LISTEN "c"', 'RESET "statement_timeout"']),
    ],
)
def test_a_timeout_replayed_before_does_not_hit_what_is_replayed_now(
    after: dict[bytes, bytes], expected: list[str]
) -> None:
    have = SessionState(settings={b"statement_timeout": b"5ms"}, session_user=b"alice")
    want = SessionState(settings=after, session_user=b"alice", channels=frozenset((b"c",)))
    assert _sql(_items(have, want)) == expected


def test_roles() -> None:
    writer = SessionState(session_user=b"alice", role=b"writer")
    bob = SessionState(session_user=b"bob")
    bob_writer = SessionState(session_user=b"bob", role=b"writer")
    assert _sql(_items(ALICE, writer)) == ['SET ROLE "writer"']
    assert _sql(_items(writer, ALICE)) == ["SET ROLE NONE"]
    assert _sql(_items(ALICE, bob)) == ['SET SESSION AUTHORIZATION "bob"']
    assert _sql(_items(ALICE, bob_writer)) == ['SET SESSION AUTHORIZATION "bob"', 'SET ROLE "writer"']
    assert _sql(_items(writer, bob_writer)) == ['SET SESSION AUTHORIZATION "bob"', 'SET ROLE "writer"']
    assert _sql(_items(bob, ALICE)) == ['SET SESSION AUTHORIZATION "alice"']
    assert _sql(_items(bob_writer, bob)) == ["SET ROLE NONE"]


def test_settings_are_set_as_the_user_who_logged_in() -> None:
    """Some may be set by a superuser only; the client set them before it changed its role."""
    wanted = {b"log_statement": b"all"}
    writer = SessionState(session_user=b"alice", role=b"writer")
    assert _sql(_items(writer, SessionState(wanted, role=b"writer", session_user=b"alice"))) == [
        "SET ROLE NONE",
        "log_statement=all",
        'SET ROLE "writer"',
    ]
    bob = SessionState(session_user=b"bob", role=b"writer")
    assert _sql(_items(bob, SessionState(wanted, role=b"writer", session_user=b"bob"))) == [
        "RESET SESSION AUTHORIZATION",
        "log_statement=all",
        'SET SESSION AUTHORIZATION "bob"',
        'SET ROLE "writer"',
    ]


def test_prepared_statements() -> None:
    kept = Prepared(b"SELECT 1", (), from_sql=False)
    have = SessionState(session_user=b"alice", prepared={b"kept": kept, b"gone": kept, b"changed": kept, b"made": kept})
    want = SessionState(
        session_user=b"alice",
        prepared={
            b"kept": kept,
            b"changed": Prepared(b"SELECT $1", (b"23", b'public."Mood"'), from_sql=False),
            b"made": Prepared(b"/* by hand */ PREPARE made AS SELECT 1", (), from_sql=True),
        },
    )
    found = _items(have, want, {b'public."Mood"': 16999})
    assert _sql(found) == [
        "close changed",
        "close gone",
        "close made",
        "parse changed",
        "PREPARE made AS SELECT 1",
    ]
    assert found[3] == ParseNamed("prepared statement changed", b"changed", b"SELECT $1", (23, 16999))


def test_a_type_the_other_server_lacks() -> None:
    want = SessionState(
        session_user=b"alice", prepared={b"p": Prepared(b"SELECT $1", (b"public.mood",), from_sql=False)}
    )
    with pytest.raises(CannotReplay, match=r'prepared statement "p" has a parameter of type public\.mood'):
        _items(ALICE, want)


def test_a_prepare_that_cannot_be_told_from_its_neighbours() -> None:
    text = b"INSERT INTO t VALUES (E'\\\\'); PREPARE p AS SELECT 1"
    want = SessionState(session_user=b"alice", prepared={b"p": Prepared(text, (), from_sql=True)})
    with pytest.raises(CannotReplay, match='prepared statement "p" cannot be told from the commands around it'):
        _items(ALICE, want)


def test_channels() -> None:
    have = SessionState(session_user=b"alice", channels=frozenset((b"a", b"b")))
    want = SessionState(session_user=b"alice", channels=frozenset((b"b", b"C")))
    assert _sql(_items(have, want)) == ['LISTEN "C"', 'UNLISTEN "a"']


def test_type_names() -> None:
    state = SessionState(
        prepared={
            b"p": Prepared(b"", (b"23", b"public.mood"), from_sql=False),
            b"q": Prepared(b"", (b"a.b",), from_sql=False),
        }
    )
    assert type_names(state) == {b"public.mood", b"a.b"}


def test_quoted() -> None:
    assert quoted(b'a"b') == b'"a""b"'


def test_items_say_what_they_are() -> None:
    """Their words are what the operator reads when one fails."""
    want = SessionState({b"work_mem": b"1"}, {b"my.x": b"2"}, b"writer", b"bob", channels=frozenset((b"c",)))
    assert [item.what for item in _items(ALICE, want)] == [
        "setting work_mem",
        "setting my.x",
        "session authorization",
        "role",
        "LISTEN",
    ]
    assert _items(ALICE, want)[0] == Run("setting work_mem", SET_CONFIG, (b"work_mem", b"1"))
