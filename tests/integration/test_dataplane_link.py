"""What a server says while nobody uses its link yet: kept for the client that is on its way, read for a twin."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from proxy.net import frontend
from proxy.net.link import Link
from proxy.net.link_login import LinkTarget, OpenedLink
from proxy.net.session import Session
from proxy.wire import messages


class Transport:
    """Takes everything, does nothing."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def set_protocol(self, _protocol: object) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True


class Listening:
    """As much of a session as a link needs to pass bytes on."""

    def __init__(self) -> None:
        self.passed = b""
        self.told: list[bytes] = []
        self.exchange = self
        self.client_transport = self
        self.bytes_sent = 0
        self.busy_since = 0.0
        self.slow = False
        self.quiet = False

    def server(self, _data: bytes) -> None: ...

    def write(self, data: bytes) -> None:
        self.passed += data

    def parameter_told(self, body: bytes) -> None:
        self.told.append(body)


def link() -> Link:
    target = LinkTarget("app", "127.0.0.1", 5432, "app")
    transport = cast("asyncio.Transport", Transport())
    nobody = ("127.0.0.1", 1)
    return Link(
        1, target, OpenedLink(transport, b"", 1, b"key", {b"TimeZone": b"UTC"}, b"", "", nobody, nobody, 196608)
    )


ZONE = messages.parameter_status("TimeZone", "Asia/Tokyo")
STYLE = messages.parameter_status("DateStyle", "German")
NOTICE = messages.notice_response("careful")


async def test_a_twin_reads_parameters_however_they_arrive() -> None:
    for size in (1, 3, 7, 1000):
        twin = link()
        data = NOTICE + ZONE + NOTICE + STYLE
        for position in range(0, len(data), size):
            twin.data_received(data[position : position + size])
        assert twin.parameters == {b"TimeZone": b"Asia/Tokyo", b"DateStyle": b"German"}


async def test_half_a_message_is_there_when_the_twin_is_taken() -> None:
    twin = link()
    session: Any = Listening()
    twin.data_received(ZONE + STYLE[:6])
    twin.serve(cast("Session", session))
    twin.data_received(STYLE[6:] + NOTICE)
    assert session.passed == STYLE + NOTICE


async def test_half_a_message_is_there_when_the_twin_is_asked() -> None:
    twin = link()
    twin.data_received(STYLE[:6])
    asked = asyncio.create_task(twin.send_raw(messages.SYNC, 5.0))
    await asyncio.sleep(0)
    twin.data_received(STYLE[6:] + messages.data_row(["x"]) + messages.ready_for_query())
    assert (await asked).rows == [[b"x"]]
    assert twin.parameters[b"DateStyle"] == b"German"


async def test_what_came_early_is_kept_for_a_client_on_its_way() -> None:
    found = link()
    found.awaited = True
    found.data_received(ZONE + STYLE[:6])
    found.data_received(STYLE[6:])
    assert found.opened_leftover == ZONE + STYLE


async def test_an_orphan_is_cancelled_until_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend ignores a request to cancel what it has not begun to read yet."""
    sent: list[tuple[int, bytes]] = []
    orphan = link()
    orphan.abandon()

    async def send_cancel(_target: LinkTarget, pid: int, key: bytes, _timeout_s: float) -> bool:
        sent.append((pid, key))
        orphan.data_received(messages.data_row(["nobody", "reads", "this"]))
        if len(sent) == 3:
            asyncio.get_running_loop().call_soon(orphan.connection_lost, None)
        return True

    monkeypatch.setattr(frontend, "send_cancel", send_cancel)
    monkeypatch.setattr(frontend, "ORPHAN_PATIENCE_S", (0.01, 0.01, 5.0, 5.0))
    async with asyncio.timeout(3):
        await frontend._cancel_orphan(orphan)
    assert sent == [(1, b"key")] * 3
    assert cast("Transport", orphan.transport).written == messages.TERMINATE


async def test_an_orphan_that_stays_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send_cancel(*_arguments: object) -> bool:
        return False

    monkeypatch.setattr(frontend, "send_cancel", send_cancel)
    monkeypatch.setattr(frontend, "ORPHAN_PATIENCE_S", (0.01, 0.01))
    orphan = link()
    orphan.abandon()
    async with asyncio.timeout(3):
        await frontend._cancel_orphan(orphan)
    assert cast("Transport", orphan.transport).aborted
