"""A socket while it talks: log-in, TLS, anything that is question and answer.

A `HandshakePort` collects what the peer sends and lets one coroutine read it piece by piece. When the talking
is over `detach` gives away the transport, with the bytes that were read too far, to a protocol that relays.

What bounds it: reading stops while more than READ_AHEAD bytes wait unread, `read_message` refuses a message
longer than its caller allows before the message has arrived, and `drain` makes a writer wait for a slow
reader. It works the same on TCP and Unix sockets, in clear and under TLS, on asyncio's own loop and on
uvloop's.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar, cast

from ..errors import PeerClosed, ProtocolViolation, TlsHandshakeFailed
from ..wire.framing import take_message, take_startup_packet

READ_AHEAD: Final = 64 * 1024
"""Bytes kept for a reader that does not come; the longest log-in message fits."""
KEEPALIVE_IDLE_S: Final = 60
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 6

LINGER_S: Final = 30.0
"""How long a peer that does not read may keep a connection from closing; the kernel gives orphans about as long."""

Address = tuple[str, int]
T = TypeVar("T")


def tune_socket(sock: socket.socket) -> None:
    """No Nagle delay, and probes that notice a peer that vanished within about two minutes. TCP only."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def close_within(transport: asyncio.Transport, linger_s: float) -> None:
    """Send what is queued, then close; whatever a peer has not taken by then is dropped."""
    transport.close()
    if transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(linger_s, transport.abort)


