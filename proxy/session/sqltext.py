"""One PREPARE out of a query string that may hold several commands.

PostgreSQL keeps for each prepared statement the whole string it came in. Running that again would run its
neighbours again, so the string is cut at its semicolons and the one command that makes the statement is taken.
Where that is not certain the answer is None; and whatever this file makes of a text, the server is given it
through Parse, which refuses a text of more than one command.
"""

from __future__ import annotations

import re

_LETTER = rb"[a-z_\x80-\xff]"
_TOKEN = re.compile(
    rb"""(?P<blank>\s+|--[^\n]*)|(?P<comment>/\*)|(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")"""
    rb"""|(?P<tag>\$(?:%b[a-z0-9_\x80-\xff]*)?\$)|(?P<end>;)|(?P<word>[a-z0-9_$\x80-\xff]+)|(?P<other>[^'"])"""
    % _LETTER,
    re.IGNORECASE | re.DOTALL,
)
_PREPARE = re.compile(rb'prepare\s+(?:"((?:[^"]|"")+)"|(%b[a-z0-9_$\x80-\xff]*))' % _LETTER, re.IGNORECASE)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")


def prepare_command(text: bytes, name: bytes) -> bytes | None:
    """The command in `text` that is PREPARE of `name`; None where there is not exactly one."""
    if b"\\" in text:  # what a backslash means in a string depends on settings
        return text if _prepares(text) == name else None
    found = [command for command in _commands(text) if _prepares(command) == name]
    return found[0] if len(found) == 1 else None


def _prepares(command: bytes) -> bytes | None:
    match = _PREPARE.match(command)
    if match is None:
        return None
    return match[1].replace(b'""', b'"') if match[1] is not None else match[2].lower()


def _commands(text: bytes) -> list[bytes]:
    """The commands, without blanks and comments before them; none for a text that ends inside something."""
    commands: list[bytes] = []
    position, begin = 0, -1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return []  # a quote without its partner
        start, position = position, match.end()
        if match["comment"]:
            position = _comment_end(text, position)
        elif match["tag"]:
            position = text.find(match["tag"], position) + len(match["tag"])
            if position <= start + len(match["tag"]):
                return []
        if position < 0:
            return []
        if match["end"]:
            if begin >= 0:
                commands.append(text[begin:start])
            begin = -1
        elif begin < 0 and not match["blank"] and not match["comment"]:
            begin = start
    if begin >= 0:
        commands.append(text[begin:])
    return commands


def _comment_end(text: bytes, position: int) -> int:
    """Behind the comment that began just before `position`; they nest. -1 where it does not end."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, position):
        depth += 1 if edge[0] == b"/*" else -1
        if not depth:
            return edge.end()
    return -1
