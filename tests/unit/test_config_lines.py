"""Places of keys and values in TOML texts."""

from __future__ import annotations

import string
import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from config.lines import LineIndex, Path

DOCUMENT = """\
# a comment with [brackets] and "quotes
title = "x # not a comment"
general.port = 6432
owner = { name = 'a', deep = { "odd key" = [1, [2, 3]] } }

[[databases]]  # the first
name = "app"
text = \"\"\"
[not.a.table]
a = "1" \\\"\"\"
still text\"\"\"\"\"
literal = '''
[[databases]]
'''

[databases.extra]
x = 1979-05-27 07:32:00  # a date with a space

[http]
"a.b" = 1
c . d = true

[[databases]]
name = 'next'
list = [
  # comment in between
  { n = 1 },
  { n = 2 }, # ]
]
last = 5"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("general",), 3),
        (("general", "port"), 3),
        (("owner", "deep", "odd key", 1, 0), 4),
        (("databases",), 6),
        (("databases", 0), 6),
        (("databases", 0, "name"), 7),
        (("databases", 0, "text"), 8),
        (("databases", 0, "literal"), 12),
        (("databases", 0, "extra"), 16),
        (("databases", 0, "extra", "x"), 17),
        (("http", "a.b"), 20),
        (("http", "c", "d"), 21),
        (("databases", 1), 23),
        (("databases", 1, "list", 0, "n"), 27),
        (("databases", 1, "list", 1, "n"), 28),
        (("databases", 1, "last"), 30),
        (("databases", 1, "absent"), 23),
        (("absent", "wholly"), 1),
    ],
)
def test_line_of(path: Path, line: int) -> None:
    assert LineIndex(DOCUMENT).line(path) == line


def test_spans_are_exact() -> None:
    index = LineIndex(DOCUMENT)
    place = index.place(("owner", "name"))
    assert place is not None
    assert place.inline
    assert DOCUMENT[slice(*place.key)] == "name"
    assert DOCUMENT[slice(*place.value)] == "'a'"
    place = index.place(("databases", 0, "extra", "x"))
    assert place is not None
    assert not place.inline
    assert DOCUMENT[slice(*place.value)] == "1979-05-27 07:32:00"


def test_carriage_returns_do_not_belong_to_values() -> None:
    text = "a = 1\r\n[b]\r\nc = 2 # x\r\n"
    index = LineIndex(text)
    place = index.place(("b", "c"))
    assert place is not None
    assert (place.line, text[slice(*place.value)]) == (3, "2")


_names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=6) | st.text(max_size=4)
_scalars = (
    st.integers(-(2**40), 2**40)
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.datetimes()
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(_names, _values, max_size=5))
def test_every_scalar_of_any_document_is_found_where_it_is_written(document: dict[str, Any]) -> None:
    text = tomlkit.dumps(document)
    index = LineIndex(text)
    for path, value in _leaves(tomllib.loads(text), ()):
        place = index.place(path)
        assert place is not None, (path, text)
        assert tomllib.loads(f"v = {text[slice(*place.value)]}")["v"] == value
        assert index.line(path) == text.count("\n", 0, place.key[0]) + 1


def _leaves(value: Any, path: Path) -> list[tuple[Path, Any]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for n, inner in enumerate(value) for leaf in _leaves(inner, (*path, n))]
    return [(path, value)]
