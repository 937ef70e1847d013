"""A connection to a server, up to where the start-up packet would follow: the socket, and TLS by sslmode.

`sslmode` means what it means to libpq:

    disable              no TLS
    allow                without, and with TLS where the server refuses that
    prefer               with, and without TLS where the server has none, breaks it off or refuses the log-in
    require and above    with TLS or not at all

Unix sockets never have TLS.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Final

from config.model import SslMode

from ..errors import PeerClosed, ProtocolViolation, ServerUnreachable, TlsHandshakeFailed
from ..wire import messages
from .port import HandshakePort, tune_socket
from .tls import TlsSettingsError, client_context

_SSL_ACCEPTED, _SSL_REFUSED = ord("S"), ord("N")
_ENCRYPTED_ATTEMPTS: Final = {
    SslMode.DISABLE: (False,),
    SslMode.ALLOW: (False, True),
    SslMode.PREFER: (True, False),
    SslMode.REQUIRE: (True,),
    SslMode.VERIFY_CA: (True,),
    SslMode.VERIFY_FULL: (True,),
}


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """Where a database leads.

    `host` is a name, an address, or the folder of a Unix socket (begins with "/").
    """

    name: str
    host: str
    port: int
    database: str
    sslmode: SslMode = SslMode.PREFER
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None

    @property
    def is_unix(self) -> bool:
        return self.host.startswith("/")

    @property
    def encrypted_attempts(self) -> tuple[bool, ...]:
        """Whether to try with TLS (True) or without, in this order."""
        return (False,) if self.is_unix else _ENCRYPTED_ATTEMPTS[self.sslmode]


class LinkUnreachable(ServerUnreachable):
    """No usable answer: nobody listens, TLS cannot be agreed on, the server hung up or was too slow."""


class TlsBrokenOff(LinkUnreachable):
    """TLS was begun and failed; mode `prefer` then goes on without."""


async def connect(target: LinkTarget, encrypted: bool) -> HandshakePort:
    """A port to the server, with TLS agreed on where `encrypted` asks for it. Nothing is open after an error.

    In mode `prefer` a server without TLS is accepted as it is. Raises LinkUnreachable.
    """
    port = await _connect_socket(target)
    try:
        if encrypted:
            await _start_tls(port, target)
    except BaseException:
        port.abort()
        raise
    return port


async def _connect_socket(target: LinkTarget) -> HandshakePort:
    loop = asyncio.get_running_loop()
    try:
        if target.is_unix:
            path = os.path.join(target.host, f".s.PGSQL.{target.port}")
            _, port = await loop.create_unix_connection(HandshakePort, path)
        else:
            _, port = await loop.create_connection(HandshakePort, target.host, target.port)
            tune_socket(port.transport.get_extra_info("socket"))
    except OSError as error:
        raise unreachable(target, error.strerror or str(error)) from error
    return port


async def _start_tls(port: HandshakePort, target: LinkTarget) -> None:
    """SSLRequest and what follows. The answer is one byte, and it is not authenticated by anything."""
    port.write(messages.SSL_REQUEST)
    try:
        answer = await port.read_byte()
    except PeerClosed as error:
        raise unreachable(target, error.message) from error
    if answer == _SSL_REFUSED:
        if target.sslmode is SslMode.PREFER:
            return
        raise unreachable(target, "server does not support SSL, but SSL was required")
    if answer != _SSL_ACCEPTED:
        raise unreachable(target, "received invalid response to SSL negotiation")
    try:
        context = client_context(target.sslmode, target.sslrootcert, target.sslcert, target.sslkey)
        await port.upgrade_tls(context, server_side=False, server_hostname=target.host)
    except TlsSettingsError as error:
        raise LinkUnreachable(
            f'TLS settings of database "{target.name}" cannot be used', log_detail=error.message
        ) from error
    except ProtocolViolation as error:
        raise unreachable(target, error.message) from error
    except (TlsHandshakeFailed, PeerClosed) as error:
        raise TlsBrokenOff(_text(target, f"TLS: {error.message}"), log_detail=f"{target.host}:{target.port}") from error


def unreachable(target: LinkTarget, reason: str) -> LinkUnreachable:
    """The error; the client reads the name of the database, the log the address as well."""
    return LinkUnreachable(_text(target, reason), log_detail=f"{target.host}:{target.port}")


def _text(target: LinkTarget, reason: str) -> str:
    return f'cannot connect to the server of database "{target.name}": {reason}'
