"""A client's log-in, from its first byte to AuthenticationOk.

The order is PostgreSQL's (ProcessStartupPacket, then ClientAuthentication): encryption requests, the start-up
packet, limits, authentication, and only then whether the database exists, so that a stranger learns nothing
about users and databases. An unknown user goes through the whole exchange and fails like one with a wrong
password.

A log-in that fails is told to the client as a FATAL error, then raised for the log. Faults that PostgreSQL
only logs (a time-out, a hang-up, a failed TLS handshake) are only raised.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import (
    InvalidParameterValue,
    LoginTimeout,
    MissingUserName,
    ProtocolViolation,
    ProxyError,
    UnknownDatabase,
)
from ..wire import messages
from ..wire.codes import (
    GSSENC_REQUEST_CODE,
    LATEST_PROTOCOL,
    NAME_LENGTH,
    OLDEST_MAJOR_PROTOCOL,
    SSL_REQUEST_CODE,
)
from ..wire.scram import ScramKeys
from ..wire.startup import (
    PROTOCOL_OPTION_PREFIX,
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupParameters,
    UnsupportedProtocol,
    check_major_version,
    negotiated,
    parse_startup_packet,
    to_bytes,
    to_text,
)
from .client_auth import Authentication, ClientCredential, LoginSettings
from .port import HandshakePort
from .tls import ServerTls

__all__ = ["CancelTarget", "ClientCredential", "ClientLogin", "LoginSettings", "accept_client"]

CancelTarget = CancelRequest
"""What a cancel request is about: `pid` and `key`."""

Replication = Literal["none", "logical", "physical"]


@dataclass(slots=True)
class ClientLogin:
    """A client that has proved who it is and has been told AuthenticationOk, nothing more.

    `startup` is its own packet, ready to be sent on: without the protocol options we declined, and with the
    version that was agreed on. `scram_keys` stand for its password towards a server that has the same
    verifier; None where it logged in another way.
    """

    startup: StartupParameters
    user: str
    database: str
    replication: Replication
    tls: str
    application_name: str
    scram_keys: ScramKeys | None = field(default=None, repr=False)


async def accept_client(port: HandshakePort, settings: LoginSettings) -> ClientLogin | CancelTarget:
    """Let the client in, or learn what it wants cancelled. Raises ProxyError; the caller closes the port.

    The whole log-in has `settings.timeout_s` (0: no limit); then it raises LoginTimeout, and the client, as
    with PostgreSQL, is told nothing.
    """
    try:
        async with asyncio.timeout(settings.timeout_s or None):
            packet = await _read_startup(port, settings)
            if isinstance(packet, CancelRequest):
                return packet
            return await _Login(port, settings, packet).run()
    except TimeoutError:
        raise LoginTimeout from None
    except ProxyError as error:
        if error.sent_to_client:
            too_old = isinstance(error, UnsupportedProtocol) and error.major < OLDEST_MAJOR_PROTOCOL
            port.write(messages.old_error_bytes(error) if too_old else messages.error_bytes(error))
        raise


async def _read_startup(port: HandshakePort, settings: LoginSettings) -> StartupParameters | CancelRequest:
    """Answer requests for encryption until the client says what it came for.

    Each kind may be asked for once, and none after TLS was agreed on; PostgreSQL takes a second request for a
    version of the protocol that it does not speak.
    """
    tls_settled = gss_settled = False
    while True:
        packet = parse_startup_packet(await port.read_startup_packet())
        match packet:
            case SslRequest():
                if tls_settled:
                    check_major_version(SSL_REQUEST_CODE)
                tls_settled = True
                gss_settled |= await _answer_ssl_request(port, settings.tls)
            case GssEncRequest():
                if gss_settled:
                    check_major_version(GSSENC_REQUEST_CODE)
                gss_settled = True
                _refuse_pipelined(port, "GSSAPI encryption")
                port.write(b"N")
            case _:
                return packet


async def _answer_ssl_request(port: HandshakePort, tls: ServerTls | None) -> bool:
    """Whether TLS was begun. As in PostgreSQL there is none on Unix sockets, and none inside direct TLS."""
    _refuse_pipelined(port, "SSL")
    if tls is None or port.is_unix or port.tls_description:
        port.write(b"N")
        return False
    port.write(b"S")
    await port.upgrade_tls(tls.context, server_side=True)
    port.channel_binding = tls.end_point
    return True


def _refuse_pipelined(port: HandshakePort, what: str) -> None:
    """Bytes behind the request came in clear, perhaps from a man in the middle (CVE-2021-23214)."""
    if port.buffered:
        raise ProtocolViolation(
            f"received unencrypted data after {what} request",
            detail="This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
        )


class _Login:
    """One client, after its start-up packet."""

    def __init__(self, port: HandshakePort, settings: LoginSettings, packet: StartupParameters) -> None:
        self._port = port
        self._settings = settings
        self._packet = packet
        self._user = _cut_name(packet.get("user"))
        self._database = _cut_name(packet.get("database")) or self._user

    async def run(self) -> ClientLogin:
        replication = _replication(self._packet.get("replication"))
        version = negotiated(self._packet)
        if version is not None:
            self._port.write(messages.negotiate_protocol_version(version, self._packet.unknown_options))
        if not self._user:
            raise MissingUserName
        refusal = self._settings.refuse(self._user, self._database)
        if refusal is not None:
            raise refusal
        scram_keys = await Authentication(self._port, self._settings, self._user, self._database).run()
        self._port.write(messages.AUTHENTICATION_OK)
        if not self._settings.database_exists(self._database):
            raise UnknownDatabase(self._database)
        return ClientLogin(
            startup=_agreed(self._packet),
            user=self._user,
            database=self._database,
            replication=replication,
            tls=self._port.tls_description,
            application_name=self._packet.get("application_name") or "",
            scram_keys=scram_keys,
        )


def _cut_name(name: str | None) -> str:
    """The server cuts longer names silently, and so a client may rely on it."""
    return to_text(to_bytes(name or "")[:NAME_LENGTH])


def _agreed(packet: StartupParameters) -> StartupParameters:
    parameters = tuple(pair for pair in packet.parameters if not pair[0].startswith(PROTOCOL_OPTION_PREFIX))
    return replace(packet, protocol=min(packet.protocol, LATEST_PROTOCOL), parameters=parameters)


def _replication(value: str | None) -> Replication:
    """The parameter is a boolean or the word "database" (ProcessStartupPacket, parse_bool)."""
    if value is None:
        return "none"
    if value == "database":
        return "logical"
    word = value.lower()
    if word == "1" or word == "on" or (word and ("true".startswith(word) or "yes".startswith(word))):
        return "physical"
    if word in ("0", "of", "off") or (word and ("false".startswith(word) or "no".startswith(word))):
        return "none"
    raise InvalidParameterValue(
        f'invalid value for parameter "replication": "{value}"',
        hint='Valid values are: "false", 0, "true", 1, "database".',
    )
