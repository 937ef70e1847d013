"""A Session and its Link between a scripted client and the model backend: no sockets, every byte at its own pace."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from pydantic import SecretStr

from config.model import Admin, Config, Database
from proxy.net.client_login import ClientLogin
from proxy.net.link import Link
from proxy.net.link_connect import LinkTarget
from proxy.net.link_login import OpenedLink
from proxy.net.route import Route
from proxy.net.session import ClientSide, Session
from proxy.wire.framing import messages_in
from proxy.wire.startup import StartupParameters

from .conversation import WAIT_FOR_COPY
from .model_backend import ModelBackend


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reading = True
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default


def make_route() -> Route:
    database = Database(name="app", host="127.0.0.1")
    return Route(Config(admin=Admin(password=SecretStr("x")), databases=[database]), database)


def make_link(transport: FakeTransport, number: int = 1, parameters: dict[bytes, bytes] | None = None) -> Link:
    address = ("127.0.0.1", 1)
    opened = OpenedLink(
        transport=transport,
        leftover=b"",
        backend_pid=number,
        cancel_key=b"key!",
        parameters=dict(parameters or {}),
        greeting=b"",
        tls="",
        local=address,
        peer=address,
        protocol=196608,
    )
    return Link(number, LinkTarget("app", "127.0.0.1", 5432, "app"), opened)


def make_session(route: Route, client: FakeTransport, link: Link) -> Session:
    login = ClientLogin(StartupParameters(196608, ()), "alice", "app", "none", "", "")
    session = Session(1, login, route, client, link, lambda _session: None)
    route.sessions.add(session)
    return session


class Relay:
    """The client is a script; gate, questions and swaps come whenever the random schedule says so."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.route = make_route()
        self.backend = ModelBackend()
        self.client = FakeTransport()
        self.server = FakeTransport()
        self.session = make_session(self.route, self.client, make_link(self.server))
        self.side = ClientSide(self.session)
        self.to_send = bytearray()
        self.received = bytearray()
        self.seen = bytearray()  # by the client, since the last request for a COPY
        self.swaps = self.asked = self.stops = 0

    def _piece(self, available: int) -> int:
        return self.random.randint(1, min(available, self.random.choice((1, 7, 60, 4096))))

    def collect(self) -> None:
        """What the proxy has written reaches its peers."""
        data = self.client.take()
        self.received += data
        self.seen += data
        self.backend.feed(self.server.take())

    def turn(self) -> bool:
        """One thing happens at an end; False where nothing can."""
        self.collect()
        choices = []
        if self.to_send and self.client.reading:
            choices.append(self._client_sends)
        if self.backend.sent and self.server.reading:
            choices.append(self._server_sends)
        if self.backend.inbox:
            choices.append(self.backend.step)
        while choices:
            what = self.random.choice(choices)
            if what() is not False:
                self.collect()
                return True
            choices.remove(what)
        return False

    def _client_sends(self) -> None:
        size = self._piece(len(self.to_send))
        chunk = bytes(self.to_send[:size])
        del self.to_send[:size]
        self.side.data_received(chunk)

    def _server_sends(self) -> None:
        size = self._piece(len(self.backend.sent))
        chunk = bytes(self.backend.sent[:size])
        del self.backend.sent[:size]
        self.session.link.data_received(chunk)

    # -- what a run and an operator do -------------------------------------------------------------------------

    def meddle(self, *, swaps: bool) -> None:
        session = self.session
        quiet = session.exchange.quiet
        match self.random.randrange(5):
            case 0 if not session.stopped:
                self.stops += 1
                session.stop()
            case 1 if session.stopped:
                session.let_go()
            case 2 if quiet and session.link.free and not session.asking:
                session.asking = session.slow = True
                self.asked += 1
                session.link.end_batch(self._asked)
            case 3 if swaps and quiet and session.stopped and session.link.free and not session.asking:
                self._swap()
            case 4 if not session.stopped:
                session.settle()
        self.collect()

    def _asked(self) -> None:
        self.session.asking = False
        self.session.pump()

    def _swap(self) -> None:
        self.swaps += 1
        self.collect()
        old = self.backend
        self.backend = ModelBackend(statements=dict(old.statements), ran=old.ran)
        self.server = FakeTransport()
        self.session.twin = make_link(self.server, 1 + self.swaps, self.session.told)
        self.session.take_twin()

    # -- playing a conversation --------------------------------------------------------------------------------

    def play(self, steps: list[bytes | str | None], *, meddling: bool, swaps: bool) -> None:
        for step in [*steps, None]:
            if isinstance(step, bytes):
                self.to_send += step
                self.turn()
                continue
            if step == "clear":
                self.seen.clear()
                continue
            self._until_still(step, meddling=meddling, swaps=swaps)

    def _until_still(self, step: str | None, *, meddling: bool, swaps: bool) -> None:
        while True:
            if step == WAIT_FOR_COPY and self._copy_answered():
                return
            if meddling and self.random.random() < 0.3:
                self.meddle(swaps=swaps)
            if self.turn():
                continue
            if self.session.stopped:
                for _ in range(self.random.randrange(8) if meddling else 0):
                    self.meddle(swaps=swaps)
                self.session.let_go()
                self.collect()
                if self.session.stopped or not self.turn():
                    return
            else:
                return

    def _copy_answered(self) -> bool:
        return not self.to_send and any(kind in b"GEZ" for kind, _, _ in messages_in(bytes(self.seen)))
