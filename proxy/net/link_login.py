"""Opening a link: connect to a server, log in, and collect what it says until it is ready.

The start-up packet is the client's own, with user and database replaced, so that settings given at connect
time are what RESET goes back to.

With sslmode `allow` and `prefer` (link_connect.py) libpq tries the other way after any error during the log-in;
here only after one of class 28, because pg_hba.conf is the only thing that can make a server answer differently.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Final

from ..errors import FeatureNotSupported, PeerClosed, ProtocolViolation, ProxyError
from ..wire import messages
from ..wire.binding import end_point_digest
from ..wire.codes import AuthRequest, ServerMessage
from ..wire.md5 import is_md5_secret, md5_response
from ..wire.scram import NONCE_LENGTH, ScramClient, ScramKeys, ScramVerifier, WrongProof
from ..wire.startup import StartupParameters
from .link_connect import LinkTarget, LinkUnreachable, TlsBrokenOff, connect, unreachable
from .port import Address, HandshakePort
from .scram_keys import scram_keys

__all__ = ["LinkRefused", "LinkTarget", "LinkUnreachable", "OpenedLink", "open_link"]

MAX_GREETING_BYTES: Final = 1024 * 1024
"""What a server may send before it is ready; a search_path or a NOTICE can be long, this is longer."""


@dataclass(slots=True)
class OpenedLink:
    """A link that is logged in and idle.

    `transport` is paused: set a protocol on it, feed `leftover` to that, then resume reading. `greeting` is
    what the server sent after AuthenticationOk up to and including ReadyForQuery, byte for byte; `parameters`
    and `cancel_key` are read from it. `protocol` is the version in use (3.0 = 196608).
    """

    transport: asyncio.Transport
    leftover: bytes
    backend_pid: int
    cancel_key: bytes = field(repr=False)
    parameters: dict[bytes, bytes]
    greeting: bytes = field(repr=False)
    tls: str
    local: Address
    peer: Address
    protocol: int


class LinkRefused(ProxyError):
    """The server answered with an error; `sqlstate` and `message` are its own.

    `raw_error` is its whole ErrorResponse, to be handed on to the client as it is.
    """

    log_level = "warning"

    def __init__(self, raw_error: bytes, sqlstate: str, message: str, *, log_detail: str | None = None) -> None:
        super().__init__(message, log_detail=log_detail)
        self.raw_error = raw_error
        self.sqlstate = sqlstate


async def open_link(
    target: LinkTarget,
    startup: StartupParameters,
    user: str,
    password: str | ScramKeys | None,
    timeout_s: float,
) -> OpenedLink:
    """Log in to `target` as `user`.

    ScramKeys in place of a password work where the server's verifier is the one they were made with.

    `timeout_s` covers all of it, attempts included; 0 means no limit. Raises LinkRefused or LinkUnreachable;
    after either, and after a cancellation, nothing stays open.
    """
    packet = startup.with_changes(user=user, database=target.database).encode()
    try:
        async with asyncio.timeout(timeout_s or None):
            return await _open(target, packet, startup.protocol, user, password)
    except TimeoutError:
        raise unreachable(target, f"no answer within {timeout_s:g} s") from None


async def _open(
    target: LinkTarget, packet: bytes, protocol: int, user: str, password: str | ScramKeys | None
) -> OpenedLink:
    """Try the ways that sslmode allows, in its order."""
    failures: list[LinkRefused | LinkUnreachable] = []
    for encrypted in target.encrypted_attempts:
        port: HandshakePort | None = None
        try:
            port = await connect(target, encrypted)
            under_tls = bool(port.tls_description)
            return await _LinkLogin(port, target, user, password).run(packet, protocol)
        except LinkRefused as error:
            failures.append(error)
            if not error.sqlstate.startswith("28") or under_tls != encrypted:
                break
        except LinkUnreachable as error:
            failures.append(error)
            if not isinstance(error, TlsBrokenOff):
                break
        except (PeerClosed, ProtocolViolation) as error:
            raise unreachable(target, error.message) from error
        finally:
            if port is not None and not port.detached:
                port.abort()
    raise _most_telling(failures)


def _most_telling(failures: list[LinkRefused | LinkUnreachable]) -> LinkRefused | LinkUnreachable:
    """The refusal that is about the user; "no pg_hba.conf entry" (28000) is about the way we came."""
    refusals = [failure for failure in failures if isinstance(failure, LinkRefused)]
    about_the_user = [refusal for refusal in refusals if refusal.sqlstate != "28000"]
    return (about_the_user or refusals or failures)[-1]


class _LinkLogin:
    """The dialogue from the start-up packet to ReadyForQuery."""

    def __init__(self, port: HandshakePort, target: LinkTarget, user: str, password: str | ScramKeys | None) -> None:
        self._port = port
        self._target = target
        self._user = user
        self._password = password
        self._protocol = 0
        self._scram: ScramClient | None = None
        self._server_is_proven = True  # false between the start and the end of a SCRAM exchange

    async def run(self, packet: bytes, protocol: int) -> OpenedLink:
        self._protocol = protocol
        self._port.write(packet)
        while True:
            kind, body = await self._read()
            if kind == ServerMessage.AUTHENTICATION:
                request, data = messages.decode_authentication(body)
                if request == AuthRequest.OK:
                    break
                await self._answer(request, data)
            elif kind == ServerMessage.NEGOTIATE_PROTOCOL_VERSION:
                self._protocol, _ = messages.decode_negotiate_protocol_version(body)
            elif kind != ServerMessage.NOTICE_RESPONSE:
                raise ProtocolViolation(f"unexpected message type 0x{kind:02x} during log-in")
        if not self._server_is_proven:
            raise ProtocolViolation("server ended the SCRAM exchange without proving that it knows the password")
        return await self._collect_greeting()

    async def _read(self) -> tuple[int, bytes]:
        """The next message; an ErrorResponse becomes LinkRefused."""
        kind, body = await self._port.read_message(MAX_GREETING_BYTES)
        if kind == ServerMessage.ERROR_RESPONSE:
            sqlstate, text = messages.error_text(body)
            raise LinkRefused(
                messages.message(kind, body),
                sqlstate,
                text,
                log_detail=f"{self._target.host}:{self._target.port}",
            )
        return kind, body

    async def _collect_greeting(self) -> OpenedLink:
        greeting: list[bytes] = []
        size = 0
        parameters: dict[bytes, bytes] = {}
        pid, key = 0, b""
        kind = 0
        while kind != ServerMessage.READY_FOR_QUERY:
            kind, body = await self._read()
            greeting.append(messages.message(kind, body))
            size += len(greeting[-1])
            if size > MAX_GREETING_BYTES:
                raise ProtocolViolation(f"server sent more than {MAX_GREETING_BYTES} bytes before it was ready")
            if kind == ServerMessage.PARAMETER_STATUS:
                name, value = messages.decode_parameter_status(body)
                parameters[name] = value
            elif kind == ServerMessage.BACKEND_KEY_DATA:
                pid, key = messages.decode_backend_key(body)
        port = self._port
        tls, local, peer = port.tls_description, port.local, port.peer
        transport, leftover = port.detach()
        return OpenedLink(
            transport, leftover, pid, key, parameters, b"".join(greeting), tls, local, peer, self._protocol
        )

    # -- authentication --------------------------------------------------------------------------------------

    async def _answer(self, request: int, data: bytes) -> None:
        match request:
            case AuthRequest.CLEARTEXT_PASSWORD:
                self._port.write(messages.password_message(self._plain_password()))
            case AuthRequest.MD5_PASSWORD:
                self._port.write(messages.password_message(self._md5_response(data)))
            case AuthRequest.SASL:
                self._start_scram(messages.decode_sasl_mechanisms(data))
            case AuthRequest.SASL_CONTINUE if self._scram is not None:
                await self._continue_scram(self._scram, data)
            case AuthRequest.SASL_FINAL if self._scram is not None:
                self._finish_scram(self._scram, data)
            case _:
                raise self._cannot(f"the server asks for authentication method {request}, which is not supported")

    def _plain_password(self) -> str:
        if isinstance(self._password, str) and self._password:
            if ScramVerifier.parse(self._password) is not None or is_md5_secret(self._password):
                raise self._cannot(
                    f'the server asks for a password, and for user "{self._user}" only a hash of it is '
                    "configured; set server_password"
                )
            return self._password
        raise self._cannot(f'the server asks for a password, and none is configured for user "{self._user}"')

    def _md5_response(self, salt: bytes) -> str:
        """The hash is as good as the password here: it is what the client would compute first."""
        if isinstance(self._password, str) and is_md5_secret(self._password):
            return md5_response(self._user, self._password, salt)
        return md5_response(self._user, self._plain_password(), salt)

    def _start_scram(self, mechanisms: list[str]) -> None:
        if not self._password:
            self._plain_password()
        ssl_object = self._port.ssl_object
        certificate = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
        end_point = end_point_digest(certificate) if certificate else None
        try:
            self._scram = ScramClient(mechanisms, os.urandom(NONCE_LENGTH), end_point)
        except FeatureNotSupported as error:
            raise self._cannot(error.message) from error
        self._server_is_proven = False
        self._port.write(messages.sasl_initial_response(self._scram.mechanism, self._scram.first()))

    async def _continue_scram(self, exchange: ScramClient, data: bytes) -> None:
        exchange.challenge(data)
        keys = self._password
        if not isinstance(keys, ScramKeys):
            keys = await scram_keys(self._plain_password(), exchange.salt, exchange.iterations)
        self._port.write(messages.sasl_response(exchange.final(keys)))

    def _finish_scram(self, exchange: ScramClient, data: bytes) -> None:
        try:
            exchange.verify(data)
        except WrongProof:
            raise self._cannot("the server does not know the password it asked for; it may be an impostor") from None
        self._server_is_proven = True

    def _cannot(self, reason: str) -> LinkUnreachable:
        return unreachable(self._target, reason)
