"""admin.lexer: tokens and statements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.errors import SyntaxProblem
from admin.lexer import Kind, statements


def tokens(text: str) -> list[tuple[Kind, str]]:
    (statement,) = statements(text)
    return [(token.kind, token.value) for token in statement.tokens]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PAUSE app", [(Kind.WORD, "PAUSE"), (Kind.WORD, "app")]),
        ('PAUSE "My ""App"""', [(Kind.WORD, "PAUSE"), (Kind.QUOTED, 'My "App"')]),
        ("PAUSE 'it''s'", [(Kind.WORD, "PAUSE"), (Kind.STRING, "it's")]),
        (r"PAUSE E'a\'b\n\\'", [(Kind.WORD, "PAUSE"), (Kind.STRING, "a'b\n\\")]),
        (r"PAUSE 'a\'", [(Kind.WORD, "PAUSE"), (Kind.STRING, "a\\")]),
        ("PAUSE my-app.v2", [(Kind.WORD, "PAUSE"), (Kind.WORD, "my-app.v2")]),
        ("PAUSE größe", [(Kind.WORD, "PAUSE"), (Kind.WORD, "größe")]),
        ("PAUSE 2024db", [(Kind.WORD, "PAUSE"), (Kind.WORD, "2024db")]),
        ("PAUSE $1", [(Kind.WORD, "PAUSE"), (Kind.PARAMETER, "1")]),
        ("x=-1.5", [(Kind.WORD, "x"), (Kind.SYMBOL, "="), (Kind.SYMBOL, "-"), (Kind.NUMBER, "1.5")]),
        ("a /* x /* y */ z */ b -- c\n d", [(Kind.WORD, "a"), (Kind.WORD, "b"), (Kind.WORD, "d")]),
        ("a--b", [(Kind.WORD, "a")]),
        ("pg_catalog.version()", [(Kind.WORD, "pg_catalog.version"), (Kind.SYMBOL, "("), (Kind.SYMBOL, ")")]),
    ],
)
def test_tokens(text: str, expected: list[tuple[Kind, str]]) -> None:
    assert tokens(text) == expected


def test_statements_are_separated_and_empty_ones_left_out() -> None:
    found = statements(" ; show  help;\n-- nothing\n;PAUSE 'a;b' ;;")
    assert [statement.typed for statement in found] == ["show help", "PAUSE 'a;b'"]


def test_a_long_statement_is_shortened_where_it_is_shown() -> None:
    (statement,) = statements("SELECT " + "x, " * 100 + "y")
    assert len(statement.typed) == 60
    assert statement.typed.endswith("...")


@pytest.mark.parametrize("text", ["", "   ", ";;", "-- only", "/* only */"])
def test_nothing_to_run(text: str) -> None:
    assert statements(text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("PAUSE 'a", "unterminated quoted string"),
        (r"PAUSE E'a\'", "unterminated quoted string"),
        ('PAUSE "a', "unterminated quoted identifier"),
        ('PAUSE ""', "zero-length delimited identifier"),
        ("PAUSE /* a /* b */", "unterminated /* comment"),
        ("PAUSE $0", "there is no parameter $0"),
        ("PAUSE $70000", "there is no parameter $70000"),
        ("PAUSE $" + "9" * 5000, "there is no parameter $"),
    ],
)
def test_what_does_not_end_or_cannot_be(text: str, problem: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        statements(text)
    assert caught.value.message.startswith(problem)
    assert len(caught.value.message) < 100


def test_parameters_are_counted_by_their_largest() -> None:
    (statement,) = statements("SET $3 = $1")
    assert statement.parameter_count == 3


@given(st.text(alphabet=st.sampled_from("aZ0_'\"\\-/*$;.,=() \n\tEeü"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = statements(text)
    except SyntaxProblem:
        return
    for statement in found:
        assert statement.tokens
        for token in statement.tokens:
            assert 0 <= token.start < token.end <= len(text)
