"""Cancel keys of admin sessions. A cancel request comes over a connection of its own and knows nothing but a
key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from proxy.wire.codes import PROTOCOL_3_2

_FIRST_PID: Final = 2**30
_LAST_PID: Final = 2**31 - 1
_SHORT_KEY_BYTES: Final = 4
_LONG_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class CancelKey:
    """What BackendKeyData tells the client."""

    pid: int
    key: bytes = field(repr=False)


class CancelKeys:
    """Which admin session a cancel request is about.

    The pids lie above those a system gives to processes (Linux: at most 4194304), so that they are never
    taken for the backend of a client.
    """

    def __init__(self) -> None:
        self._sessions: dict[CancelKey, Callable[[], None]] = {}

    def register(self, protocol: int, on_cancel: Callable[[], None]) -> CancelKey:
        """A key for a session; protocol 3.0 has room for 4 bytes."""
        length = _LONG_KEY_BYTES if protocol >= PROTOCOL_3_2 else _SHORT_KEY_BYTES
        while True:
            pid = _FIRST_PID + secrets.randbelow(_LAST_PID - _FIRST_PID + 1)
            if all(known.pid != pid for known in self._sessions):
                break
        key = CancelKey(pid, secrets.token_bytes(length))
        self._sessions[key] = on_cancel
        return key

    def unregister(self, key: CancelKey) -> None:
        self._sessions.pop(key, None)

    def cancel(self, pid: int, key: bytes) -> bool:
        """Break off what the session with this key is running, if anything. False for an unknown key."""
        on_cancel = self._sessions.get(CancelKey(pid, key))
        if on_cancel is None:
            return False
        on_cancel()
        return True
