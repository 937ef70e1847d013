"""Names that publication, slot and subscription can all carry."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from replication.stream_names import Direction, stream_names


def test_a_plain_pair_keeps_its_name() -> None:
    names = stream_names("app", Direction.FORWARD)
    assert names.slot == names.publication == names.subscription == "pgcutover_app_forward"
    assert stream_names("app", Direction.REVERSE).slot == "pgcutover_app_reverse"
    assert Direction.FORWARD.opposite is Direction.REVERSE
    assert Direction.REVERSE.opposite is Direction.FORWARD


def test_names_that_look_alike_stay_apart() -> None:
    slots = {stream_names(pair, Direction.FORWARD).slot for pair in ("app", "App", "a-b", "a_b", "a b", "ä", "ö")}
    assert len(slots) == 7
    long = "x" * 60
    assert stream_names(long + "a", Direction.FORWARD) != stream_names(long + "b", Direction.FORWARD)


@given(st.text(min_size=1, max_size=80), st.sampled_from(Direction))
def test_every_name_is_one_a_slot_may_have(pair: str, direction: Direction) -> None:
    name = stream_names(pair, direction).slot
    assert re.fullmatch(r"[a-z0-9_]{1,63}", name)
    assert name.endswith(f"_{direction.value}")
    assert name == stream_names(pair, direction).slot
