"""systemd's notification protocol (sd_notify(3)): ready, reloading, stopping, status, watchdog.

One datagram per message to the socket that NOTIFY_SOCKET names. Without it nothing is sent. A service manager
that does not listen is no reason to stop, so that nothing here raises for it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_MICROSECONDS = 1_000_000
_MOST_STATUS_BYTES = 4096


class Notifier:
    """What the service manager hears of us. Every method returns whether the message was sent."""

    def __init__(self, address: str | None, *, watchdog_usec: int | None = None) -> None:
        self._address = address
        self._watchdog_usec = watchdog_usec

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Notifier:
        """Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3))."""
        path = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the abstract name space. Addresses of other families are for virtual machines.
        address = path if path.startswith(("/", "@")) and len(path) > 1 else None
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "")
        return cls(address, watchdog_usec=int(usec) if mine and usec.isdecimal() and int(usec) > 0 else None)

    @property
    def enabled(self) -> bool:
        return self._address is not None

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to call `watchdog`: twice in the time that the manager allows. None: it does not ask."""
        if not self.enabled or self._watchdog_usec is None:
            return None
        return self._watchdog_usec / _MICROSECONDS / 2

    def ready(self, status: str | None = None) -> bool:
        """Start-up, or a reload that `reloading` announced, is done."""
        return self._send("READY=1", *_status(status))

    def reloading(self) -> bool:
        """A reload begins; by the clock the manager tells it from an earlier one (Type=notify-reload)."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str | None = None) -> bool:
        return self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """Still alive."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        if self._address is None:
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager that is slow to read must not hold the event loop up.
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), address)
        except (OSError, ValueError):
            return False
        return True


def _status(text: str | None) -> list[str]:
    """A status is one line; more would be read as further assignments."""
    if text is None:
        return []
    one_line = " ".join(text.split()).encode("utf-8", "replace")[:_MOST_STATUS_BYTES]
    return [f"STATUS={one_line.decode('utf-8', 'ignore')}"]
