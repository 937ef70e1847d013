"""The comparisons that need no server: columns, keys, roles, passwords."""

from __future__ import annotations

import dataclasses
from typing import Any

from replication.preflight import ProxiedUser, Severity
from replication.preflight.keys import missing_constraints
from replication.preflight.logins import password_problems
from replication.preflight.schema_diff import compare_columns
from replication.preflight.snapshot import Column, Table, UniqueKey

BLOCK, WARN = Severity.BLOCK, Severity.WARN


def _column(name: str, **changes: Any) -> Column:
    plain = Column(name, "integer", not_null=False, default="", identity="", generated="", collation="")
    return dataclasses.replace(plain, **changes)


def _table(*columns: Column, **changes: Any) -> Table:
    empty: frozenset[Any] = frozenset()
    plain = Table("public.t", False, "", "", False, {c.name: c for c in columns}, empty, empty, empty, empty)
    return dataclasses.replace(plain, **changes)


def _severities(source: Table, destination: Table) -> list[tuple[Severity, str]]:
    return [(severity, name) for severity, name, _, _ in compare_columns(source, destination)]


def test_equal_tables_differ_in_nothing() -> None:
    table = _table(_column("a"), _column("b", not_null=True, default="1", collation="x"))
    assert _severities(table, table) == []


def test_the_order_of_columns_does_not_matter() -> None:
    assert _severities(_table(_column("a"), _column("b")), _table(_column("b"), _column("a"))) == []


def test_a_column_that_fills_itself_may_be_extra_for_applying() -> None:
    for extra in ({"default": "1"}, {"identity": "always"}, {"generated": "a + 1"}):
        wider = _table(_column("a"), _column("b", not_null=True, **extra))
        assert _severities(_table(_column("a")), wider) == []
    assert _severities(_table(_column("a")), _table(_column("a"), _column("b", not_null=True))) == [(BLOCK, "b")]


def test_one_column_can_differ_in_several_ways() -> None:
    here = _table(_column("a", not_null=True, default="1"))
    there = _table(_column("a", type="text", default="2", collation="C"))
    assert _severities(here, there) == [(WARN, "a")] * 4


def test_unique_keys_are_compared_by_what_they_keep_unique() -> None:
    ab, a = UniqueKey(("a", "b"), "", False), UniqueKey(("a",), "", False)
    partial, nulls = UniqueKey(("a",), "b > 0", False), UniqueKey(("a",), "", True)
    full = _table(unique_keys=frozenset({ab, a, partial, nulls}))
    assert list(missing_constraints(full, full)) == []
    assert list(missing_constraints(full, _table(unique_keys=frozenset({a})))) == [
        (BLOCK, "unique (a) nulls not distinct"),
        (BLOCK, "unique (a) where b > 0"),
        (BLOCK, "unique (a, b)"),
    ]


def test_only_what_keeps_wrong_rows_out_blocks() -> None:
    table = _table(exclusions=frozenset({"EXCLUDE"}), constraints=frozenset({"CHECK"}), indexes=frozenset({"INDEX"}))
    assert list(missing_constraints(table, _table())) == [
        (BLOCK, "EXCLUDE"),
        (WARN, "CHECK"),
        (WARN, "INDEX"),
    ]


_ALICE = ProxiedUser("alice", "alice", "app", "app")


def _passwords(here: tuple[str, str] | None, there: tuple[str, str] | None, **changes: Any) -> list[Severity]:
    user = dataclasses.replace(_ALICE, **changes)
    return [severity for severity, _, _ in password_problems(user, here, there)]


def test_passwords() -> None:
    scram, other = ("scram", "1"), ("scram", "2")
    assert _passwords(scram, scram) == []
    assert _passwords(scram, other) == [WARN]
    assert _passwords(scram, other, same_verifier_needed=True) == [BLOCK]
    assert _passwords(scram, ("", "")) == [BLOCK]
    assert _passwords(("", ""), scram) == []
    assert _passwords(None, scram) == []


def test_md5_is_salted_with_the_name_and_so_tells_more() -> None:
    assert _passwords(("md5", "1"), ("md5", "2")) == [BLOCK]
    assert _passwords(("md5", "1"), ("md5", "2"), destination_server_user="bob") == [WARN]
    assert _passwords(("md5", "1"), ("scram", "2")) == [WARN]
