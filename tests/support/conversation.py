"""Conversations between a client and the model backend, with an Exchange in between that sees every byte.

A conversation is a list of strings, each a thing that a driver does; `Wire` plays it with a schedule that is
random but fixed by its seed: what is sent, read and delivered when, and in pieces of which size.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from proxy.session.exchange import Exchange
from proxy.wire import messages
from proxy.wire.framing import messages_in
from proxy.wire.messages import message

from .model_backend import COPY_DATA, COPY_DONE, COPY_FAIL, F, ModelBackend

WAIT = None
"""The driver reads until everything that can come has come."""
WAIT_FOR_COPY = "wait for copy"


@dataclass
class Heard:
    """What the Exchange reported."""

    statements: list[tuple[int, bytes | None]] = field(default_factory=list)
    tags: list[bytes] = field(default_factory=list)
    parameters: list[bytes] = field(default_factory=list)
    binds: list[bytes | None] = field(default_factory=list)

    def exchange(self) -> Exchange:
        return Exchange(
            lambda kind, body: self.statements.append((kind, body)), self.tags.append, self.parameters.append
        )


def extended(word: str, *, name: str = "", describe: bool = True, sync: bool = True) -> bytes:
    parts = [messages.parse(name, word), messages.bind("", name)]
    if describe:
        parts.append(messages.describe("P", ""))
    return b"".join([*parts, messages.execute("", 0), messages.SYNC if sync else b""])


def prepare(word: str, name: str) -> bytes:
    """As asyncpg does it: no Sync."""
    return messages.parse(name, word) + messages.describe("S", name) + messages.FLUSH


COPY_ROWS = message(COPY_DATA, b"1\tone\n") * 3
COPY_IS_DONE = message(COPY_DONE)
COPY_HAS_FAILED = message(COPY_FAIL, b"gave up\0")


class Wire:
    """Client -> exchange -> backend and back, every queue with its own pace."""

    def __init__(self, seed: int, *, largest_piece: int = 64) -> None:
        self.random = random.Random(seed)
        self.heard = Heard()
        self.exchange = self.heard.exchange()
        self.backend = ModelBackend()
        self.received = bytearray()  # by the client
        self.half_delivered = b""
        self.to_send = bytearray()
        self.largest_piece = largest_piece

    # -- moving bytes ----------------------------------------------------------------------------------------

    def _piece(self, available: int) -> int:
        return self.random.randint(1, min(available, self.random.choice((1, 5, self.largest_piece, 4096))))

    def _forward(self) -> None:
        size = self._piece(len(self.to_send))
        chunk = bytes(self.to_send[:size])
        del self.to_send[:size]
        self.exchange.client(chunk)
        self.backend.feed(chunk)

    def _deliver(self) -> None:
        size = self._piece(len(self.backend.sent))
        chunk = bytes(self.backend.sent[:size])
        del self.backend.sent[:size]
        self.exchange.server(chunk)
        self.received += chunk
        self.half_delivered += chunk
        for _, _, end in list(messages_in(self.half_delivered))[-1:]:
            self.half_delivered = self.half_delivered[end:]

    def _server_may_talk(self) -> None:
        """Messages a server sends of itself, between two others."""
        if self.random.random() < 0.1:
            self.backend.sent += self.random.choice(
                (messages.notice_response("by the way"), messages.parameter_status("a", "b"))
            )

    def turn(self) -> bool:
        """One thing happens somewhere; False where nothing can."""
        choices = []
        if self.to_send:
            choices.append(self._forward)
        if self.backend.sent:
            choices.append(self._deliver)
        if self.backend.inbox and not self.backend.dead:
            choices.append(self._backend_reads)
        if not choices:
            return False
        what = self.random.choice(choices)
        if what == self._backend_reads:
            return self._backend_reads() or len(choices) > 1
        what()
        return True

    def _backend_reads(self) -> bool:
        self._server_may_talk()
        return self.backend.step()

    # -- playing a conversation ------------------------------------------------------------------------------

    def play(self, steps: list[bytes | str | None]) -> Iterator[None]:
        """Yields after every turn, so that the caller can look."""
        for step in steps:
            if isinstance(step, bytes):
                self.to_send += step
                if self.random.random() < 0.5 and self.turn():
                    yield
            elif step == WAIT_FOR_COPY:
                while not self._copy_answered() and self.turn():
                    yield
            else:
                while self.turn():
                    yield
        while self.turn():
            yield

    def _copy_answered(self) -> bool:
        return not self.to_send and any(kind in b"GEZ" for kind, _, _ in messages_in(bytes(self.received)))

    def forget_received(self) -> None:
        self.received.clear()

    # -- the truth ---------------------------------------------------------------------------------------------

    @property
    def truly_quiet(self) -> bool:
        """Nothing is under way in the backend or between it and the client. What does not count: the leftovers of
        a COPY that has failed, which the backend throws away; what a server says of itself at any time."""
        return self._inbox_holds_only(_LEFTOVERS) and self._ahead_are_only(b"NSA")

    @property
    def nothing_runs(self) -> bool:
        """The same, but a Sync may be on its way and its answer too."""
        return self._inbox_holds_only(_LEFTOVERS | {ord("S")}) and self._ahead_are_only(b"ZNSA")

    def _ahead_are_only(self, kinds: bytes) -> bool:
        ahead = bytes(self.backend.sent + self.backend.kept)
        return not self.half_delivered and all(kind in kinds for kind, _, _ in messages_in(ahead))

    def _inbox_holds_only(self, kinds: frozenset[int]) -> bool:
        inbox = bytes(self.backend.inbox)
        whole = list(messages_in(inbox))
        return (
            self.backend.at_rest
            and (whole[-1][2] if whole else 0) == len(inbox)
            and all(kind in kinds for kind, _, _ in whole)
        )


_LEFTOVERS = frozenset((COPY_DATA, COPY_DONE, COPY_FAIL, ord("H")))


def function_call(*, fails: bool = False) -> bytes:
    return message(F, b"no" if fails else b"ok")
