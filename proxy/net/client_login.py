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
import hmac
import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from config.model import AuthType, SslMode

from ..errors import (
    CertificateRejected,
    CertificateRequired,
    EmptyPassword,
    InvalidParameterValue,
    InvalidPassword,
    LoginTimeout,
    MissingUserName,
    ProtocolViolation,
    ProxyError,
    TlsRequired,
    UnknownDatabase,
    UnknownRole,
)
from ..wire import messages
from ..wire.codes import (
    GSSENC_REQUEST_CODE,
    LATEST_PROTOCOL,
    MAX_AUTH_TOKEN_LENGTH,
    MAX_SASL_MESSAGE_LENGTH,
    NAME_LENGTH,
    OLDEST_MAJOR_PROTOCOL,
    SSL_REQUEST_CODE,
    ClientMessage,
)
from ..wire.md5 import is_md5_secret, md5_response_matches, md5_secret
from ..wire.scram import (
    DEFAULT_ITERATIONS,
    NONCE_LENGTH,
    ScramKeys,
    ScramServer,
    ScramVerifier,
    WrongProof,
    mock_salt,
    mock_verifier,
)
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
from .port import HandshakePort
from .scram_keys import scram_keys
from .tls import ServerTls, peer_common_name

CancelTarget = CancelRequest
"""What a cancel request is about: `pid` and `key`."""

Replication = Literal["none", "logical", "physical"]

_PROCESS_SECRET: Final = os.urandom(32)
_MD5_SALT_LENGTH: Final = 4


@dataclass(frozen=True, slots=True)
class ClientCredential:
    """What is known of a user of a database.

    `secret` is a plain password, a SCRAM-SHA-256$ verifier or an md5 hash; None where the user has none, and
    then no password fits. `auth_type` overrides the general one (the admin database has its own rule).
    """

    secret: str | None = field(repr=False)
    auth_type: AuthType | None = None


Lookup = Callable[[str, str], "ClientCredential | Awaitable[ClientCredential | None] | None"]


def _anything_goes(_user: str, _database: str) -> ProxyError | None:
    return None


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """What a log-in is judged by. Made anew at RELOAD; a log-in under way keeps the one it began with.

    `lookup(database, user)` may be a plain function or a coroutine function, and answers None for a user that
    does not exist. `database_exists` is asked once the client has proved who it is. `refuse(user, database)`
    is asked before authentication and returns the error that turns the client away (too many clients,
    shutting down).
    """

    lookup: Lookup
    auth_type: AuthType = AuthType.SCRAM
    tls: ServerTls | None = None
    timeout_s: float = 60.0
    database_exists: Callable[[str], bool] = lambda _database: True
    refuse: Callable[[str, str], ProxyError | None] = _anything_goes
    mock_secret: bytes = field(default=_PROCESS_SECRET, repr=False)


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
            detail="This could be either a client-software bug "
            "or evidence of an attempted man-in-the-middle attack.",
        )


