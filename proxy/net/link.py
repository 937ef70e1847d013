"""A logged-in link to a server: relays for a session, or answers questions of our own.

While `_batch` is set, what the server sends belongs to our question and not to the client. Notifications and
changed parameters are the client's in any case. So is a ReadyForQuery with nothing before it: each of our questions
is answered with something (session/exchange.py on stray ones).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ProxyError, ServerUnreachable
from ..session.replay import CloseNamed, Item, ParseNamed
from ..wire import messages
from .link_login import LinkTarget, OpenedLink
from .port import LINGER_S, close_within

if TYPE_CHECKING:
    from .session import Session

_DATA_ROW, _READY, _ERROR, _NOTIFICATION, _PARAMETER_STATUS, _NOTICE = 0x44, 0x5A, 0x45, 0x41, 0x53, 0x4E
_IDLE = 0x49


@dataclass(slots=True)
class Answer:
    """What came back for one Sync: rows, or the error's fields."""

    rows: list[list[bytes | None]] = field(default_factory=list)
    status: int = _IDLE
    error: dict[str, bytes] | None = None
    raw_error: bytes = b""

    @property
    def error_text(self) -> str:
        if self.error is None:
            return ""
        return self.error.get("M", b"").decode("utf-8", "replace")


class LinkLost(ProxyError):
    """The link went away while it was being asked."""

    sqlstate = "08006"
    severity = "FATAL"


class _Batch:
    """Collects the answers to a number of Syncs."""

    __slots__ = ("answered", "answers", "buffer", "current", "done", "expected", "then")

    def __init__(self, expected: int, done: asyncio.Future[list[Answer]]) -> None:
        self.expected = expected
        self.answers: list[Answer] = []
        self.current = Answer()
        self.buffer = b""
        self.done = done
        self.answered = False  # something has come since the last ReadyForQuery
        self.then: Callable[[], None] | None = None


