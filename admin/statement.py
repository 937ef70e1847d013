"""What a parsed command is, what it may use while it runs, and how commands describe themselves to the
parser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from .errors import SyntaxProblem
from .lexer import Kind, Token
from .result import Columns, Rows
from .services import ConsoleServices
from .session import ConsoleSession


class Tell(Protocol):
    def __call__(self, text: str, *, severity: str = "NOTICE", sqlstate: str = "00000") -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a statement runs with. `tell` sends a line to the operator at once, while the statement runs."""

    services: ConsoleServices
    session: ConsoleSession
    tell: Tell


class Statement(ABC):
    """One command with its arguments.

    `described()` is known before it runs: `columns`, unless they depend on the arguments. None where it
    returns no rows, and then `execute` returns none. `changes`: it has an effect that a ROLLBACK will not
    undo. `goes_on`: a cancel request or a lost connection only ends the watching (see background.py).
    """

    tag: ClassVar[str]
    columns: ClassVar[Columns | None] = None
    changes: ClassVar[bool] = False
    goes_on: ClassVar[bool] = False

    @abstractmethod
    async def execute(self, context: Context) -> Rows: ...

    def described(self) -> Columns | None:
        return self.columns

    def completion(self, row_count: int) -> str:
        """The CommandComplete tag."""
        return self.tag


class Arguments:
    """What follows the words of a command. Every method that finds something else raises SyntaxProblem."""

    def __init__(self, tokens: Sequence[Token], syntax: str) -> None:
        self._tokens = tokens
        self._syntax = syntax
        self._at = 0

    @property
    def _next(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    @property
    def left(self) -> bool:
        return self._next is not None

    def keyword(self, *words: str) -> str | None:
        """The next word in upper case if it is one of these; else None, and it stays."""
        token = self._next
        if token is None or not token.is_word(*words):
            return None
        self._at += 1
        return token.value.upper()

    def symbol(self, symbol: str) -> bool:
        token = self._next
        if token is None or not token.is_symbol(symbol):
            return False
        self._at += 1
        return True

    def take(self, *kinds: Kind) -> Token | None:
        """The next token if it is of one of these kinds."""
        token = self._next
        if token is None or token.kind not in kinds:
            return None
        self._at += 1
        return token

    def optional_name(self) -> str | None:
        """A name, quoted or not, or the same as a string or a parameter."""
        token = self.take(Kind.WORD, Kind.QUOTED, Kind.STRING, Kind.NUMBER, Kind.PARAMETER)
        return token.value if token is not None else None

    def name(self) -> str:
        found = self.optional_name()
        if found is None:
            raise self.problem()
        return found

    def value(self) -> str:
        """A value of SET; a sign may stand before a number."""
        sign = "-" if self.symbol("-") else ""
        token = self.take(Kind.NUMBER) if sign or self.symbol("+") else None
        if sign and token is None:
            raise self.problem()
        return sign + (token.value if token is not None else self.name())

    def skip(self) -> None:
        """Past whatever is left."""
        self._at = len(self._tokens)

    def end(self) -> None:
        if self.left:
            raise self.problem()

    def problem(self) -> SyntaxProblem:
        token = self._next
        where = f'syntax error at or near "{token.value}"' if token is not None else "syntax error at end of input"
        return SyntaxProblem(where, hint=f"Syntax: {self._syntax}")


@dataclass(frozen=True, slots=True)
class Command:
    """One entry of the registry. `listed` ones are shown by SHOW HELP; the others are habits of drivers."""

    words: tuple[str, ...]
    syntax: str
    summary: str
    parse: Callable[[Arguments], Statement]
    listed: bool = True


def command(syntax: str, summary: str, parse: Callable[[Arguments], Statement], *, words: str = "") -> Command:
    """A command for SHOW HELP. Its words are those in upper case that `syntax` begins with, unless given."""
    if not words:
        leading = []
        for word in syntax.split():
            if not (word.isidentifier() and word.isupper()):
                break
            leading.append(word)
        words = " ".join(leading)
    return Command(tuple(words.split()), syntax, summary, parse)


def habit(words: str, parse: Callable[[Arguments], Statement]) -> Command:
    """Something drivers send by themselves; not listed."""
    return Command(tuple(words.split()), words, "", parse, listed=False)


def without_arguments(statement: Callable[[], Statement]) -> Callable[[Arguments], Statement]:
    def parse(arguments: Arguments) -> Statement:
        arguments.end()
        return statement()

    return parse


def with_optional_name(statement: Callable[[str | None], Statement]) -> Callable[[Arguments], Statement]:
    def parse(arguments: Arguments) -> Statement:
        name = arguments.optional_name()
        arguments.end()
        return statement(name)

    return parse


def with_name(statement: Callable[[str], Statement]) -> Callable[[Arguments], Statement]:
    def parse(arguments: Arguments) -> Statement:
        name = arguments.name()
        arguments.end()
        return statement(name)

    return parse
