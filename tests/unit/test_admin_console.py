"""admin.console, inbox, background and cancel: one session from greeting to end, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog.testing

from admin.background import Background
from admin.cancel import CancelKeys
from admin.console import serve_console
from admin.errors import ShuttingDown
from admin.inbox import Inbox
from config.problems import ConfigError, Problem
from cutover.api import MoveError
from proxy.errors import PeerClosed, ProtocolViolation
from proxy.wire import messages
from proxy.wire.codes import PROTOCOL_3_0, PROTOCOL_3_2
from proxy.wire.messages import decode_backend_key, error_fields
from tests.support.console import FakeDaemon, FakeLogin, FakePort, startup_packet
from tests.support.wait import eventually

Heard = list[tuple[str, bytes]]


class Client:
    """A client of a console in this process."""

    def __init__(self, daemon: FakeDaemon, login: FakeLogin) -> None:
        self.daemon = daemon
        self.port = FakePort()
        self.task = asyncio.create_task(serve_console(self.port, login, daemon.services))
        self._heard: Heard = []

    def send(self, *requests: bytes) -> None:
        self.port.send(b"".join(requests))

    async def until(self, kind: str) -> Heard:
        """Everything up to the first message of this type, which must come."""

        def arrived() -> bool:
            self._heard += self.port.received()
            return any(found == kind for found, _ in self._heard)

        await eventually(arrived, f"a message of type {kind}")
        end = next(at for at, (found, _) in enumerate(self._heard) if found == kind) + 1
        heard, self._heard = self._heard[:end], self._heard[end:]
        return heard

    async def ask(self, text: str) -> Heard:
        self.send(messages.query(text))
        return await self.until("Z")

    async def ended(self) -> None:
        async with asyncio.timeout(5):
            await asyncio.wait((self.task,))


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def connect(daemon: FakeDaemon) -> AsyncIterator[Connect]:
    clients: list[Client] = []

    async def open_client(protocol: int = PROTOCOL_3_0, **parameters: str) -> Client:
        client = Client(daemon, FakeLogin(startup=startup_packet(protocol, **parameters)))
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.task.cancel()
        await client.ended()
    await daemon.services.background.stop()
    # Nothing of a console outlives it.
    left = {task.get_name() for task in asyncio.all_tasks()} - {asyncio.current_task().get_name()}  # type: ignore[union-attr]
    assert not [name for name in left if name.startswith("console")]


def kinds(heard: Heard) -> str:
    return "".join(kind for kind, _ in heard)


def error_of(heard: Heard) -> dict[str, str]:
    (body,) = [body for kind, body in heard if kind == "E"]
    return {code: value.decode() for code, value in error_fields(body).items()}


def notices_of(heard: Heard) -> list[str]:
    return [error_fields(body)["M"].decode() for kind, body in heard if kind == "N"]


async def key_of(client: Client) -> tuple[int, bytes]:
    (body,) = [body for kind, body in await client.until("Z") if kind == "K"]
    return decode_backend_key(body)


async def test_a_session_from_greeting_to_goodbye(connect: Connect) -> None:
    client = await connect(application_name="shop")
    greeting = await client.until("Z")
    assert greeting[0] == ("S", b"application_name\0shop\0")
    assert kinds(greeting).strip("S") == "KZ"
    assert kinds(await client.ask("SHOW VERSION; SELECT 1")) == "TDCTDCZ"
    client.send(messages.TERMINATE)
    await client.ended()
    assert client.port.closed
    assert client.task.exception() is None


async def test_the_key_has_the_length_of_the_protocol(connect: Connect) -> None:
    pid, key = await key_of(await connect())
    assert len(key) == 4
    assert 2**30 <= pid < 2**31
    _, key = await key_of(await connect(protocol=PROTOCOL_3_2))
    assert len(key) == 32


async def test_progress_arrives_while_the_verb_runs(connect: Connect, daemon: FakeDaemon) -> None:
    daemon.moves.gated = True
    client = await connect()
    await client.until("Z")
    client.send(messages.query("CUTOVER"))
    assert notices_of(await client.until("N")) == ["hold: 64 clients"]
    assert client.port.received() == []
    daemon.moves.proceed.set()
    heard = await client.until("Z")
    assert kinds(heard) == "NT" + "D" * 10 + "CZ"
    assert notices_of(heard) == ["commit: epoch 7"]


async def test_a_move_error_comes_with_detail_and_hint(connect: Connect, daemon: FakeDaemon) -> None:
    daemon.moves.error = MoveError("lag is too high", sqlstate="55006", detail="12 MB behind", hint="Wait.")
    client = await connect()
    await client.until("Z")
    heard = await client.ask("CUTOVER")
    assert kinds(heard) == "EZ"
    found = error_of(heard)
    assert (found["S"], found["C"], found["M"], found["D"], found["H"]) == (
        "ERROR",
        "55006",
        "lag is too high",
        "12 MB behind",
        "Wait.",
    )
    daemon.moves.error = MoveError("no")
    found = error_of(await client.ask("CUTOVER"))
    assert (found["C"], found.get("D"), found.get("H")) == ("55000", None, None)


async def test_a_fault_is_logged_and_the_session_goes_on(connect: Connect, daemon: FakeDaemon) -> None:
    daemon.moves.error = ZeroDivisionError("a secret in a message")
    client = await connect()
    await client.until("Z")
    with structlog.testing.capture_logs() as logs:
        found = error_of(await client.ask("CHECK"))
    assert found["C"] == "XX000"
    assert "secret" not in str(found)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["command failed by a fault"]
    assert kinds(await client.ask("SELECT 1")) == "TDCZ"


async def test_a_reload_that_fails_lists_every_problem(connect: Connect, daemon: FakeDaemon) -> None:
    problems = [
        Problem("pgcutover.toml", 3, "port", "must be a number"),
        Problem("users.toml", 9, "name", "missing"),
    ]
    daemon.reload_error = ConfigError(problems)
    client = await connect()
    await client.until("Z")
    with structlog.testing.capture_logs() as logs:
        found = error_of(await client.ask("RELOAD"))
    assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert found["C"] == "F0000"
    assert found["D"] == "pgcutover.toml:3: port: must be a number\nusers.toml:9: name: missing"


async def test_logs_have_no_text_of_statements(connect: Connect) -> None:
    client = await connect()
    await client.until("Z")
    with structlog.testing.capture_logs() as logs:
        await client.ask("PAUSE nobody; SELECT 'hidden'")
        await client.ask("SET query_timeout = 12345")
        await client.ask("SHOW VERSION")
    assert [(entry["event"], entry["command"], entry["done"]) for entry in logs if entry["event"] == "command"] == [
        ("command", "PAUSE", False),
        ("command", "SET", True),
    ]
    assert "nobody" not in str(logs)
    assert "12345" not in str(logs)


# -- cancel and disconnect -----------------------------------------------------------------------------------


async def paused(daemon: FakeDaemon, client: Client) -> None:
    """The client waits in a PAUSE."""
    daemon.proxy.quiet = False
    client.send(messages.query("PAUSE app"))
    await eventually(lambda: daemon.proxy.waiting, "the pause to wait")


async def test_a_cancel_request_undoes_a_waiting_pause(connect: Connect, daemon: FakeDaemon) -> None:
    client = await connect()
    pid, key = await key_of(client)
    await paused(daemon, client)
    assert daemon.services.cancels.cancel(pid, key)
    found = error_of(await client.until("Z"))
    assert (found["C"], found.get("D")) == ("57014", None)
    assert not daemon.proxy.views["app"].paused
    assert kinds(await client.ask("SELECT 1")) == "TDCZ"


async def test_a_disconnect_undoes_a_waiting_pause(connect: Connect, daemon: FakeDaemon) -> None:
    client = await connect()
    await client.until("Z")
    await paused(daemon, client)
    client.port.hang_up()
    await client.ended()
    assert not daemon.proxy.views["app"].paused
    assert client.task.exception() is None


async def test_what_was_asked_before_a_disconnect_does_not_run_after_it(connect: Connect, daemon: FakeDaemon) -> None:
    client = await connect()
    await client.until("Z")
    await paused(daemon, client)
    client.send(messages.query("KILL"), messages.query("SHUTDOWN"))
    client.port.hang_up()
    await client.ended()
    assert ("kill", "app") not in daemon.proxy.calls
    assert daemon.shutdowns == []


async def test_a_cancel_request_for_a_session_that_runs_nothing(connect: Connect, daemon: FakeDaemon) -> None:
    client = await connect()
    pid, key = await key_of(client)
    assert daemon.services.cancels.cancel(pid, key)
    assert kinds(await client.ask("SELECT 1")) == "TDCZ"
    client.send(messages.TERMINATE)
    await client.ended()
    assert not daemon.services.cancels.cancel(pid, key)


async def test_a_cancelled_cutover_goes_on(connect: Connect, daemon: FakeDaemon) -> None:
    daemon.moves.gated = True
    client = await connect()
    pid, key = await key_of(client)
    client.send(messages.query("CUTOVER"))
    await client.until("N")
    daemon.services.cancels.cancel(pid, key)
    found = error_of(await client.until("Z"))
    assert found["C"] == "57014"
    assert found["D"] == "CUTOVER itself goes on; only this console has stopped waiting for it."
    assert daemon.services.background.running == ["CUTOVER"]
    assert daemon.moves.finished == []
    daemon.moves.proceed.set()
    assert await daemon.services.background.finish(5)
    assert daemon.moves.finished == ["cutover"]
    # What it said afterwards is not mixed into the answers to other commands.
    assert kinds(await client.ask("SELECT 1")) == "TDCZ"


async def test_a_cutover_goes_on_without_its_client(connect: Connect, daemon: FakeDaemon) -> None:
    daemon.moves.gated = True
    client = await connect()
    await client.until("Z")
    client.send(messages.parse("", "CUTOVER"), messages.bind("", ""), messages.execute(""), messages.SYNC)
    await client.until("N")
    client.port.hang_up()
    await client.ended()
    assert daemon.services.background.running == ["CUTOVER"]
    with structlog.testing.capture_logs() as logs:
        daemon.moves.proceed.set()
        assert await daemon.services.background.finish(5)
    assert daemon.moves.finished == ["cutover"]
    assert {"event": "verb done", "verb": "CUTOVER", "log_level": "info"} in logs


async def test_the_end_of_the_daemon_is_told(connect: Connect, daemon: FakeDaemon) -> None:
    client = await connect()
    await client.until("Z")
    await paused(daemon, client)
    client.task.cancel()
    await client.ended()
    found = error_of(await client.until("E"))
    assert (found["S"], found["C"]) == ("FATAL", "57P01")
    assert not daemon.proxy.views["app"].paused
    assert client.task.cancelled()


async def test_a_verb_that_is_stopped_with_the_daemon(connect: Connect, daemon: FakeDaemon) -> None:
    daemon.moves.gated = True
    client = await connect()
    await client.until("Z")
    client.send(messages.query("CUTOVER"))
    await client.until("N")
    assert not await daemon.services.background.finish(0.01)
    await daemon.services.background.stop()
    assert error_of(await client.until("Z"))["C"] == "57P01"
    assert daemon.moves.finished == []


async def test_a_broken_protocol_ends_the_session_with_a_reason(connect: Connect) -> None:
    def send_nonsense(client: Client) -> None:
        client.send(messages.message(ord("!")))

    def announce_too_much(client: Client) -> None:
        client.port.fail(ProtocolViolation("invalid message length"))

    for break_it in (send_nonsense, announce_too_much):
        client = await connect()
        await client.until("Z")
        break_it(client)
        await client.ended()
        found = error_of(await client.until("E"))
        assert (found["S"], found["C"]) == ("FATAL", "08P01")
        assert client.port.closed


# -- inbox ---------------------------------------------------------------------------------------------------


async def test_the_inbox_reads_ahead_up_to_a_bound() -> None:
    port = FakePort()
    gone: list[bool] = []
    inbox = Inbox(port, lambda: gone.append(True))
    for number in range(400):
        port.send(messages.query(str(number)))
    port.hang_up()
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not inbox.gone
    seen = [(await inbox.next())[1].rstrip(b"\0").decode() for _ in range(400)]
    assert seen == [str(number) for number in range(400)]
    with pytest.raises(PeerClosed):
        await inbox.next()
    assert gone == [True]
    await inbox.close()


async def test_a_fault_while_reading_is_not_swallowed() -> None:
    port = FakePort()
    inbox = Inbox(port, lambda: None)
    port.fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await inbox.next()
    with contextlib.suppress(ZeroDivisionError):
        await inbox.close()


# -- background and cancel keys ------------------------------------------------------------------------------


async def test_background_gives_back_results_and_errors() -> None:
    background = Background()

    async def answer() -> int:
        return 42

    async def fail() -> int:
        raise MoveError("no")

    assert await background.follow("a", answer()) == 42
    with pytest.raises(MoveError):
        await background.follow("b", fail())
    assert background.running == []
    assert await background.finish(1)


async def test_background_logs_a_failure_nobody_waits_for() -> None:
    background = Background()
    proceed = asyncio.Event()

    async def fail() -> None:
        await proceed.wait()
        raise MoveError("lag", sqlstate="55006")

    follower = asyncio.create_task(background.follow("CUTOVER", fail()))
    await eventually(lambda: background.running, "the verb to start")
    follower.cancel()
    with pytest.raises(asyncio.CancelledError):
        await follower
    with structlog.testing.capture_logs() as logs:
        proceed.set()
        assert await background.finish(5)
    assert [(entry["event"], entry["sqlstate"]) for entry in logs] == [("verb failed", "55006")]


async def test_background_stops_what_is_left() -> None:
    background = Background()
    follower = asyncio.create_task(background.follow("CUTOVER", asyncio.sleep(60)))
    await eventually(lambda: background.running, "the verb to start")
    await background.stop()
    with pytest.raises(ShuttingDown):
        await follower


def test_cancel_keys_are_for_one_session() -> None:
    keys = CancelKeys()
    hits: list[str] = []
    first = keys.register(PROTOCOL_3_0, lambda: hits.append("first"))
    second = keys.register(PROTOCOL_3_0, lambda: hits.append("second"))
    assert first.pid != second.pid
    assert not keys.cancel(first.pid, second.key)
    assert keys.cancel(second.pid, second.key)
    keys.unregister(second)
    assert not keys.cancel(second.pid, second.key)
    assert hits == ["second"]
    assert second.key.hex() not in repr(second)