class Link(asyncio.Protocol):
    """One backend of ours. `session` is the client it serves, None for a twin that waits for its swap.

    `awaited`: a client is about to take it; until then `opened_leftover` keeps what the server sends.
    """

    __slots__ = (
        "_batch",
        "_early",
        "_gone",
        "_loop",
        "_reading_paused",
        "awaited",
        "backend_pid",
        "cancel_key",
        "closed",
        "connect_time",
        "greeting",
        "id",
        "local",
        "lost",
        "opened_leftover",
        "parameters",
        "peer",
        "session",
        "target",
        "tls",
        "transport",
    )

    def __init__(self, identifier: int, target: LinkTarget, opened: OpenedLink) -> None:
        self.id = identifier
        self.target = target
        self.transport: asyncio.Transport = opened.transport
        self.backend_pid = opened.backend_pid
        self.cancel_key = opened.cancel_key
        self.parameters = dict(opened.parameters)
        self.greeting = opened.greeting
        self.tls = opened.tls
        self.local = opened.local
        self.peer = opened.peer
        self.connect_time = time.time()
        self.session: Session | None = None
        self.lost = False
        self.closed = False
        self.opened_leftover = opened.leftover
        self.awaited = False
        self._gone: asyncio.Event | None = None
        self._early = b""
        self._batch: _Batch | None = None
        self._reading_paused = False
        self._loop = asyncio.get_running_loop()
        self.transport.set_protocol(self)
        self.transport.resume_reading()

    # -- the relay's half --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._batch is not None:
            self._collect(data)
            return
        session = self.session
        if session is None:
            if not self.closed:
                self._came_early(data)
            return
        exchange = session.exchange
        if data[0] == _ERROR and session.outlives_link and exchange.quiet:
            session.last_words = data  # "terminating connection": not the client's business if its twin takes over
            return
        exchange.server(data)
        session.client_transport.write(data)
        session.bytes_sent += len(data)
        if session.busy_since and exchange.quiet:
            session.request_done()
        if session.slow:
            session.pump()

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.pause_client(True)

    def resume_writing(self) -> None:
        if self.session is not None:
            self.session.pause_client(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._batch is not None and self._batch.then is None and not self._batch.done.done():
            self._batch.done.set_exception(LinkLost("the server closed the connection"))
        self._batch = None
        if self._gone is not None:
            self._gone.set()
        if self.session is not None:
            self.session.link_lost(self)

    def close(self, *, goodbye: bool = True) -> None:
        """Say goodbye and close; what is still unsent goes out first. Behind half a message of a client there must be
        no goodbye: its bytes would complete that message, and the server would run what nobody asked for."""
        if self.closed:
            return
        self.closed = True
        if not self.lost:
            if goodbye:
                self.transport.write(messages.TERMINATE)
            close_within(self.transport, LINGER_S)

    def abandon(self) -> None:
        """Say goodbye to a backend that is still working, and wait for it to leave (`left`). What it still says is
        dropped."""
        self.closed = True
        self.session = None
        if not self.lost:
            self.transport.resume_reading()
            self.transport.write(messages.TERMINATE)

    async def left(self, timeout_s: float) -> bool:
        """Whether the connection is gone by then."""
        self._gone = self._gone or asyncio.Event()
        if not self.lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._gone.wait()
        return self.lost

    def abort(self) -> None:
        self.closed = True
        if not self.lost:
            self.transport.abort()

    @property
    def free(self) -> bool:
        """Nothing of ours is under way on it and it is alive."""
        return self._batch is None and not self.lost and not self.closed

    # -- questions of our own ----------------------------------------------------------------------------

    async def ask(
        self, questions: Sequence[tuple[bytes, Sequence[bytes]]], *, statement: bytes, timeout_s: float
    ) -> list[list[bytes | None]]:
        """Run statements with their parameters, one after the other in one transaction, under a name of their own
        that is closed again; the rows of all of them. Raises LinkLost, or ServerUnreachable with the server's own
        message where it refuses."""
        message = (
            messages.close("S", statement)  # of an earlier question that failed half way
            + b"".join(
                messages.parse(statement, sql, ())
                + messages.bind(b"", statement, parameters)
                + messages.execute(b"", 0)
                + messages.close("S", statement)
                for sql, parameters in questions
            )
            + messages.SYNC
        )
        (answer,) = await self._send(message, 1, timeout_s)
        if answer.error is not None:
            raise ServerUnreachable(answer.error_text)
        _check_idle(answer)
        return answer.rows

    async def run_items(self, items: Sequence[Item], timeout_s: float) -> list[Answer]:
        """Run what replay.py asks for, each item on its own; one answer per item, errors inside."""
        if not items:
            return []
        return await self._send(b"".join(_encode(item) for item in items), len(items), timeout_s)

    async def catch_up(self, timeout_s: float) -> None:
        """What the server has to say of itself by now, notifications above all, has come. Raises LinkLost."""
        (answer,) = await self._send(_NOTHING, 1, timeout_s)
        _check_idle(answer)

    def end_batch(self, then: Callable[[], None]) -> None:
        """Send a Sync of our own; `then` is called when it is answered. The link must be free."""
        self._begin(_NOTHING, 1).then = then

    async def send_raw(self, message: bytes, timeout_s: float) -> Answer:
        """Messages that end with one Sync."""
        (answer,) = await self._send(message, 1, timeout_s)
        return answer

    async def _send(self, message: bytes, expected: int, timeout_s: float) -> list[Answer]:
        if not self.free:
            raise LinkLost("the link is not free")
        done = self._begin(message, expected).done
        try:
            async with asyncio.timeout(timeout_s):
                return await done
        except TimeoutError as error:
            raise LinkLost(f"the server did not answer within {timeout_s:.3g} s") from error

    def _begin(self, message: bytes, expected: int) -> _Batch:
        batch = self._batch = _Batch(expected, self._loop.create_future())
        batch.buffer, self._early = self._early, b""
        if self._reading_paused:
            self.transport.resume_reading()  # the client reads slowly, but what comes now is for us
        self.transport.write(message)
        return batch

    def _batch_over(self, batch: _Batch) -> None:
        self._batch = None
        if self._reading_paused:
            self.transport.pause_reading()
        if batch.then is not None:
            batch.then()
        elif not batch.done.done():
            batch.done.set_result(batch.answers)
        elif self.session is not None:
            self.session.pump()  # whoever asked has given up; the client need not wait longer

    def pause(self, pause: bool) -> None:
        """Whether its client wants no more for now."""
        self._reading_paused = pause
        if self.lost or self._batch is not None:
            return
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _collect(self, data: bytes) -> None:
        batch = self._batch
        assert batch is not None
        data = batch.buffer + data
        position, size = 0, len(data)
        while size - position >= 5:
            length = int.from_bytes(data[position + 1 : position + 5], "big")
            end = position + 1 + length
            if end > size:
                break
            self._collected(batch, data[position], data[position + 5 : end], data[position:end])
            position = end
            if self._batch is None:
                rest = data[position:]
                if rest:
                    self.data_received(rest)
                return
        batch.buffer = data[position:]

    def _collected(self, batch: _Batch, kind: int, body: bytes, whole: bytes) -> None:
        if kind in (_NOTIFICATION, _PARAMETER_STATUS):
            self._unasked(whole)
            return
        if kind == _NOTICE:
            return
        if kind == _READY and not batch.answered:
            if self.session is not None:
                self.session.exchange.server(whole)
                self.session.client_transport.write(whole)
            return
        batch.answered = kind != _READY
        if kind == _DATA_ROW:
            batch.current.rows.append(messages.decode_data_row(body))
        elif kind == _ERROR:
            batch.current.error = messages.error_fields(body)
            batch.current.raw_error = whole
            if batch.current.error.get("V", b"") == b"FATAL" and self.session is not None:
                self.session.farewell(whole)
        elif kind == _READY:
            batch.current.status = body[0] if body else 0
            batch.answers.append(batch.current)
            batch.current = Answer()
            if len(batch.answers) == batch.expected:
                self._batch_over(batch)

    def serve(self, session: Session) -> None:
        """From now on what the server sends is for this session; the head of a message may be here already."""
        self.session = session
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def _came_early(self, data: bytes) -> None:
        """What a server sends of itself while nobody uses the link. A client that is still on its way gets it
        afterwards; for a twin only changed parameters matter."""
        if self.awaited:
            self.opened_leftover += data
            return
        data = self._early + data
        position = 0
        while len(data) - position >= 5:
            end = position + 1 + int.from_bytes(data[position + 1 : position + 5], "big")
            if end > len(data):
                break
            if data[position] == _PARAMETER_STATUS:
                self._unasked(data[position:end])
            position = end
        self._early = data[position:]

    def _unasked(self, data: bytes) -> None:
        """One message a server sends of itself: kept for a twin, passed on for a client's link."""
        if data[0] == _PARAMETER_STATUS:
            name, value = messages.decode_parameter_status(data[5:])
            self.parameters[name] = value
        if self.session is not None:
            if data[0] == _PARAMETER_STATUS:
                self.session.parameter_told(data[5:])
            self.session.client_transport.write(data)


def _check_idle(answer: Answer) -> None:
    """A backend in a transaction has been asked in the middle of something: its session must not be moved."""
    if answer.status != _IDLE:
        raise ServerUnreachable("the server is in a transaction")


def _encode(item: Item) -> bytes:
    if isinstance(item, ParseNamed):
        return messages.parse(item.name, item.text, item.type_oids) + messages.SYNC
    if isinstance(item, CloseNamed):
        return messages.close("S", item.name) + messages.SYNC
    return (
        messages.parse(b"", item.sql, ())
        + messages.bind(b"", b"", item.parameters)
        + messages.execute(b"", 0)
        + messages.close("S", b"")  # or the client would find an unnamed statement that it never made
        + messages.SYNC
    )


_NOTHING = messages.close("S", b"_pgcutover_nothing") + messages.SYNC
"""Changes nothing and is answered: closing a statement that does not exist is no error."""
