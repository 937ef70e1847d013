"""Who may come in: TLS and certificates, then the password method.

The methods are those of pg_hba.conf, with its texts (PostgreSQL: libpq/auth.c, libpq/auth-scram.c). An unknown
user goes through the whole exchange and fails like one with a wrong password.
"""

from __future__ import annotations

import hmac
import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from config.model import AuthType, SslMode

from ..errors import (
    CertificateRejected,
    CertificateRequired,
    EmptyPassword,
    InvalidPassword,
    ProtocolViolation,
    ProxyError,
    TlsRequired,
    UnknownDatabase,
    UnknownRole,
)
from ..wire import messages
from ..wire.codes import MAX_AUTH_TOKEN_LENGTH, MAX_SASL_MESSAGE_LENGTH, ClientMessage
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
from ..wire.startup import to_bytes, to_text
from .port import HandshakePort
from .scram_keys import scram_keys
from .tls import ServerTls, peer_common_name

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


class Authentication:
    """One client, from the end of its start-up packet to the verdict."""

    def __init__(self, port: HandshakePort, settings: LoginSettings, user: str, database: str) -> None:
        self._port = port
        self._settings = settings
        self._user = user
        self._database = database
        self._scram_keys: ScramKeys | None = None

    async def run(self) -> ScramKeys | None:
        """Returns where the client may come in, with its keys if the method showed them; else raises."""
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
        return self._scram_keys

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
