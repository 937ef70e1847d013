"""What a statement says of the session state it may leave behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session.footprint import (
    MAX_CUSTOM_NAMES,
    NO_OPTIONS,
    OptionUse,
    Vocabulary,
    bound_names,
    option_use,
)


def _use(text: str) -> OptionUse:
    raw = text.encode()
    return option_use(raw, raw.lower())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SET my.tenant = 'x'", {"my.tenant"}),
        ("set my.tenant to 'x'", {"my.tenant"}),
        ("Set Session My.Tenant = 1", {"my.tenant"}),
        ("SET\n\tmy.tenant\n=1", {"my.tenant"}),
        ("SET LOCAL my.tenant TO DEFAULT", {"my.tenant"}),
        ('SET "my"."Tenant" = 1', {"my.tenant"}),
        ("SET my . tenant = 1", {"my.tenant"}),
        ("SET a.b.c = 1", {"a.b.c"}),
        ("SET größe.länge = 1", {"größe.länge"}),
        ("BEGIN; SET my.a = 1; SET my.b = 2; COMMIT", {"my.a", "my.b"}),
        ("SELECT set_config('my.tenant', $1, false)", {"my.tenant"}),
        ("SELECT pg_catalog.set_config ( 'My.Tenant'::text , 'x' , false )", {"my.tenant"}),
        ("SELECT set_config('a.b', 'x', false), set_config('c.d', 'y', true)", {"a.b", "c.d"}),
        ("SELECT current_setting('my.tenant', true)", {"my.tenant"}),
        ("SELECT set_config('search_path', 'x', false)", set()),
        ("CREATE FUNCTION f(k text) RETURNS void AS $$ SELECT set_config('my.x', k, false) $$ LANGUAGE sql", set()),
        ("SET search_path = a", set()),
        ("SELECT 1.5", set()),
        ("", set()),
    ],
)
def test_names_of_options(text: str, names: set[str]) -> None:
    use = _use(text)
    assert {name.decode() for name in use.names} == names
    assert not use.unknown
    assert use.parameters == ()


def test_most_statements_cost_no_search() -> None:
    assert _use("SELECT * FROM pgbench_accounts WHERE aid = 1") is NO_OPTIONS
    assert _use("UPDATE t SET n = n + 1 WHERE id = $1") is NO_OPTIONS


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("SELECT set_config($1, $2, false)", [("", 1)]),
        ("SELECT set_config($2::text, $1, false)", [("", 2)]),
        ("SELECT set_config('app.' || $1, $2, false)", [("app.", 1)]),
        ("SELECT set_config($1, $2, $3), set_config($4, $5, $6)", [("", 1), ("", 4)]),
    ],
)
def test_names_that_are_parameters(text: str, parameters: list[tuple[str, int]]) -> None:
    use = _use(text)
    assert [(prefix.decode(), number) for prefix, number in use.parameters] == parameters
    assert not use.unknown


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("SELECT set_config(name, value, false) FROM options", True),
        ("SELECT set_config('app.' || lower($1), $2, false)", True),
        ("SELECT set_config(format('a.%s', 'b'), 'x', false)", True),
        ("SELECT set_config('a' || chr(40), 'x)', is_local)", True),
        ("SELECT set_config(name, value, true) FROM options", False),
        ("SELECT set_config(coalesce(a, 'it''s (odd'), b, 't'::bool) FROM options", False),
        ("SELECT set_config(", True),
        ("CREATE OR REPLACE FUNCTION f(k text) AS $$ PERFORM set_config(k, 'x', false) $$", False),
        ("create procedure p(k text) as $$ begin perform set_config(k, 'x', false); end $$", False),
        ("DO $$ BEGIN PERFORM set_config('a.' || 'b', 'x', false); END $$", True),
    ],
)
def test_names_that_cannot_be_told(text: str, unknown: bool) -> None:
    assert _use(text).unknown is unknown


def test_bound_names() -> None:
    use = OptionUse(parameters=((b"", 1), (b"app.", 3)))
    assert bound_names(use, [b"My.Tenant", b"value", b"User"]) == {b"my.tenant", b"app.user"}
    assert bound_names(use, [None, b"value", None]) == set()
    assert bound_names(use, [b"timezone", b"UTC", b"x"]) == {b"app.x"}
    with pytest.raises(IndexError):
        bound_names(use, [b"a.b"])


@given(st.binary(max_size=200))
def test_any_bytes_are_looked_at(text: bytes) -> None:
    option_use(b"select set_config(" + text, (b"select set_config(" + text).lower())
    option_use(b"set a.b" + text, (b"set a.b" + text).lower())


@pytest.mark.parametrize(
    ("text", "suspicious"),
    [
        ("SELECT pg_advisory_lock(1)", True),
        ("CREATE TEMP TABLE t (a int)", True),
        ("SELECT 1 INTO TEMPORARY t", True),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", True),
        ("PREPARE p AS SELECT 1", True),
        ("EXECUTE p", True),
        ("LISTEN c", True),
        ("DISCARD ALL", True),
        ("SELECT SET_CONFIG('a', 'b', false)", True),
        ("SELECT Become('x')", True),
        ("INSERT INTO audited VALUES (1)", True),
        ("SELECT * FROM accounts", False),
        ("UPDATE accounts SET n = 1", False),
    ],
)
def test_suspicious_statements(text: str, suspicious: bool) -> None:
    vocabulary = Vocabulary()
    vocabulary.learn_functions({b"become", b"audited"})
    assert vocabulary.suspicious(text.encode().lower()) is suspicious


def test_functions_are_learned_anew() -> None:
    vocabulary = Vocabulary()
    vocabulary.learn_functions({b"old"})
    vocabulary.learn_functions({b"new"})
    assert not vocabulary.suspicious(b"select old()")
    assert vocabulary.suspicious(b"select new()")


def test_names_are_bounded() -> None:
    vocabulary = Vocabulary()
    names = {f"a.n{number}".encode() for number in range(MAX_CUSTOM_NAMES)}
    vocabulary.learn_names(names)
    assert not vocabulary.overflow
    vocabulary.learn_names(names)
    assert not vocabulary.overflow
    vocabulary.learn_names({b"a.one_more"})
    assert vocabulary.overflow
    assert len(vocabulary.names) == MAX_CUSTOM_NAMES
