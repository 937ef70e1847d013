"""Text to statements, by way of the registry of commands. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .commands import COMMANDS
from .errors import InvalidCommand, UnknownParameter
from .lexer import Kind, StatementText, Token, statements
from .statement import Arguments, Command, Statement

_BY_WORDS: Final = {command.words: command for command in COMMANDS}
_MOST_WORDS: Final = max(len(words) for words in _BY_WORDS)
_LISTED: Final = [" ".join(command.words) for command in COMMANDS if command.listed]

_LIKENESS: Final = 0.75
"""Low enough to see CUTOVER in CUTOVR, too high to see RESET in SELECT."""


def parse_script(text: str) -> list[Statement]:
    """All statements of a simple query. Raises SyntaxProblem if any of them is wrong, so that none has run
    then.
    """
    return [parse_statement(statement, ()) for statement in statements(text)]


def parse_statement(text: StatementText, parameters: Sequence[str] | None = None) -> Statement:
    """One statement, with values for $1, $2, ... where it has any. Raises InvalidCommand, or SyntaxProblem.

    Without `parameters` they stand for themselves: good enough to know the columns.
    """
    tokens = text.tokens if parameters is None else _filled(text.tokens, parameters)
    found = _find(tokens)
    if found is None:
        raise InvalidCommand(text.typed, hint=_suggestion(tokens))
    try:
        return found.parse(Arguments(tokens[len(found.words) :], found.syntax))
    except InvalidCommand as error:
        raise InvalidCommand(text.typed, hint=error.hint or _suggestion(tokens)) from None


def _find(tokens: Sequence[Token]) -> Command | None:
    """The command with the most words that the statement begins with; keywords are never quoted."""
    words: list[str] = []
    for token in tokens[:_MOST_WORDS]:
        if token.kind is not Kind.WORD:
            break
        words.append(token.value.upper())
    for count in range(len(words), 0, -1):
        if (command := _BY_WORDS.get(tuple(words[:count]))) is not None:
            return command
    return None


def _filled(tokens: Sequence[Token], parameters: Sequence[str]) -> tuple[Token, ...]:
    filled = list(tokens)
    for at, token in enumerate(tokens):
        if token.kind is Kind.PARAMETER:
            number = int(token.value)
            if number > len(parameters):
                raise UnknownParameter(number)
            filled[at] = replace(token, kind=Kind.STRING, value=parameters[number - 1])
    return tuple(filled)


def _suggestion(tokens: Sequence[Token]) -> str | None:
    typed = " ".join(token.value.upper() for token in tokens[:2])
    close = difflib.get_close_matches(typed, _LISTED, 1, _LIKENESS) or difflib.get_close_matches(
        tokens[0].value.upper(), _LISTED, 1, _LIKENESS
    )
    return f'Did you mean "{close[0]}"?' if close else None