def peer_has_left(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer has closed its side while we were not reading, with bytes before that still unread.

    False where the system cannot tell (POLLRDHUP is Linux's), or where bytes of the peer's are still on their way.
    """
    connection = transport.get_extra_info("socket")
    hung_up = getattr(select, "POLLRDHUP", 0)
    if connection is None or not hung_up or transport.is_closing():
        return False
    poll = select.poll()
    poll.register(connection.fileno(), hung_up)
    return bool(poll.poll(0))


class HandshakePort(asyncio.Protocol):
    """One connection in its talking phase. One reader and one writer at a time.

    `lost` is set when the connection is gone for good; reading raises PeerClosed as soon as the peer has sent
    its last byte and that has been read. `channel_binding` is the digest SCRAM may be bound to: of our own
    certificate on a client's port, of the server's on a link's; None in clear.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._peer_done = False
        self._error: Exception | None = None
        self.lost = asyncio.Event()
        self.detached = False
        self.channel_binding: bytes | None = None

    # -- what the event loop calls ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > READ_AHEAD:
            self._pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool | None:
        """A half-open connection is of no use before the log-in is over, so the transport may close."""
        self._peer_done = True
        self._wake_reader()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer_done = True
        self._error = exc
        self.lost.set()
        self._wake_reader()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and were not read."""
        return len(self._buffer)

    async def read_exactly(self, count: int) -> bytes:
        """Raises PeerClosed where the peer hangs up first."""
        return await self._read(lambda buffer: _take(buffer, count))

    async def read_byte(self) -> int:
        return (await self.read_exactly(1))[0]

    async def read_message(self, max_length: int) -> tuple[int, bytes]:
        """Type byte and body of the next typed message.

        Raises ProtocolViolation above `max_length` bytes of body.
        """
        return await self._read(lambda buffer: take_message(buffer, max_length))

    async def read_startup_packet(self) -> bytes:
        """Body of the next start-up packet.

        Raises ProtocolViolation where its length is out of PostgreSQL's bounds.
        """
        return await self._read(take_startup_packet)

    async def _read(self, take: Callable[[bytearray], T | None]) -> T:
        while (taken := take(self._buffer)) is None:
            if self._peer_done:
                raise self._closed_error()
            await self._more()
        if self._reading_paused and len(self._buffer) <= READ_AHEAD:
            self._resume_reading()
        return taken

    async def _more(self) -> None:
        """Until something has arrived, or nothing ever will."""
        if self._reader is not None:
            raise RuntimeError("two coroutines read from the same port")
        if self._reading_paused:
            self._resume_reading()
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _closed_error(self) -> PeerClosed:
        if self._buffer:
            return PeerClosed("connection closed in the middle of a message", clean=False)
        if self._error is not None:
            return PeerClosed(f"connection lost: {self._error}", clean=False)
        return PeerClosed()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        self._reading_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # -- writing ---------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Queue bytes for the peer; nothing happens where the connection is closing."""
        if not self.transport.is_closing():
            self.transport.write(data)

    async def drain(self) -> None:
        """Until the peer has taken enough of what was written. Raises PeerClosed where it never will."""
        if self._writing_paused and not self.lost.is_set():
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self.lost.is_set():
            raise self._closed_error()

    # -- TLS -------------------------------------------------------------------------------------------------

    async def upgrade_tls(
        self,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Continue under TLS.

        Raises ProtocolViolation where bytes have arrived already: they came in clear, from whoever sits on
        the wire, and must not be taken for something said under TLS (CVE-2021-23214, CVE-2021-23222). Raises
        TlsHandshakeFailed, with the connection closed, where the peers do not agree.
        """
        if self._buffer:
            raise ProtocolViolation(
                "received unencrypted data after SSL request"
                if server_side
                else "received unencrypted data after SSL response",
                detail="This could be either a client-software bug or evidence of an attempted "
                "man-in-the-middle attack.",
            )
        if self._peer_done:
            raise self._closed_error()
        try:
            upgraded = await self._loop.start_tls(
                self.transport,
                self,
                context,
                server_side=server_side,
                server_hostname=server_hostname,
                ssl_handshake_timeout=timeout_s,
            )
        except (OSError, EOFError) as error:  # ssl.SSLError is an OSError; uvloop raises plain ones too
            self._give_up()
            raise TlsHandshakeFailed(_tls_reason(error)) from error
        except BaseException:
            self._give_up()
            raise
        if upgraded is None:  # what asyncio returns where the connection was lost in between
            self._give_up()
            raise TlsHandshakeFailed("the peer hung up during the TLS handshake")
        self._transport = upgraded
        self._reading_paused = False

    def _give_up(self) -> None:
        """During a handshake the end of the transport is reported to the loop's TLS layer, and not to us."""
        self.abort()
        if not self.lost.is_set():
            self.connection_lost(None)

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        found: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        return found

    @property
    def tls_description(self) -> str:
        """Version and cipher, as in SHOW CLIENTS; empty in clear."""
        found = self.ssl_object
        if found is None:
            return ""
        cipher = found.cipher()
        return f"{found.version()}/{cipher[0]}" if cipher else f"{found.version()}"

    # -- who and where ---------------------------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise RuntimeError("the port has no connection yet")
        return self._transport

    @property
    def peer(self) -> Address:
        """Address and port of the other end; ("unix", 0) on a Unix socket."""
        return _address(self.transport.get_extra_info("peername"))

    @property
    def local(self) -> Address:
        return _address(self.transport.get_extra_info("sockname"))

    @property
    def is_unix(self) -> bool:
        sock = self.transport.get_extra_info("socket")
        return sock is not None and sock.family == socket.AF_UNIX

    # -- the end ---------------------------------------------------------------------------------------------

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """Give the transport away, with what was read and not used.

        Reading is paused, so nothing is lost until the new owner has called `set_protocol` and
        `resume_reading` on it; it must do so before it awaits anything, or check `is_closing`, because a
        connection that dies in between is reported to nobody.
        """
        self._pause_reading()
        rest = bytes(self._buffer)
        self._buffer.clear()
        self.detached = True
        return self.transport, rest

    def close(self) -> None:
        """Send what is queued, then close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what is queued is dropped."""
        if self._transport is not None:
            self._transport.abort()


def _take(buffer: bytearray, count: int) -> bytes | None:
    if len(buffer) < count:
        return None
    taken = bytes(buffer[:count])
    del buffer[:count]
    return taken


def _address(name: object) -> Address:
    if isinstance(name, tuple) and len(name) >= 2:
        return str(name[0]), int(name[1])
    return "unix", 0


def _tls_reason(error: Exception) -> str:
    """OpenSSL's reason without its source line; a hang-up has no text of its own."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return str(error) or "the peer hung up during the TLS handshake"
