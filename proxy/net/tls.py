"""TLS settings, as contexts: towards clients in PostgreSQL's words, towards servers in libpq's.

https://www.postgresql.org/docs/current/libpq-ssl.html (sslmode)
https://www.postgresql.org/docs/current/ssl-tcp.html
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from config.model import General, SslMode

from ..errors import ProxyError
from ..wire.binding import end_point_digest
from ..wire.codes import ALPN_PROTOCOL

SYSTEM_ROOTS: Final = "system"
"""sslrootcert=system: the certificates that the operating system trusts."""
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_TLS_DEMANDED: Final = (SslMode.REQUIRE, SslMode.VERIFY_CA, SslMode.VERIFY_FULL)


class TlsSettingsError(ProxyError):
    """The settings cannot work: a file is missing or holds something else.

    Says which setting and which file.
    """

    sqlstate = "F0000"
    log_level = "error"


@dataclass(frozen=True, eq=False, slots=True)
class ServerTls:
    """TLS on our own port.

    `end_point` is what SCRAM can be bound to, None where the certificate has no digest.
    """

    context: ssl.SSLContext
    mode: SslMode
    end_point: bytes | None

    @property
    def required(self) -> bool:
        return self.mode in _TLS_DEMANDED

    @property
    def client_certificate_required(self) -> bool:
        """verify-ca and verify-full; for verify-full its common name must also be the user's name."""
        return self.mode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)


def server_tls(general: General) -> ServerTls | None:
    """None where TLS is off. Raises TlsSettingsError."""
    mode = general.client_tls_sslmode
    if mode is SslMode.DISABLE:
        return None
    if general.tls_certificate is None or general.tls_private_key is None:
        raise TlsSettingsError(f'client_tls_sslmode = "{mode.value}" needs tls_certificate and tls_private_key')
    context = _new_context(ssl.PROTOCOL_TLS_SERVER)
    # PostgreSQL offers no session resumption; without it a log-in is a few hundred bytes shorter.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    _load_chain(context, "tls_certificate", general.tls_certificate, "tls_private_key", general.tls_private_key)
    # A client without a certificate passes here; it is told why not once its start-up packet is read.
    context.verify_mode = ssl.CERT_NONE
    if general.tls_client_ca_certificate is not None:
        _load_roots(context, "tls_client_ca_certificate", general.tls_client_ca_certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
    elif mode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL):
        raise TlsSettingsError(f'client_tls_sslmode = "{mode.value}" needs tls_client_ca_certificate')
    return ServerTls(context, general.client_tls_sslmode, end_point_digest(_first_certificate(general.tls_certificate)))


def peer_common_name(ssl_object: ssl.SSLObject) -> str | None:
    """The common name in the peer's verified certificate; None where it sent none.

    The first CN of the subject, and none with a byte of zero in it (PostgreSQL: be_tls_open_server).
    """
    certificate = ssl_object.getpeercert()
    if not certificate:
        return None
    subject = certificate.get("subject", ())
    for relative_name in subject if isinstance(subject, tuple) else ():
        for attribute in relative_name:
            if attribute[0] == "commonName":
                return None if "\0" in attribute[1] else str(attribute[1])
    return None


def client_context(mode: SslMode, sslrootcert: str | None, sslcert: str | None, sslkey: str | None) -> ssl.SSLContext:
    """The context for a link. Raises TlsSettingsError.

    libpq's rules: where a root certificate is given the chain is verified in every mode, so `require` with
    one is `verify-ca`; only `verify-full` compares the host name. Contexts are kept and shared until a file
    changes.
    """
    files = tuple((path, _changed_at(path)) for path in (sslrootcert, sslcert, sslkey))
    return _client_context(mode, files)


@lru_cache(maxsize=64)
def _client_context(mode: SslMode, files: tuple[tuple[str | None, float], ...]) -> ssl.SSLContext:
    (sslrootcert, _), (sslcert, _), (sslkey, _) = files
    context = _new_context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode is SslMode.VERIFY_FULL
    if sslrootcert is None:
        if mode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL):
            raise TlsSettingsError(
                f'sslmode = "{mode.value}" needs sslrootcert: a PEM file, or "{SYSTEM_ROOTS}" with verify-full'
            )
        context.verify_mode = ssl.CERT_NONE
    elif sslrootcert == SYSTEM_ROOTS:
        if mode is not SslMode.VERIFY_FULL:  # libpq: "weak sslmode may not be used with sslrootcert=system"
            raise TlsSettingsError(f'sslrootcert = "{SYSTEM_ROOTS}" needs sslmode = "verify-full"')
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_roots(context, "sslrootcert", sslrootcert)
        context.verify_mode = ssl.CERT_REQUIRED
    if sslcert is not None:
        _load_chain(context, "sslcert", sslcert, "sslkey", sslkey)
    return context


def _new_context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # ssl_min_protocol_version of PostgreSQL and libpq
    context.set_alpn_protocols([ALPN_PROTOCOL])
    return context


def _changed_at(path: str | None) -> float:
    try:
        return 0.0 if path is None or path == SYSTEM_ROOTS else os.stat(path).st_mtime
    except OSError:
        return 0.0


def _load_roots(context: ssl.SSLContext, setting: str, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise TlsSettingsError(f"{setting}: cannot load certificates from {path}: {_reason(error)}") from error


def _load_chain(
    context: ssl.SSLContext, cert_setting: str, cert_path: str, key_setting: str, key_path: str | None
) -> None:
    try:
        context.load_cert_chain(cert_path, key_path, password=_no_passphrase)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise TlsSettingsError(
            f"{cert_setting}, {key_setting}: cannot load {cert_path} with key {key_path or cert_path}: {_reason(error)}"
        ) from error


def _no_passphrase() -> str:
    """Without this OpenSSL would ask on the terminal, and the daemon would hang."""
    raise ValueError("the private key is protected by a passphrase, which is not supported")


def _first_certificate(path: str) -> bytes:
    found = _CERTIFICATE.search(Path(path).read_text("utf-8", "replace"))
    if found is None:
        raise TlsSettingsError(f"tls_certificate: no PEM certificate in {path}")
    return ssl.PEM_cert_to_DER_cert(found.group())


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