class _Login:
    """One client, after its start-up packet."""

    def __init__(self, port: HandshakePort, settings: LoginSettings, packet: StartupParameters) -> None:
        self._port = port
        self._settings = settings
        self._packet = packet
        self._user = _cut_name(packet.get("user"))
        self._database = _cut_name(packet.get("database")) or self._user
        self._scram_keys: ScramKeys | None = None

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
        await self._authenticate()
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
            scram_keys=self._scram_keys,
        )

    async def _authenticate(self) -> None:
        """Returns where the client may come in, raises where it may not."""
        self._check_tls()
        found = self._settings.lookup(self._database, self._user)
        credential = await found if inspect.isawaitable(found) else found
        secret = credential.secret if credential is not None else None
        match (credential.auth_type if credential is not None else None) or self._settings.auth_type:
            case AuthType.TRUST:
                self._check_known(credential)
            case AuthType.CERT:
                self._check_certificate(name_must_match=True)
                self._check_known(credential)
            case AuthType.PLAIN:
                await self._ask_plain(secret)
            case AuthType.MD5:
                # PostgreSQL's method md5 means SCRAM where the secret is SCRAM's (CheckPWChallengeAuth).
                if secret is not None and ScramVerifier.parse(secret) is not None:
                    await self._ask_scram(secret)
                else:
                    await self._ask_md5(secret)
            case AuthType.SCRAM:
                await self._ask_scram(secret)

    def _check_tls(self) -> None:
        tls = self._settings.tls
        if tls is None or not tls.required or self._port.is_unix:
            return
        if not self._port.tls_description:
            raise TlsRequired
        if tls.client_certificate_required:
            self._check_certificate(name_must_match=tls.mode is SslMode.VERIFY_FULL)

    def _check_certificate(self, *, name_must_match: bool) -> None:
        """A certificate that arrived was verified in the handshake; what is left is whose it is."""
        ssl_object = self._port.ssl_object
        if ssl_object is None or not ssl_object.getpeercert():
            raise CertificateRequired
        if name_must_match and peer_common_name(ssl_object) != self._user:
            raise CertificateRejected(self._user)

    def _check_known(self, credential: ClientCredential | None) -> None:
        """Where no password is asked for, nothing is gained by hiding who exists."""
        if credential is None:
            if not self._settings.database_exists(self._database):
                raise UnknownDatabase(self._database)
            raise UnknownRole(self._user)

    # -- passwords -------------------------------------------------------------------------------------------

    async def _ask_plain(self, secret: str | None) -> None:
        self._port.write(messages.AUTHENTICATION_CLEARTEXT_PASSWORD)
        password = await self._read_password()
        if secret is None or not await self._plain_password_fits(secret, password):
            raise InvalidPassword(self._user)

    async def _plain_password_fits(self, secret: str, password: bytes) -> bool:
        verifier = ScramVerifier.parse(secret)
        if verifier is not None:
            keys = await scram_keys(to_text(password), verifier.salt, verifier.iterations)
            self._scram_keys = keys
            return hmac.compare_digest(keys.server_key, verifier.server_key)
        if is_md5_secret(secret):
            return hmac.compare_digest(md5_secret(self._user, to_text(password)), secret)
        return hmac.compare_digest(password, to_bytes(secret))

    async def _ask_md5(self, secret: str | None) -> None:
        salt = os.urandom(_MD5_SALT_LENGTH)
        self._port.write(messages.authentication_md5_password(salt))
        response = await self._read_password()
        if secret is None or not md5_response_matches(self._user, secret, salt, response):
            raise InvalidPassword(self._user)

    async def _read_password(self) -> bytes:
        """PostgreSQL: recv_password_packet in libpq/auth.c."""
        kind, body = await self._port.read_message(MAX_AUTH_TOKEN_LENGTH)
        if kind != ClientMessage.PASSWORD:
            raise ProtocolViolation(f"expected password response, got message type {kind}")
        if body.find(b"\0") != len(body) - 1:
            raise ProtocolViolation("invalid password packet size")
        if len(body) == 1:
            raise EmptyPassword
        return body[:-1]

    async def _ask_scram(self, secret: str | None) -> None:
        verifier = await self._scram_verifier(secret)
        end_point = self._port.channel_binding
        exchange = ScramServer(verifier, os.urandom(NONCE_LENGTH), end_point)
        self._port.write(messages.authentication_sasl(exchange.mechanisms))
        mechanism, first = messages.decode_sasl_initial_response(await self._read_sasl())
        if first is None:  # allowed by RFC 4422: the client waits for an empty challenge
            self._port.write(messages.authentication_sasl_continue(b""))
            first = await self._read_sasl()
        self._port.write(messages.authentication_sasl_continue(exchange.first(mechanism, first)))
        try:
            proof = exchange.final(await self._read_sasl())
        except WrongProof:
            raise InvalidPassword(self._user) from None
        self._scram_keys = exchange.client_keys
        self._port.write(messages.authentication_sasl_final(proof))

    async def _scram_verifier(self, secret: str | None) -> ScramVerifier:
        """A plain password gets the salt that an unknown user of that name would: nobody sees who exists.

        An md5 hash cannot be checked by SCRAM: such a user, as in PostgreSQL, fails like an unknown one.
        """
        if secret is None or is_md5_secret(secret):
            return mock_verifier(self._user, self._settings.mock_secret)
        verifier = ScramVerifier.parse(secret)
        if verifier is not None:
            return verifier
        salt = mock_salt(self._user, self._settings.mock_secret)
        keys = await scram_keys(secret, salt, DEFAULT_ITERATIONS)
        return ScramVerifier(DEFAULT_ITERATIONS, salt, keys.stored_key, keys.server_key)

    async def _read_sasl(self) -> bytes:
        kind, body = await self._port.read_message(MAX_SASL_MESSAGE_LENGTH)
        if kind != ClientMessage.PASSWORD:
            raise ProtocolViolation(f"expected SASL response, got message type {kind}")
        return body


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
