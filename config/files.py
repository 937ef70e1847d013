"""Files that the configuration points to: they must be there, be readable, and fit together."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .model import AuthType, Database, General, Replication, SslMode
from .problems import Problem
from .structure import Entry

_OUR_FILES = ("tls_certificate", "tls_private_key", "tls_client_ca_certificate")
_VERIFYING = (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)


def check_general_files(entry: Entry[General]) -> Iterator[Problem]:
    general = entry.model
    if general is None:
        return
    if entry.sound("client_tls_sslmode", "auth_type", *_OUR_FILES) is not None:
        yield from _required_files(entry, general)
    certificate, key = general.tls_certificate, general.tls_private_key
    if certificate is not None and key is not None:
        yield from _certificate(entry, "tls_certificate", certificate, "tls_private_key", key)
    yield from _authorities(entry, "tls_client_ca_certificate", general.tls_client_ca_certificate)


def check_database_files(entry: Entry[Database]) -> Iterator[Problem]:
    database = entry.model
    if database is None:
        return
    if database.sslkey is not None and database.sslcert is None and "sslcert" not in entry.bad:
        yield entry.problem("sslkey", "is of no use without sslcert, the certificate that it belongs to")
    yield from _certificate(entry, "sslcert", database.sslcert, "sslkey", database.sslkey)
    if entry.sound("sslmode", "sslrootcert") is not None:
        yield from _root_certificates(entry, database)


def _root_certificates(entry: Entry[Database], database: Database) -> Iterator[Problem]:
    """libpq's rules for sslrootcert, "system" among them."""
    mode, roots = database.sslmode, database.sslrootcert
    if roots is None and mode in _VERIFYING:
        system = ' or "system"' if mode is SslMode.VERIFY_FULL else ""
        yield entry.problem("sslmode", f'"{mode}" needs sslrootcert: a PEM file of CAs{system}')
    if roots == "system":
        if mode is not SslMode.VERIFY_FULL:
            yield entry.problem("sslrootcert", '"system" needs sslmode = "verify-full"')
    else:
        yield from _authorities(entry, "sslrootcert", roots)


def check_replication_files(entry: Entry[Replication]) -> Iterator[Problem]:
    folder = entry.model.pg_bin_dir if entry.model is not None else None
    if folder is None:
        return
    if not Path(folder).is_dir():
        yield entry.problem("pg_bin_dir", f"there is no folder {folder}")
    else:
        missing = [tool for tool in ("pg_dump", "pg_restore") if not (Path(folder) / tool).is_file()]
        if missing:
            yield entry.problem("pg_bin_dir", f"{folder} does not contain {' and '.join(missing)}")


def _required_files(entry: Entry[General], general: General) -> Iterator[Problem]:
    mode = general.client_tls_sslmode
    certificate, key = general.tls_certificate, general.tls_private_key
    if mode is not SslMode.DISABLE and certificate is None:
        message = f'"{mode}" needs our certificate: set tls_certificate and tls_private_key'
        yield entry.problem("client_tls_sslmode", message)
    if certificate is not None and key is None:
        yield entry.problem("tls_certificate", "needs tls_private_key as well")
    if key is not None and certificate is None:
        yield entry.problem("tls_private_key", "needs tls_certificate as well")
    if mode in _VERIFYING and general.tls_client_ca_certificate is None:
        message = f'"{mode}" checks the certificates of clients: set tls_client_ca_certificate'
        yield entry.problem("client_tls_sslmode", message)
    if general.auth_type is AuthType.CERT and (mode is SslMode.DISABLE or general.tls_client_ca_certificate is None):
        message = '"cert" needs client certificates: set client_tls_sslmode and tls_client_ca_certificate'
        yield entry.problem("auth_type", message)


def _certificate(
    entry: Entry[Any], certificate_key: str, certificate: str | None, key_key: str, key: str | None
) -> Iterator[Problem]:
    """Whether both can be read, are PEM, and belong together. Without `key` it is in the same file."""
    unreadable = [
        entry.problem(name, reason)
        for name, file in ((certificate_key, certificate), (key_key, key))
        if file is not None and (reason := _unreadable(file)) is not None
    ]
    yield from unreadable
    if unreadable or certificate is None:
        return
    try:
        # An encrypted key would make OpenSSL ask on the terminal; an empty passphrase makes it fail instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield entry.problem(key_key, f"{key} does not belong to the certificate in {certificate}")
        elif not _has_pem(certificate, "CERTIFICATE"):
            yield entry.problem(certificate_key, f"{certificate} does not contain a PEM certificate")
        elif not _has_pem(key or certificate, "PRIVATE KEY"):
            yield entry.problem(key_key, f"{key or certificate} does not contain a PEM private key")
        else:
            message = f"{key or certificate} cannot be used; a key with a passphrase is not supported"
            yield entry.problem(key_key, message)


def _authorities(entry: Entry[Any], key: str, file: str | None) -> Iterator[Problem]:
    if file is None:
        return
    reason = _unreadable(file)
    if reason is not None:
        yield entry.problem(key, reason)
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except ssl.SSLError:
        yield entry.problem(key, f"{file} does not contain PEM certificates")


def _unreadable(file: str) -> str | None:
    try:
        with open(file, "rb") as stream:
            stream.read(1)
    except OSError as error:
        return f"cannot read {file}: {error.strerror or error}"
    except ValueError:
        return f"{file!r} is not a path"
    return None


def _has_pem(file: str, what: str) -> bool:
    text = Path(file).read_bytes()
    return b"-----BEGIN " in text and what.encode() in text
