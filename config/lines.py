"""Where each key of a TOML text stands: its line, and the exact stretch of text of key and value.

`tomllib` gives the values and forgets the places. This walks over a text that `tomllib` has accepted, so it
does not check anything: it only finds where keys and values begin and end (TOML 1.0).
"""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
Span = tuple[int, int]

_BLANK = " \t\r\n"
_SCALAR_END = ",]}#\r\n"


@dataclass(frozen=True, slots=True)
class Place:
    """`key` and `value` are offsets into the text; `inline` where it is inside `{ }` or `[ ]`."""

    line: int
    key: Span
    value: Span
    inline: bool = False


class LineIndex:
    """The places of all tables, array elements and keys of one text, by their path."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._line_starts = [0] + [offset + 1 for offset, char in enumerate(text) if char == "\n"]
        self._places: dict[Path, Place] = {}
        _Scanner(self).document()

    def place(self, path: Path) -> Place | None:
        return self._places.get(path)

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest thing around it that is written; 1 for nothing."""
        while path:
            place = self._places.get(path)
            if place is not None:
                return place.line
            path = path[:-1]
        return 1

    def line_at(self, offset: int) -> int:
        return bisect_right(self._line_starts, offset)

    def add(self, path: Path, key: Span, value: Span, *, inline: bool = False) -> None:
        self._places[path] = Place(self.line_at(key[0]), key, value, inline)

    def add_if_new(self, paths: Iterable[Path], key: Span) -> None:
        """Tables that only a dotted key or a longer header mentions stand where they are mentioned first."""
        for path in paths:
            if path not in self._places:
                self.add(path, key, key)


class _Scanner:
    def __init__(self, index: LineIndex) -> None:
        self._index = index
        self._text = index.text
        self._at = 0
        self._array_sizes: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._skip_blank():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table, inline=False)

    def _header(self) -> Path:
        start = self._at
        brackets = 2 if self._text.startswith("[[", start) else 1
        self._at += brackets
        names = self._key()
        self._skip_spaces()
        self._at += brackets
        span = (start, self._at)
        path: Path = ()
        for name in names[:-1]:
            path = self._newest((*path, name))
        self._index.add_if_new((path[: n + 1] for n in range(len(path))), span)
        path = (*path, names[-1])
        if brackets == 2:
            self._index.add_if_new([path], span)
            self._array_sizes[path] = self._array_sizes.get(path, 0) + 1
            path = self._newest(path)
        self._index.add(path, span, span)
        return path

    def _newest(self, path: Path) -> Path:
        """A header below an array of tables means the array's latest element."""
        size = self._array_sizes.get(path)
        return path if size is None else (*path, size - 1)

    def _pair(self, table: Path, *, inline: bool) -> None:
        start = self._at
        names = self._key()
        key = (start, self._at)
        self._skip_spaces()
        self._at += 1  # the equals sign
        self._skip_spaces()
        self._index.add_if_new(((*table, *names[:n]) for n in range(1, len(names))), key)
        path = (*table, *names)
        value = self._value(path)
        self._index.add(path, key, value, inline=inline)

    def _key(self) -> list[str]:
        names = []
        while True:
            self._skip_spaces()
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                names.append(str(tomllib.loads(f"k = {self._text[start : self._at]}")["k"]))
            else:
                while self._text[self._at].isalnum() or self._text[self._at] in "_-":
                    self._at += 1
                names.append(self._text[start : self._at])
            end = self._at
            self._skip_spaces()
            if self._text[self._at] != ".":
                self._at = end
                return names
            self._at += 1

    def _value(self, path: Path) -> Span:
        start = self._at
        match self._text[start]:
            case '"' | "'":
                self._string()
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                while self._at < len(self._text) and self._text[self._at] not in _SCALAR_END:
                    self._at += 1
                return start, start + len(self._text[start : self._at].rstrip())
        return start, self._at

    def _array(self, path: Path) -> None:
        self._at += 1
        position = 0
        while self._skip_blank() and self._text[self._at] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            element = (*path, position)
            value = self._value(element)
            self._index.add(element, value, value, inline=True)
            position += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip_blank() and self._text[self._at] != "}":
            if self._text[self._at] == ",":
                self._at += 1
            else:
                self._pair(path, inline=True)
        self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        if self._text.startswith(quote * 3, self._at):
            self._at += 3
            self._seek(quote * 3, escapes=quote == '"')
            # Up to two quotes may stand directly before the closing three.
            while self._text.startswith(quote, self._at):
                self._at += 1
        else:
            self._at += 1
            self._seek(quote, escapes=quote == '"')

    def _seek(self, closing: str, *, escapes: bool) -> None:
        while not self._text.startswith(closing, self._at):
            self._at += 2 if escapes and self._text[self._at] == "\\" else 1
        self._at += len(closing)

    def _skip_spaces(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in " \t":
            self._at += 1

    def _skip_blank(self) -> bool:
        """Over white space, line ends and comments. False at the end of the text."""
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif char in _BLANK:
                self._at += 1
            else:
                return True
        return False
