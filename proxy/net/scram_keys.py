"""SCRAM keys without holding up the event loop: PBKDF2 runs in a thread, once for all who wait."""

from __future__ import annotations

import asyncio

from ..wire import scram
from ..wire.scram import ScramKeys

_under_way: dict[tuple[asyncio.AbstractEventLoop, str, bytes, int], asyncio.Future[ScramKeys]] = {}


async def scram_keys(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """What `scram.derive_keys` gives."""
    if scram.keys_are_known(password, salt, iterations):
        return scram.derive_keys(password, salt, iterations)
    loop = asyncio.get_running_loop()
    key = (loop, password, salt, iterations)
    pending = _under_way.get(key)
    if pending is None:
        pending = loop.run_in_executor(None, scram.derive_keys, password, salt, iterations)
        _under_way[key] = pending
        pending.add_done_callback(lambda _: _under_way.pop(key, None))
    # Several may wait for it; one that is cancelled must not cancel it for the others.
    return await asyncio.shield(pending)
