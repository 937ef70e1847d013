"""Start-up packets: what a client sends before any typed message.

Parsed the way PostgreSQL 18 does (ProcessStartupPacket in tcop/backend_startup.c), with its texts. Names and
values stay bytes in their order: a link is opened with the client's own packet, and the proxy need not know
what a parameter means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from ..errors import FeatureNotSupported, ProtocolViolation
from .codes import (
    CANCEL_REQUEST_CODE,
    GSSENC_REQUEST_CODE,
    LATEST_PROTOCOL,
    MAX_CANCEL_KEY_LENGTH,
    SSL_REQUEST_CODE,
)
from .framing import LENGTH, LENGTH_SIZE

PROTOCOL_OPTION_PREFIX = b"_pq_."


def to_text(raw: bytes) -> str:
    """Names have no declared encoding this early; odd bytes survive the way there and back."""
    return raw.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class UnsupportedProtocol(FeatureNotSupported):
    """Another major version than 3."""

    def __init__(self, major: int, minor: int) -> None:
        super().__init__(
            f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{LATEST_PROTOCOL & 0xFFFF}"
        )
        self.major = major


@dataclass(frozen=True, slots=True)
class SslRequest:
    """The client asks whether it may start TLS; answered by one byte, S or N."""


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """The client asks for GSSAPI encryption; answered by one byte, G or N."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """A client wants the request cancelled that runs under this key. Never answered."""

    pid: int
    key: bytes

    def __repr__(self) -> str:
        return f"CancelRequest(pid={self.pid})"


@dataclass(frozen=True, slots=True)
class StartupParameters:
    """A StartupMessage. `protocol` is what the client asked for, as the number on the wire (3.2 = 196610)."""

    protocol: int
    parameters: tuple[tuple[bytes, bytes], ...]

    def get(self, name: str) -> str | None:
        """The value of a parameter, decoded; the last one where it is given twice, as in PostgreSQL."""
        wanted = to_bytes(name)
        found: bytes | None = None
        for key, value in self.parameters:
            if key == wanted:
                found = value
        return None if found is None else to_text(found)

    @property
    def unknown_options(self) -> tuple[bytes, ...]:
        """Names of protocol options (`_pq_.*`); none is defined yet, so all are unknown to every server."""
        return tuple(key for key, _ in self.parameters if key.startswith(PROTOCOL_OPTION_PREFIX))

    def with_changes(
        self,
        user: str | None = None,
        database: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> Self:
        """A copy with these parameters set, each where it stood, or at the end where it was not given."""
        changes = {to_bytes(key): to_bytes(value) for key, value in (extra or {}).items()}
        if user is not None:
            changes[b"user"] = to_bytes(user)
        if database is not None:
            changes[b"database"] = to_bytes(database)
        kept = tuple((key, changes.get(key, value)) for key, value in self.parameters)
        present = {key for key, _ in kept}
        added = tuple((key, value) for key, value in changes.items() if key not in present)
        return replace(self, parameters=kept + added)

    def encode(self) -> bytes:
        """The packet, length word included.

        A byte of zero in a name or value would end it early: ValueError.
        """
        parts = [LENGTH.pack(self.protocol)]
        for key, value in self.parameters:
            if not key or b"\0" in key or b"\0" in value:
                raise ValueError("a start-up parameter cannot have an empty name or hold a byte of zero")
            parts.append(b"%b\0%b\0" % (key, value))
        parts.append(b"\0")
        body = b"".join(parts)
        return LENGTH.pack(len(body) + LENGTH_SIZE) + body


StartupPacket = SslRequest | GssEncRequest | CancelRequest | StartupParameters


def parse_startup_packet(body: bytes) -> StartupPacket:
    """What the packet says; `body` comes from `framing.take_startup_packet`.

    Raises ProtocolViolation for a broken layout and UnsupportedProtocol for another major version of the
    protocol. A StartupMessage is not looked at further: a missing user is the caller's to report.
    """
    if len(body) < LENGTH_SIZE:
        raise ProtocolViolation("invalid length of startup packet")
    (code,) = LENGTH.unpack_from(body)
    if code == CANCEL_REQUEST_CODE:
        return _parse_cancel_request(body)
    if code == SSL_REQUEST_CODE:
        return SslRequest()
    if code == GSSENC_REQUEST_CODE:
        return GssEncRequest()
    check_major_version(code)
    return StartupParameters(code, _parse_parameters(body[LENGTH_SIZE:]))


def check_major_version(protocol: int) -> None:
    """Raises UnsupportedProtocol, in PostgreSQL's words, unless the major version is 3."""
    major, minor = protocol >> 16, protocol & 0xFFFF
    if major != 3:
        raise UnsupportedProtocol(major, minor)


def negotiated(startup: StartupParameters) -> int | None:
    """The version to announce with NegotiateProtocolVersion, None where the client gets what it asked for."""
    if startup.protocol > LATEST_PROTOCOL or startup.unknown_options:
        return min(startup.protocol, LATEST_PROTOCOL)
    return None


def _parse_cancel_request(body: bytes) -> CancelRequest:
    """The key is 4 bytes up to protocol 3.1 and 1 to 256 since 3.2 (PostgreSQL 18:
    ProcessCancelRequestPacket).
    """
    if len(body) < 2 * LENGTH_SIZE:
        raise ProtocolViolation("invalid length of cancel request packet")
    key = body[2 * LENGTH_SIZE :]
    if not 1 <= len(key) <= MAX_CANCEL_KEY_LENGTH:
        raise ProtocolViolation("invalid length of cancel key in cancel request packet")
    return CancelRequest(int.from_bytes(body[LENGTH_SIZE : 2 * LENGTH_SIZE], "big", signed=True), key)


def _parse_parameters(body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Pairs of zero-terminated strings up to an empty name, which must be the last byte of the packet."""
    parameters: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(body):
        name_end = body.find(b"\0", position)
        if name_end == position:
            break
        value_end = body.find(b"\0", name_end + 1) if name_end >= 0 else -1
        if value_end < 0:
            position = -1
            break
        parameters.append((body[position:name_end], body[name_end + 1 : value_end]))
        position = value_end + 1
    if position != len(body) - 1:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    return tuple(parameters)
