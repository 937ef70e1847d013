"""One configuration file, read: its values, its places, and the problems that are about it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from .lines import LineIndex, Path
from .problems import Problem


@dataclass(slots=True)
class Document:
    """A file that could be parsed. `name` is how messages call it; relative paths start at `folder`."""

    name: str
    folder: FilePath
    text: str
    values: dict[str, Any]
    index: LineIndex = field(repr=False)

    def problem(self, path: Path, key: str, message: str) -> Problem:
        return Problem(self.name, self.index.line(path), key, message)


def read_text(file: FilePath) -> tuple[str, None] | tuple[None, Problem]:
    """The text of `file` with its line ends as they are, or why it cannot be had."""
    try:
        return file.read_bytes().decode("utf-8"), None
    except FileNotFoundError:
        return None, Problem(str(file), 0, "", 'there is no such file; "pgcutover init" writes one to start from')
    except IsADirectoryError:
        return None, Problem(str(file), 0, "", "is a folder; give the path of the file in it")
    except OSError as error:
        return None, Problem(str(file), 0, "", f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return None, Problem(str(file), line, "", "is not UTF-8 text from here on; save it as UTF-8")


def parse(file: FilePath, text: str) -> tuple[Document, None] | tuple[None, Problem]:
    """`text` as the content of `file`, or the one place where it stops being TOML."""
    name = str(file)
    try:
        values = tomllib.loads(text)
        document = Document(name, file.absolute().parent, text, values, LineIndex(text))
    except tomllib.TOMLDecodeError as error:
        return None, _syntax_problem(name, text, str(error))
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or brackets nested hundreds deep.
        return None, Problem(name, 1, "", f"cannot be parsed: {error}")
    return document, None


def _syntax_problem(name: str, text: str, message: str) -> Problem:
    """tomllib appends the place: "(at line 3, column 5)" or "(at end of document)"."""
    reason, _, _ = message.partition(" (at ")
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    if found is None:
        return Problem(
            name, max(1, len(text.splitlines())), "", f"is not TOML: {_lower(reason)} at the end of the file"
        )
    return Problem(name, int(found[1]), "", f"is not TOML: {_lower(reason)} at column {found[2]}")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
