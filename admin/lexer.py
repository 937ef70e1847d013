"""Text of a query to tokens, and tokens to statements. Pure.

PostgreSQL's lexical rules (https://www.postgresql.org/docs/current/sql-syntax-lexical.html) with two
differences: unquoted names keep their case, and may hold `-` and `.` between letters or digits, because names
of databases do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .errors import SyntaxProblem


class Kind(Enum):
    WORD = "word"  # unquoted: a keyword or a name
    QUOTED = "quoted"  # "a name"
    STRING = "string"  # 'a value'
    NUMBER = "number"
    PARAMETER = "parameter"  # $1; its value is the number
    SYMBOL = "symbol"


@dataclass(frozen=True, slots=True)
class Token:
    """`value` is what it stands for, without quotes; `start` and `end` are its place in the text."""

    kind: Kind
    value: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords; they are given in upper case."""
        return self.kind is Kind.WORD and self.value.upper() in words

    def is_symbol(self, symbol: str) -> bool:
        return self.kind is Kind.SYMBOL and self.value == symbol


@dataclass(frozen=True, slots=True)
class StatementText:
    """The tokens of one statement, never none, and what was typed."""

    tokens: tuple[Token, ...]
    typed: str

    @property
    def parameter_count(self) -> int:
        return max((int(t.value) for t in self.tokens if t.kind is Kind.PARAMETER), default=0)


_MAX_PARAMETER: Final = 65535  # a Bind message counts them in 16 bits
_SHOWN_CHARACTERS: Final = 60
_SPACE: Final = re.compile(r"(?:[ \t\n\r\f\v]+|--[^\r\n]*)+")
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_NAME_CHARACTER: Final = r"[A-Za-z0-9_\u0080-\U0010ffff]"
_WORD: Final = re.compile(rf"{_NAME_CHARACTER}(?:{_NAME_CHARACTER}|[$]|[.-](?={_NAME_CHARACTER}))*")
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_PARAMETER: Final = re.compile(r"\$([0-9]+)")
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')
_STRING: Final = re.compile(r"'((?:[^']|'')*)'")
_ESCAPE_STRING: Final = re.compile(r"[eE]'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def statements(text: str) -> list[StatementText]:
    """The statements in `text`, which `;` separates; empty ones are left out.

    Raises SyntaxProblem for a quote or comment that does not end.
    """
    found: list[StatementText] = []
    current: list[Token] = []
    for token in [*_tokens(text), None]:
        if token is not None and not token.is_symbol(";"):
            current.append(token)
        elif current:
            found.append(StatementText(tuple(current), _shown(text[current[0].start : current[-1].end])))
            current = []
    return found


def _shown(typed: str) -> str:
    one_line = " ".join(typed.split())
    return one_line if len(one_line) <= _SHOWN_CHARACTERS else one_line[: _SHOWN_CHARACTERS - 3] + "..."


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    position = _skip(text, 0)
    while position < len(text):
        token = _token(text, position)
        tokens.append(token)
        position = _skip(text, token.end)
    return tokens


def _skip(text: str, position: int) -> int:
    """Past white space and comments; block comments nest."""
    while True:
        if match := _SPACE.match(text, position):
            position = match.end()
        elif text.startswith("/*", position):
            position = _comment_end(text, position)
        else:
            return position


def _comment_end(text: str, position: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, position):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    raise SyntaxProblem("unterminated /* comment")


def _token(text: str, at: int) -> Token:
    first = text[at]
    if first == '"':
        match = _terminated(_QUOTED.match(text, at), "unterminated quoted identifier")
        if not match[1]:
            raise SyntaxProblem("zero-length delimited identifier")
        return Token(Kind.QUOTED, match[1].replace('""', '"'), at, match.end())
    if first == "'":
        match = _terminated(_STRING.match(text, at), "unterminated quoted string")
        return Token(Kind.STRING, match[1].replace("''", "'"), at, match.end())
    if first in "eE" and text.startswith("'", at + 1):
        match = _terminated(_ESCAPE_STRING.match(text, at), "unterminated quoted string")
        return Token(Kind.STRING, _unescaped(match[1]), at, match.end())
    if parameter := _PARAMETER.match(text, at):
        return _parameter(parameter)
    if word := _WORD.match(text, at):
        kind = Kind.NUMBER if _NUMBER.fullmatch(word[0]) else Kind.WORD
        return Token(kind, word[0], at, word.end())
    return Token(Kind.SYMBOL, first, at, at + 1)


def _parameter(match: re.Match[str]) -> Token:
    # The length first: a number of thousands of digits is costly to read.
    if len(match[1]) > 5 or not 1 <= int(match[1]) <= _MAX_PARAMETER:
        raise SyntaxProblem(f"there is no parameter {match[0][:10]}")
    return Token(Kind.PARAMETER, match[1], match.start(), match.end())


def _terminated(match: re.Match[str] | None, problem: str) -> re.Match[str]:
    if match is None:
        raise SyntaxProblem(problem)
    return match


def _unescaped(body: str) -> str:
    """The C-style escapes that stand for one character; any other escaped character is itself."""
    return re.sub(
        r"\\(.)|''",
        lambda match: "'" if match[1] is None else _ESCAPES.get(match[1], match[1]),
        body,
        flags=re.DOTALL,
    )
