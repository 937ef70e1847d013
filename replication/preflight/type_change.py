"""Which values of one type every column of another type takes, when they are sent as text.

Logical replication sends values as text, so a column may have another type on the destination as long as the
text of every value of the one is a value of the other. Only pairs that are certain are listed; nothing else
is guessed.
"""

from __future__ import annotations

import re

_WIDER = {
    "smallint": {"integer", "bigint", "numeric", "real", "double precision"},
    "integer": {"bigint", "numeric", "double precision"},
    "bigint": {"numeric"},
    "real": {"double precision"},
    "json": {"jsonb"},
    "cidr": {"inet"},
    "bit": {"bit varying"},
}

_TEXT = {"text", "character varying"}

# Their text is cut or refused when it is longer than the column, so the length must not shrink.
_WITH_LENGTH = {"character", "character varying", "bit", "bit varying"}

_TYPE = re.compile(r"(?P<name>[^(\[]+?)(?:\((?P<modifier>[^)]*)\))?(?P<rest>(?: with(?:out)? time zone)?(?:\[\])*)")


def takes_all_values(source: str, destination: str) -> bool:
    """Whether a column of type `destination` takes all of type `source` (as format_type prints them)."""
    if source == destination:
        return True
    old, new = _TYPE.fullmatch(source), _TYPE.fullmatch(destination)
    if old is None or new is None:
        return False
    name, other = old["name"], new["name"]
    if new["rest"] or old["rest"]:  # arrays, time zones and precisions of times: equal or nothing
        return other in _TEXT and not new["rest"] and new["modifier"] is None
    if other in _TEXT and new["modifier"] is None:
        return True
    if name == other or (name == "character" and other == "character varying"):
        return _modifier_grows(name, old["modifier"], new["modifier"])
    return other in _WIDER.get(name, ()) and new["modifier"] is None


def _modifier_grows(name: str, old: str | None, new: str | None) -> bool:
    if new is None:
        return name in _WITH_LENGTH or name == "numeric"
    if old is None:
        return False
    if name in _WITH_LENGTH:
        return int(new) >= int(old)
    if name == "numeric":
        (old_precision, old_scale), (new_precision, new_scale) = _numeric(old), _numeric(new)
        return new_scale >= old_scale and new_precision - new_scale >= old_precision - old_scale
    return False


def _numeric(modifier: str) -> tuple[int, int]:
    precision, _, scale = modifier.partition(",")
    return int(precision), int(scale or 0)
