"""Whether what a client sends may change session state that a swap has to carry over.

Two sources. The tag of CommandComplete tells SET, LISTEN, PREPARE, CREATE TABLE and the like. A SELECT can do
the same through a function, and its tag says nothing; so the text of each statement is searched for words that
such functions are called by, and for the names of the database's own functions whose bodies contain those words
(`Vocabulary`, refreshed from pg_proc before a run). A session with neither need not be asked inside a pause.

A false alarm costs one question to an idle backend. A miss would lose state, so the words are few and short.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SUSPICIOUS_WORDS = (
    b"set_config",
    b"advisory",
    b"temp",
    b"hold",
    b"prepare",
    b"listen",
    b"discard",
)
"""Lower-case fragments of statements that may leave state behind without a telling tag."""

MAX_CUSTOM_NAMES = 1000

_SET_CUSTOM = re.compile(
    rb"""\bset\s+(?:session\s+|local\s+)?"?([a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)+)"?\s*(?:=|\bto\b)""",
    re.IGNORECASE,
)
_SET_CONFIG = re.compile(rb"""set_config\s*\(\s*e?'([a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)+)'""", re.IGNORECASE)
_CURRENT_SETTING = re.compile(
    rb"""current_setting\s*\(\s*e?'([a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)+)'""", re.IGNORECASE
)
_DOTTED_PARAMETER = re.compile(rb"""[a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)+""", re.IGNORECASE)


def custom_names(text: bytes) -> set[bytes]:
    """Names of customized options (`SET my.tenant`, `set_config('my.tenant', ...)`) that a text mentions."""
    found: set[bytes] = set()
    for pattern in (_SET_CUSTOM, _SET_CONFIG, _CURRENT_SETTING):
        found.update(name.lower() for name in pattern.findall(text))
    return found


def dotted_parameters(body: bytes) -> set[bytes]:
    """What looks like a customized option's name among the parameters of a Bind message."""
    return {name.lower() for name in _DOTTED_PARAMETER.findall(body) if len(name) <= 128}


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

    def learn_names(self, names: set[bytes]) -> None:
        for name in names:
            if len(self.names) >= MAX_CUSTOM_NAMES:
                self.overflow = True
                return
            self.names.add(name)

    def suspicious(self, text: bytes) -> bool:
        lowered = text.lower()
        for word in self.words:
            if word in lowered:
                return True
        return False
