"""Whether what a client sends may change session state that a swap has to carry over.

Two sources. The tag of CommandComplete tells SET, LISTEN, PREPARE, CREATE TABLE and the like. A SELECT can do
the same through a function, and its tag says nothing; so the text of each statement is searched for words that
such functions are called by, and for the names of the database's own functions whose bodies contain those words
(`Vocabulary`, refreshed from pg_proc before a run). A session with neither need not be asked inside a pause.

A false alarm costs one question to an idle backend. A miss would lose state, so the words are few and short.

Customized options (`SET my.tenant`) are the one kind of state that the backend does not list; their names are
collected here. A name that is computed in SQL cannot be: the session is then marked as one whose options are not
known, rather than moved without them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

SUSPICIOUS_WORDS = (
    b"set_config",
    b"advisory",
    b"temp",
    b"hold",
    b"prepare",
    b"execute",
    b"listen",
    b"discard",
)
"""Lower-case fragments of statements that may leave state behind without a telling tag."""

MAX_CUSTOM_NAMES = 1000

# valid_custom_variable_name in guc.c: letters (any byte above ASCII is one), underscores, digits and dollar signs.
_PART = rb"[a-z_\x80-\xff][a-z0-9_$\x80-\xff]*"
_NAME = rb"%b(?:\.%b)+" % (_PART, _PART)
_QUOTABLE = rb'"?%b"?' % _PART
_SET_CUSTOM = re.compile(
    rb"\bset\s+(?:session\s+|local\s+)?(%b(?:\s*\.\s*%b)+)\s*(?:=|\bto\b)" % (_QUOTABLE, _QUOTABLE), re.IGNORECASE
)
_CURRENT_SETTING = re.compile(rb"current_setting\s*\(\s*e?'(%b)'" % _NAME, re.IGNORECASE)
_SET_CONFIG = re.compile(rb'\bset_config"?\s*\(', re.IGNORECASE)
_CAST = rb"(?:\s*::\s*(?:pg_catalog\s*\.\s*)?(?:text|varchar|name))?"
_FIRST_LITERAL = re.compile(rb"\s*e?'([^'\\]*)'%b\s*," % _CAST, re.IGNORECASE)
_FIRST_PARAMETER = re.compile(rb"\s*(?:e?'([^'\\]*)'\s*\|\|\s*)?\$(\d+)%b\s*," % _CAST, re.IGNORECASE)
_LAST_IS_TRUE = re.compile(rb",\s*(?:true|'t(?:rue)?'|'on'|'1'|'y(?:es)?')\s*(?:::\s*bool(?:ean)?\s*)?$", re.IGNORECASE)
_DEFINES_CODE = re.compile(rb"\s*create\s+(?:or\s+replace\s+)?(?:function|procedure)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OptionUse:
    """The customized options that a statement mentions.

    `parameters` are (prefix, number): the name is the prefix followed by the value of parameter `number`, from 1.
    `unknown`: it sets an option for the session whose name cannot be told from the statement and its parameters.
    """

    names: frozenset[bytes] = frozenset()
    parameters: tuple[tuple[bytes, int], ...] = ()
    unknown: bool = False


NO_OPTIONS = OptionUse()


def option_use(text: bytes, lowered: bytes) -> OptionUse:
    """`lowered` is the text in lower case, which the caller has anyway."""
    if b"set" not in lowered or (b"." not in lowered and b"set_config" not in lowered):
        return NO_OPTIONS
    names = {re.sub(rb'[\s"]', b"", name).lower() for name in _SET_CUSTOM.findall(text)}
    names.update(name.lower() for name in _CURRENT_SETTING.findall(text))
    if b"set_config" not in lowered or _DEFINES_CODE.match(text):
        return OptionUse(frozenset(names))
    parameters: list[tuple[bytes, int]] = []
    unknown = False
    for call in _SET_CONFIG.finditer(text):
        arguments = _arguments(text, call.end())
        literal, parameter = _FIRST_LITERAL.match(arguments), _FIRST_PARAMETER.match(arguments)
        if literal:
            if b"." in literal[1]:
                names.add(literal[1].lower())
        elif parameter:
            parameters.append(((parameter[1] or b"").lower(), int(parameter[2])))
        elif not _LAST_IS_TRUE.search(arguments):  # one that is local to its transaction leaves nothing behind
            unknown = True
    return OptionUse(frozenset(names), tuple(parameters), unknown)


def _arguments(text: bytes, start: int) -> bytes:
    """What stands between the parenthesis before `start` and the one that closes it."""
    depth = 1
    quoted = False
    for position in range(start, len(text)):
        byte = text[position]
        if byte == 0x27:  # a quote; a doubled one ends and begins again
            quoted = not quoted
        elif quoted:
            continue
        elif byte == 0x28:
            depth += 1
        elif byte == 0x29:
            depth -= 1
            if not depth:
                return text[start:position]
    return text[start:]


def bound_names(use: OptionUse, values: Sequence[bytes | None]) -> set[bytes]:
    """The option names among the parameter values of a Bind. Raises IndexError where a parameter is missing."""
    names: set[bytes] = set()
    for prefix, number in use.parameters:
        value = values[number - 1]
        if value is not None:
            name = prefix + value.lower()
            if b"." in name:
                names.add(name)
    return names


@dataclass(slots=True)
class Vocabulary:
    """What to look for in the statements of one database; shared by its sessions.

    `functions` are names (lower case) of functions whose bodies contain a suspicious word, directly or through
    one another, or that triggers run. `names` are customized options seen in statements, functions, policies.
    """

    functions: tuple[bytes, ...] = ()
    names: set[bytes] = field(default_factory=set)
    words: tuple[bytes, ...] = SUSPICIOUS_WORDS
    overflow: bool = False

    def learn_functions(self, functions: set[bytes]) -> None:
        self.functions = tuple(sorted(functions))
        self.words = SUSPICIOUS_WORDS + self.functions

    def learn_names(self, names: set[bytes] | frozenset[bytes]) -> None:
        for name in names:
            if len(self.names) >= MAX_CUSTOM_NAMES and name not in self.names:
                self.overflow = True
                return
            self.names.add(name)

    def suspicious(self, lowered: bytes) -> bool:
        """Whether a statement, given in lower case, may leave state behind that its tag does not tell."""
        return any(word in lowered for word in self.words)
