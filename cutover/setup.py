"""REPLICATE, RESET and COMPLETE for one pair: what replication/setup does, as rows and notices."""

from __future__ import annotations

from .api import Notify, StepRow
from .pair import Pair


async def replicate_pair(pair: Pair, notify: Notify) -> list[StepRow]:
    raise NotImplementedError


async def complete_pair(pair: Pair, notify: Notify) -> list[StepRow]:
    raise NotImplementedError


async def reset_pair(pair: Pair, notify: Notify) -> list[StepRow]:
    raise NotImplementedError
