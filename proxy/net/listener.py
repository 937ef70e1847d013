"""The open door: accepts connections, and owns one task per connection until that is over.

With TLS configured the first byte of a connection is looked at (not read) before anything else: a client of
PostgreSQL 17 or newer may begin TLS at once, without an SSLRequest, and then offers "postgresql" by ALPN.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from ..errors import ProxyError, TooManyConnections
from ..wire import messages
from ..wire.codes import ALPN_PROTOCOL, TLS_HANDSHAKE_BYTE
from .port import HandshakePort, tune_socket
from .tls import ServerTls

log = structlog.get_logger(__name__)

_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPTS_PER_TURN: Final = 64
"""Connections taken before the event loop gets a turn again."""

OnConnection = Callable[[HandshakePort], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """`max_connections` is the last line of defence and counts every connection, also those that still log
    in, ask for the admin database or only cancel; set it well above the number of clients allowed. 0 means no
    limit.

    `first_byte_timeout_s`: a connection that says nothing is closed after this. `linger_s`: a connection
    whose peer does not take its last bytes is cut off after this. `retry_s`: pause after running out of
    descriptors.
    """

    max_connections: int = 0
    backlog: int = 1024
    first_byte_timeout_s: float = 60.0
    linger_s: float = 5.0
    retry_s: float = 0.25


class Listener:
    """Listens on `host` and `port` (0: any free one, see `bound_port`), and in a Unix socket folder if given.

    `on_connection` gets every connection as a HandshakePort and runs in a task of its own. When it returns
    without having detached the port, the port is closed. What it raises is logged and ends that connection
    only.

    The end goes in steps: `close` stops accepting, `wait_closed` waits for the tasks, `cancel` cancels them.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: ServerTls | None,
        on_connection: OnConnection,
        limits: ListenerLimits | None = None,
        *,
        unix_folder: str | None = None,
        reuse_port: bool = False,
    ) -> None:
        self.tls = tls
        """May be replaced at any time; connections accepted from then on use the new one."""
        self._host = host
        self._port = port
        self._on_connection = on_connection
        self._limits = limits or ListenerLimits()
        self._unix_folder = unix_folder
        self._reuse_port = reuse_port
        self._sockets: list[socket.socket] = []
        self._unix_path: str | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Bind and listen. Raises OSError with the address in its text."""
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {self._host}: {error.strerror}") from error
        try:
            for family, _, _, _, address in dict.fromkeys(addresses):
                self._sockets.append(self._bind_tcp(family, address))
            if self._unix_folder is not None:
                self._sockets.append(self._bind_unix(self._unix_folder))
        except OSError:
            self.close()
            raise
        self._watch()

    @property
    def bound_port(self) -> int:
        """The port in use; the configured one unless that was 0."""
        return self._port

    @property
    def connections(self) -> int:
        """Connections that have a task, whatever they are doing."""
        return len(self._tasks)

    def close(self) -> None:
        """Stop accepting. Connections go on."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        if self._unix_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._unix_path)
            self._unix_path = None

    def cancel(self) -> None:
        """Cancel the task of every connection."""
        for task in tuple(self._tasks):
            task.cancel()

    async def wait_closed(self) -> None:
        """Until every connection's task has ended."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    # -- sockets ---------------------------------------------------------------------------------------------

    def _bind_tcp(self, family: int, address: tuple[Any, ...]) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tune_socket(sock)  # Linux hands these options on to accepted sockets (tcp(7), socket(7))
            sock.bind((address[0], self._port, *address[2:]))
            sock.listen(self._limits.backlog)
        except OSError as error:
            sock.close()
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"cannot listen on {address[0]}:{self._port}: {reason}") from error
        sock.setblocking(False)
        self._port = sock.getsockname()[1]  # one port for all addresses, also where it was chosen for us
        return sock

    def _bind_unix(self, folder: str) -> socket.socket:
        """PostgreSQL's name for the socket and its default permissions: the folder decides who connects."""
        path = os.path.join(folder, f".s.PGSQL.{self._port}")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode) and not _is_listening(path):
                    os.unlink(path)
            sock.bind(path)
            os.chmod(path, 0o777)
            sock.listen(self._limits.backlog)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot listen on {path}: {error.strerror or error}") from error
        sock.setblocking(False)
        self._unix_path = path
        return sock

    def _watch(self) -> None:
        self._retry = None
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        """Take what waits in the backlog."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._wait_for_resources(error)
                    return
                continue  # ECONNABORTED and its like: this peer is gone already, others wait
            self._welcome(connection)

    def _wait_for_resources(self, error: OSError) -> None:
        """Clients stay in the backlog meanwhile.

        Without the pause the loop would spin on a readable socket.
        """
        log.error("accept_failed", reason=error.strerror, retry_s=self._limits.retry_s)
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
        if self._retry is None:
            self._retry = loop.call_later(self._limits.retry_s, self._watch)

    def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if 0 < self._limits.max_connections <= len(self._tasks):
            _turn_away(connection)
            return
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        task.set_name(f"client connection {connection.fileno()}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- one connection --------------------------------------------------------------------------------------

    async def _serve(self, connection: socket.socket) -> None:
        port: HandshakePort | None = None
        try:
            port = await self._open_port(connection)
            if port is not None:
                await self._on_connection(port)
        except ProxyError as error:
            log.debug("connection_ended", reason=error.message, sqlstate=error.sqlstate)
        except OSError as error:
            log.debug("connection_failed", reason=str(error))
        except Exception:
            log.exception("connection_failed_unexpectedly")
        finally:
            if port is None:
                connection.close()
            elif not port.detached:
                await self._finish(port)

    async def _finish(self, port: HandshakePort) -> None:
        """Let the last bytes go out, but not for ever; `cancel` during that cuts it short."""
        port.close()
        try:
            async with asyncio.timeout(self._limits.linger_s):
                await port.lost.wait()
        except TimeoutError:
            port.abort()
        except asyncio.CancelledError:
            port.abort()
            raise

    async def _open_port(self, connection: socket.socket) -> HandshakePort | None:
        """The connection as a port, under TLS where the client began with that; None where it is over."""
        loop = asyncio.get_running_loop()
        tls = self.tls
        # Made here, because uvloop answers with a protocol of its own where it is asked for TLS.
        port = HandshakePort()
        first = b""
        if tls is not None and connection.family != socket.AF_UNIX:
            first = await self._peek(connection)
            if not first:
                return None
        if tls is None or not first or first[0] != TLS_HANDSHAKE_BYTE:
            await loop.connect_accepted_socket(lambda: port, connection)
            return port
        await loop.connect_accepted_socket(
            lambda: port,
            connection,
            ssl=tls.context,
            ssl_handshake_timeout=self._limits.first_byte_timeout_s or None,
        )
        ssl_object = port.ssl_object
        if ssl_object is None or ssl_object.selected_alpn_protocol() != ALPN_PROTOCOL:
            # As in PostgreSQL: without it a browser could be made to talk to us (the ALPACA attack).
            log.debug("direct_tls_without_alpn", peer=port.peer)
            port.abort()
            return None
        port.channel_binding = tls.end_point
        return port

    async def _peek(self, connection: socket.socket) -> bytes:
        """The first byte, left where it is; nothing where the client says nothing in time."""
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(connection, _set_done, readable)
        try:
            async with asyncio.timeout(self._limits.first_byte_timeout_s or None):
                await readable
            return connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return b""
        finally:
            loop.remove_reader(connection)


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _turn_away(connection: socket.socket) -> None:
    """Without a task, so that a flood costs little; a client reads the reason if it has not sent much yet."""
    with contextlib.suppress(OSError):
        connection.send(messages.error_bytes(TooManyConnections()))
    connection.close()


def _is_listening(path: str) -> bool:
    """Whether a living process has this Unix socket; a dead one leaves the file behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
