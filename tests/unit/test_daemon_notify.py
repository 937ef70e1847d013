"""sd_notify, against a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.notify import Notifier


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def heard(self) -> dict[str, str]:
        lines = self.socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@pgcutover-test-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.socket.close()


def test_every_message_arrives(manager: Manager) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": manager.address})
    assert notifier.enabled
    assert notifier.ready("serving 2 databases")
    assert manager.heard() == {"READY": "1", "STATUS": "serving 2 databases"}
    assert notifier.ready()
    assert manager.heard() == {"READY": "1"}
    assert notifier.status("two\nlines\nREADY=1")
    assert manager.heard() == {"STATUS": "two lines READY=1"}
    assert notifier.watchdog()
    assert manager.heard() == {"WATCHDOG": "1"}
    assert notifier.stopping()
    assert manager.heard() == {"STOPPING": "1"}


def test_a_reload_tells_the_monotonic_clock(manager: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert Notifier(manager.address).reloading()
    heard = manager.heard()
    assert heard["RELOADING"] == "1"
    assert before <= int(heard["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_long_status_is_cut_and_stays_text(manager: Manager) -> None:
    assert Notifier(manager.address).status("ä" * 10_000)
    status = manager.heard()["STATUS"]
    assert set(status) == {"ä"}
    assert len(status) == 2048


@pytest.mark.parametrize(
    "environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "/"}]
)
def test_without_a_manager_nothing_is_sent(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environ)
    assert not notifier.enabled
    assert not notifier.ready()
    assert not notifier.watchdog()
    assert notifier.watchdog_interval_s is None


def test_a_manager_that_is_gone_is_no_reason_to_stop(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "gone")).ready()
    assert not Notifier("/" + "x" * 200).ready()


def test_a_manager_that_does_not_read_does_not_hold_us_up(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    began = time.monotonic()
    assert not all(notifier.status("x" * 4000) for _ in range(10_000))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "mine", 15.0),
        ("30000000", "1", None),
        ("", None, None),
        ("0", None, None),
        ("soon", None, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(usec: str, pid: str | None, interval: float | None) -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": usec}
    if pid is not None:
        environ["WATCHDOG_PID"] = str(os.getpid()) if pid == "mine" else pid
    assert Notifier.from_environment(environ).watchdog_interval_s == interval
