"""Start-up packets: read as PostgreSQL reads them, written back byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import FeatureNotSupported, ProtocolViolation
from proxy.wire import messages
from proxy.wire.codes import CANCEL_REQUEST_CODE, LATEST_PROTOCOL, PROTOCOL_3_0, PROTOCOL_3_2
from proxy.wire.startup import (
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupParameters,
    negotiated,
    parse_startup_packet,
)

names = st.binary(min_size=1, max_size=20).filter(lambda raw: b"\0" not in raw)
values = st.binary(max_size=40).filter(lambda raw: b"\0" not in raw)
versions = st.integers(0, 0xFFFF).map(lambda minor: 3 << 16 | minor)


def _startup(protocol: int, body: bytes) -> bytes:
    return protocol.to_bytes(4, "big") + body


@given(data=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: _startup(PROTOCOL_3_0, b))))
def test_any_bytes_are_a_packet_or_refused(data: bytes) -> None:
    try:
        packet = parse_startup_packet(data)
    except (ProtocolViolation, FeatureNotSupported):
        return
    if isinstance(packet, StartupParameters):
        assert packet.encode()[4:] == data


@given(protocol=versions, parameters=st.lists(st.tuples(names, values), max_size=10))
def test_a_packet_survives_the_way_there_and_back(protocol: int, parameters: list[tuple[bytes, bytes]]) -> None:
    packet = StartupParameters(protocol, tuple(parameters))
    raw = packet.encode()
    assert int.from_bytes(raw[:4], "big") == len(raw)
    assert parse_startup_packet(raw[4:]) == packet


@pytest.mark.parametrize(
    "body",
    [
        b"",  # no terminator at all
        b"user\0alice\0",  # the terminator is missing
        b"user\0alice\0\0x",  # something after it
        b"user\0alice\0\0\0",
        b"user\0\0\0\0",
        b"user",
        b"user\0",  # a name without a value
        b"user\0alice",  # the value is not ended
    ],
)
def test_a_broken_layout_gets_postgresqls_text(body: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_startup_packet(_startup(PROTOCOL_3_0, body))
    assert caught.value.message == "invalid startup packet layout: expected terminator as last byte"
    assert caught.value.sqlstate == "08P01"


@pytest.mark.parametrize(
    ("code", "version"),
    [
        (2 << 16, "2.0"),
        (4 << 16, "4.0"),
        (1 << 16 | 7, "1.7"),
        (0x47455420, "18245.21536"),
        (1234 << 16 | 1, "1234.1"),
    ],
)
def test_another_major_version_gets_postgresqls_text(code: int, version: str) -> None:
    with pytest.raises(FeatureNotSupported) as caught:
        parse_startup_packet(_startup(code, b"\0"))
    assert caught.value.message == f"unsupported frontend protocol {version}: server supports 3.0 to 3.2"
    assert caught.value.sqlstate == "0A000"


def test_requests_for_encryption() -> None:
    assert parse_startup_packet(messages.SSL_REQUEST[4:]) == SslRequest()
    assert parse_startup_packet(messages.GSSENC_REQUEST[4:]) == GssEncRequest()


@given(pid=st.integers(-(2**31), 2**31 - 1), key=st.binary(min_size=1, max_size=256))
def test_cancel_requests_have_keys_of_any_length(pid: int, key: bytes) -> None:
    raw = messages.cancel_request(pid, key)
    assert int.from_bytes(raw[:4], "big") == len(raw)
    assert parse_startup_packet(raw[4:]) == CancelRequest(pid, key)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (b"", "invalid length of cancel request packet"),
        (b"123", "invalid length of cancel request packet"),
        (b"1234", "invalid length of cancel key in cancel request packet"),
        (b"1234" + b"k" * 257, "invalid length of cancel key in cancel request packet"),
    ],
)
def test_cancel_request_of_a_wrong_length(rest: bytes, text: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_startup_packet(_startup(CANCEL_REQUEST_CODE, rest))
    assert caught.value.message == text


def test_the_cancel_key_is_not_shown() -> None:
    assert "secret" not in repr(CancelRequest(1, b"secret"))


def test_get_takes_the_last_value_and_keeps_odd_bytes() -> None:
    packet = StartupParameters(
        PROTOCOL_3_0, ((b"user", b"first"), (b"user", b"m\xfcller"), (b"database", "größe".encode()))
    )
    assert packet.get("user") == b"m\xfcller".decode("utf-8", "surrogateescape")
    assert packet.get("database") == "größe"
    assert packet.get("options") is None
    assert packet.with_changes(user=packet.get("user")).get("user") == packet.get("user")


def test_changes_keep_the_place_and_order_of_what_was_there() -> None:
    packet = StartupParameters(
        PROTOCOL_3_0, ((b"client_encoding", b"UTF8"), (b"user", b"alice"), (b"options", b"-c geqo=off"))
    )
    changed = packet.with_changes(user="bob", database="app", extra={"application_name": "x"})
    assert changed.parameters == (
        (b"client_encoding", b"UTF8"),
        (b"user", b"bob"),
        (b"options", b"-c geqo=off"),
        (b"application_name", b"x"),
        (b"database", b"app"),
    )
    assert packet.get("user") == "alice"


@pytest.mark.parametrize("pair", [(b"", b"x"), (b"a\0b", b"x"), (b"a", b"x\0y")])
def test_what_cannot_be_said_is_not_sent(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="start-up parameter"):
        StartupParameters(PROTOCOL_3_0, (pair,)).encode()


@pytest.mark.parametrize(
    ("asked", "options", "answer"),
    [
        (PROTOCOL_3_0, (), None),
        (PROTOCOL_3_0 + 1, (), None),
        (PROTOCOL_3_2, (), None),
        (PROTOCOL_3_2 + 1, (), LATEST_PROTOCOL),
        (3 << 16 | 9999, (), LATEST_PROTOCOL),
        (PROTOCOL_3_0, (b"_pq_.x",), PROTOCOL_3_0),
        (PROTOCOL_3_2, (b"_pq_.x",), PROTOCOL_3_2),
    ],
)
def test_what_is_negotiated(asked: int, options: tuple[bytes, ...], answer: int | None) -> None:
    packet = StartupParameters(asked, (*((name, b"1") for name in options), (b"user", b"alice")))
    assert packet.unknown_options == options
    assert negotiated(packet) == answer
