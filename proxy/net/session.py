"""One client and its link: the relay, and what happens to it at a gate.

Fast path: the gate is open and nobody asks anything; bytes go through as they come, counted by the Exchange.
Slow path: the gate drains or is closed, or we are asking the backend a question. Client bytes are kept in
`held` and `pump` forwards them one request at a time while that is allowed.

A session whose link is lost while a run holds it is not closed at once: after the commit point its twin takes
over as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ProtocolViolation, ProxyError, QueryCanceled
from ..session import footprint
from ..session.capture import SessionState
from ..session.exchange import Exchange
from ..wire import messages
from .client_login import ClientLogin
from .port import LINGER_S, close_within, peer_has_left

if TYPE_CHECKING:
    from .link import Link
    from .route import Route

HELD_LIMIT_BYTES = 256 * 1024
"""A held client is read up to here; then its socket waits, as any slow server would make it wait."""

_PARSE = 0x50
_QUERY = 0x51
_TERMINATE = 0x58


class ClientSide(asyncio.Protocol):
    """The client's socket once it is logged in."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def data_received(self, data: bytes) -> None:
        session = self.session
        session.bytes_received += len(data)
        if session.slow:
            session.hold(data)
            return
        if not session.busy_since:
            session.busy_since = time.monotonic()
        session.exchange.client(data)
        session.link_transport.write(data)

    def pause_writing(self) -> None:
        self.session.pause_link(True)

    def resume_writing(self) -> None:
        self.session.pause_link(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.client_gone()


class Session:
    """See the file's head. Created when client and link are both logged in; ends with either of them."""

    __slots__ = (
        "_client_paused",
        "_link_paused",
        "_on_end",
        "asking",
        "busy_since",
        "bytes_received",
        "bytes_sent",
        "client_transport",
        "connect_time",
        "dirty",
        "ended",
        "exchange",
        "held",
        "held_since",
        "id",
        "key",
        "last_words",
        "link",
        "link_transport",
        "local",
        "login",
        "on_next_quiet",
        "opaque_names",
        "option_statements",
        "peer",
        "quiet_since",
        "request_since",
        "requests_seen",
        "revive",
        "route",
        "seen_at",
        "seen_bytes",
        "settling",
        "slow",
        "sticky",
        "stopped",
        "told",
        "twin",
        "twin_state",
        "unnamed_parse",
        "unseen_text",
        "usual_s",
        "waited_us",
    )

    def __init__(
        self,
        identifier: int,
        login: ClientLogin,
        route: Route,
        client_transport: asyncio.Transport,
        link: Link,
        on_end: Callable[[Session], None],
    ) -> None:
        self.id = identifier
        self.key: tuple[int, bytes] = (link.backend_pid, link.cancel_key)
        self.login = login
        self.route = route
        self.client_transport = client_transport
        self.peer = client_transport.get_extra_info("peername")
        self.local = client_transport.get_extra_info("sockname")
        self.connect_time = time.time()
        self.exchange = Exchange(self._statement, self._tag, self.parameter_told)
        self.held = bytearray()
        self.held_since = 0.0
        self.busy_since = 0.0
        self.quiet_since = time.monotonic()
        self.usual_s = 0.0
        self.waited_us = 0
        self.seen_at = time.monotonic()
        self.seen_bytes = (0, 0)
        self.request_since: float | None = None
        self.requests_seen = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.slow = False
        self.stopped = False
        self.asking = False
        self.settling = False
        self.ended = False
        self.dirty = True  # never asked yet; start-up packets can hold settings of any kind
        self.sticky = False
        self.opaque_names = False
        self.option_statements: dict[bytes, footprint.OptionUse] = {}
        self.unseen_text = False
        self.last_words = b""
        self.unnamed_parse: bytes | None = None
        self.revive: Callable[[Session], None] | None = None
        self.on_next_quiet: Callable[[], None] | None = None
        self.twin: Link | None = None
        self.twin_state = SessionState()
        self._client_paused = 0
        self._link_paused = False
        self._on_end = on_end
        self.told: dict[bytes, bytes] = dict(link.parameters)
        self.link = link
        self.link_transport = link.transport
        link.session = self
        if link.lost:
            self.link_lost(link)

    # -- what the exchange reports -------------------------------------------------------------------------

    def _statement(self, kind: int, body: bytes | None) -> None:
        self.unseen_text = body is None
        if kind != _PARSE:
            self.unnamed_parse = None  # a Query destroys the unnamed statement
        if body is None:  # too long to be looked at
            self.dirty = True
            if kind == _PARSE:
                self.sticky = True
                self.unnamed_parse = None
            return
        vocabulary = self.route.vocabulary
        lowered = body.lower()
        suspicious = vocabulary.suspicious(lowered)
        if suspicious:
            self.dirty = True
        name = b""
        if kind == _PARSE:
            if body[:1] == b"\0":
                self.unnamed_parse = body
            else:
                name = body[: body.find(b"\0")]
                self.dirty = True
                if suspicious:
                    self.sticky = True
        use = footprint.option_use(body, lowered)
        if use is not footprint.NO_OPTIONS or self.option_statements:
            self._options(name, use, prepared=kind == _PARSE)

    def _options(self, statement: bytes, use: footprint.OptionUse, *, prepared: bool) -> None:
        """A statement that may set customized options; their names may come with its parameters."""
        self.route.vocabulary.learn_names(use.names)
        if use.unknown or (use.parameters and not prepared):
            self.opaque_names = True
        if use.parameters:
            self.option_statements[statement] = use
            self.exchange.on_bind = self._bind
        elif prepared:
            self.option_statements.pop(statement, None)

    def _bind(self, body: bytes | None) -> None:
        """A session with statements that take the name of an option as a parameter."""
        if body is None:
            self.opaque_names = True
            return
        try:
            statement, values = messages.decode_bind(body)
            use = self.option_statements.get(statement)
            if use is not None:
                self.dirty = True
                self.route.vocabulary.learn_names(footprint.bound_names(use, values))
        except (ProtocolViolation, IndexError):
            return  # the server refuses it

    def _tag(self, tag: bytes) -> None:
        self.dirty = True
        if tag == b"SET" and self.unseen_text:
            self.opaque_names = True

    def parameter_told(self, body: bytes) -> None:
        try:
            name, value = messages.decode_parameter_status(body)
        except ProtocolViolation:
            return  # the client gets it as it is
        self.told[name] = value
        self.link.parameters[name] = value
        self.dirty = True

    # -- time ----------------------------------------------------------------------------------------------

    def request_done(self) -> None:
        """The session has become quiet after having been busy."""
        now = time.monotonic()
        took = now - self.busy_since
        self.busy_since = 0.0
        self.quiet_since = now
        self.usual_s = took if took > self.usual_s else self.usual_s * 0.9 + took * 0.1
        self.route.transaction_time_us += int(took * 1_000_000)
        if self.on_next_quiet is not None:
            call, self.on_next_quiet = self.on_next_quiet, None
            call()
        if self.route.on_quiet is not None:
            self.route.on_quiet(self)

    # -- the gate ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """From now on no new request begins (the gate drains)."""
        self.stopped = True
        self.slow = True
        self.settle()

    def settle(self) -> None:
        """A driver that has prepared a statement and sent no Sync could be waited for for hours: a Sync of our own
        ends its batch, unseen by the client (session/exchange.py)."""
        if self.exchange.prepared_only and self.link.free and not self.ended:
            self.settling = self.slow = True
            self.exchange.synced_for_client()
            self.link.end_batch(self._settled)

    def _settled(self) -> None:
        self.settling = False
        self.exchange.server(messages.ready_for_query())
        if self.busy_since and self.exchange.quiet:
            self.busy_since = time.monotonic()  # the time in which its client had nothing to say is nobody's usual time
            self.request_done()
        self.pump()

    def let_go(self) -> None:
        """The gate is open for this session; what was held goes out in one piece."""
        self.stopped = False
        if self._client_paused & 2 and peer_has_left(self.client_transport):
            self.client_gone()  # its socket is not read, so nobody has told us
            return
        self.pump()

    def hold(self, data: bytes) -> None:
        """Client bytes on the slow path."""
        self.held += data
        self.pump()
        if not self.held or self.ended:
            return
        if not self.held_since:
            self.held_since = time.monotonic()
        if len(self.held) >= HELD_LIMIT_BYTES:
            self.pause_client(True, reason=2)

    def pump(self) -> None:
        """Forward what may be forwarded now; leave the slow path when nothing keeps the session on it."""
        exchange = self.exchange
        while self.held and not self.ended:
            if not self.link.free:
                return
            if exchange.at_boundary:
                if exchange.quiet:
                    if self.held[0] == _TERMINATE:
                        self.end()
                        return
                    if self.stopped or self.asking:
                        return
                    if self.revive is not None and not self._revived():
                        return
                elif exchange.owed and self.stopped:
                    return
            length = exchange.unit_length(self.held) if self.stopped else len(self.held)
            chunk = bytes(self.held[:length])
            del self.held[:length]
            if not self.busy_since:
                self.busy_since = time.monotonic()
            exchange.client(chunk)
            self.link_transport.write(chunk)
        if self.held:
            return
        if self.held_since:
            self._hold_ended()
        if self._client_paused & 2:
            self.pause_client(False, reason=2)
        if not self.stopped and not self.asking and self.revive is None and self.link.free:
            self.slow = False
        elif self.stopped:
            self.settle()

    def _revived(self) -> bool:
        """The first request on a new link. True when it can go out as it is.

        The old link may have known an unnamed statement. It is needed again only by a client that begins with
        something else than a Parse or a Query, which is rare, so it is made again only then.
        """
        call, self.revive = self.revive, None
        if call is None or self.held[0] in (_PARSE, _QUERY):
            return True
        call(self)
        return False

    def _hold_ended(self) -> None:
        waited = time.monotonic() - self.held_since
        self.held_since = 0.0
        self.waited_us += int(waited * 1_000_000)
        self.route.wait_time_us += int(waited * 1_000_000)
        self.route.hold_ended(waited)

    def cancel_held(self) -> bool:
        """Drop the first held request as a cancel would; True where there was one.

        Only a request that is complete can be answered; an incomplete one is left, and so is the cancel.
        """
        if not self.held or not self.exchange.quiet:
            return False
        length = self.exchange.unit_length(self.held)
        if not _ends_request(self.held, length):
            return True
        del self.held[:length]
        self.client_transport.write(messages.error_bytes(QueryCanceled()) + messages.ready_for_query())
        if not self.held:
            self.pump()
        return True

    # -- back-pressure ---------------------------------------------------------------------------------------

    def pause_client(self, pause: bool, reason: int = 1) -> None:
        before = self._client_paused
        self._client_paused = before | reason if pause else before & ~reason
        if bool(before) == bool(self._client_paused) or self.client_transport.is_closing():
            return
        if self._client_paused:
            self.client_transport.pause_reading()
        else:
            self.client_transport.resume_reading()

    def pause_link(self, pause: bool) -> None:
        self._link_paused = pause
        if not self.ended:
            self.link.pause(pause)

    # -- the end ---------------------------------------------------------------------------------------------

    def client_gone(self) -> None:
        """The client closed its connection: whatever it had waiting is dropped, never run later."""
        self.held.clear()
        self.held_since = 0.0
        self.end()

    def link_lost(self, link: Link) -> None:
        if link is not self.link or self.ended:
            return
        if self.outlives_link and self.exchange.quiet:
            return
        self.end_without_link()

    @property
    def outlives_link(self) -> bool:
        """From the fence to the outcome of a run: its twin may take over."""
        return self.stopped and self.route.keeps_lost_links

    def farewell(self, error: bytes) -> None:
        """The server's last words on a link that is going away."""
        if self.outlives_link and self.exchange.quiet:
            self.last_words = error
        else:
            self.client_transport.write(error)

    def end_without_link(self) -> None:
        """No twin has taken over after all."""
        if not self.ended and not self.client_transport.is_closing() and self.exchange.between_messages:
            self.client_transport.write(self.last_words)
        self.end()

    def refuse(self, error: ProxyError) -> None:
        """Tell the client why, and end. In the middle of a message of the server there is no place to say it."""
        tell = self.exchange.between_messages and not self.ended
        if tell and not self.client_transport.is_closing():
            self.client_transport.write(messages.error_bytes(error))
        self.end()

    def end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.held.clear()
        if not self.client_transport.is_closing():
            close_within(self.client_transport, LINGER_S)
        if self.exchange.working and self.exchange.sent_whole:
            self.link.abandon()
        else:
            self.link.close(goodbye=self.exchange.sent_whole)
        if self.twin is not None:
            self.twin.close()
            self.twin = None
        self._on_end(self)

    # -- the swap --------------------------------------------------------------------------------------------

    def take_twin(self) -> Link:
        """Leave the old link, which is returned and to be closed, for the twin. The session must be quiet."""
        twin = self.twin
        if twin is None or not self.exchange.quiet:
            raise AssertionError("a session is moved only when it is quiet and its twin is ready")
        old = self.link
        old.session = None
        self.twin = None
        self.link = twin
        self.link_transport = twin.transport
        self.twin_state = SessionState()
        self.dirty = True
        self.exchange.reset()
        changed = b"".join(
            messages.parameter_status(name, value)
            for name, value in twin.parameters.items()
            if self.told.get(name) != value
        )
        self.told = dict(twin.parameters)
        if changed:
            self.client_transport.write(changed)
        self.last_words = b""
        if self._link_paused:
            twin.pause(True)
        twin.serve(self)
        if twin.lost:
            self.link_lost(twin)
        return old


def _ends_request(data: bytearray, length: int) -> bool:
    """Whether these bytes are whole messages, the last of them one that is answered with ReadyForQuery."""
    position = 0
    kind = 0
    while length - position >= 5:
        kind = data[position]
        position += 1 + int.from_bytes(data[position + 1 : position + 5], "big")
    return position == length and kind in (_QUERY, 0x53, 0x46)
