"""Messages: what the encoders write the decoders read; foreign bytes are read or refused, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import AdminShutdown, IdleInTransactionTimeout, ProtocolViolation, ProxyError, QueryCanceled
from proxy.wire import messages
from proxy.wire.codes import AuthRequest, ServerMessage
from proxy.wire.framing import take_message

no_zero = st.binary(max_size=30).filter(lambda raw: b"\0" not in raw)

DECODERS: list[Callable[[bytes], Any]] = [
    messages.error_fields,
    messages.error_text,
    messages.decode_data_row,
    messages.decode_parameter_status,
    messages.decode_backend_key,
    messages.decode_authentication,
    messages.decode_sasl_mechanisms,
    messages.decode_sasl_initial_response,
    messages.decode_negotiate_protocol_version,
]


def body_of(raw: bytes, kind: int) -> bytes:
    found = take_message(bytearray(raw), 100_000)
    assert found is not None
    assert found[0] == kind
    assert len(raw) == 5 + len(found[1])
    return found[1]


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: decode.__name__)
@given(body=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(decode: Callable[[bytes], Any], body: bytes) -> None:
    try:
        decode(body)
    except ProtocolViolation:
        pass


@given(row=st.lists(st.none() | st.binary(max_size=50), max_size=20))
def test_data_row(row: list[bytes | None]) -> None:
    assert messages.decode_data_row(body_of(messages.data_row(row), ServerMessage.DATA_ROW)) == row


def test_data_row_from_text() -> None:
    body = body_of(messages.data_row(["ä", None, ""]), ServerMessage.DATA_ROW)
    assert messages.decode_data_row(body) == ["ä".encode(), None, b""]


@pytest.mark.parametrize("body", [b"", b"\0\1", b"\0\1\0\0\0\4abc", b"\0\0x", b"\0\1\0\0\0\1ab"])
def test_broken_data_row_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        messages.decode_data_row(body)


@given(name=no_zero, value=no_zero)
def test_parameter_status(name: bytes, value: bytes) -> None:
    raw = messages.parameter_status(name, value)
    assert messages.decode_parameter_status(body_of(raw, ServerMessage.PARAMETER_STATUS)) == (name, value)


@given(pid=st.integers(-(2**31), 2**31 - 1), key=st.binary(min_size=1, max_size=256))
def test_backend_key(pid: int, key: bytes) -> None:
    raw = messages.backend_key_data(pid, key)
    assert messages.decode_backend_key(body_of(raw, ServerMessage.BACKEND_KEY_DATA)) == (pid, key)


@given(version=st.integers(3 << 16, (4 << 16) - 1), names=st.lists(no_zero, max_size=5))
def test_negotiate_protocol_version(version: int, names: list[bytes]) -> None:
    raw = messages.negotiate_protocol_version(version, names)
    body = body_of(raw, ServerMessage.NEGOTIATE_PROTOCOL_VERSION)
    assert messages.decode_negotiate_protocol_version(body) == (version, names)


def test_sasl_dialogue() -> None:
    raw = messages.authentication_sasl(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])
    request, data = messages.decode_authentication(body_of(raw, ServerMessage.AUTHENTICATION))
    assert request == AuthRequest.SASL
    assert messages.decode_sasl_mechanisms(data) == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
    first = messages.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x")
    assert messages.decode_sasl_initial_response(body_of(first, ord("p"))) == ("SCRAM-SHA-256", b"n,,n=,r=x")
    assert messages.decode_sasl_initial_response(b"X\0\xff\xff\xff\xff") == ("X", None)
    with pytest.raises(ProtocolViolation):
        messages.decode_sasl_initial_response(b"X\0\0\0\0\5abc")


@given(
    text=st.text(max_size=50),
    detail=st.none() | st.text(max_size=20),
    hint=st.none() | st.text(max_size=20),
)
def test_error_response_has_the_fields_of_postgresql(text: str, detail: str | None, hint: str | None) -> None:
    raw = messages.error_response("FATAL", "28P01", text, detail=detail, hint=hint)
    fields = messages.error_fields(body_of(raw, ServerMessage.ERROR_RESPONSE))

    def sent(value: str) -> bytes:
        return value.replace("\0", "").encode("utf-8", "surrogateescape")

    expected = {"S": b"FATAL", "V": b"FATAL", "C": b"28P01", "M": sent(text)}
    if detail is not None:
        expected["D"] = sent(detail)
    if hint is not None:
        expected["H"] = sent(hint)
    assert fields == expected
    assert list(fields) == list(expected)


@pytest.mark.parametrize(
    ("error", "severity", "sqlstate", "text"),
    [
        (AdminShutdown(), "FATAL", "57P01", "terminating connection due to administrator command"),
        (
            IdleInTransactionTimeout(),
            "FATAL",
            "25P03",
            "terminating connection due to idle-in-transaction timeout",
        ),
        (QueryCanceled(), "ERROR", "57014", "canceling statement due to user request"),
    ],
)
def test_our_errors_on_the_wire(error: ProxyError, severity: str, sqlstate: str, text: str) -> None:
    fields = messages.error_fields(body_of(messages.error_bytes(error), ServerMessage.ERROR_RESPONSE))
    assert fields["V"].decode() == severity
    assert fields["C"].decode() == sqlstate
    assert fields["M"].decode() == text


# Bytes written out by hand from the documentation of the formats.
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (messages.AUTHENTICATION_OK, b"R\0\0\0\x08\0\0\0\0"),
        (messages.AUTHENTICATION_CLEARTEXT_PASSWORD, b"R\0\0\0\x08\0\0\0\3"),
        (messages.authentication_md5_password(b"salt"), b"R\0\0\0\x0c\0\0\0\5salt"),
        (messages.authentication_sasl_continue(b"ab"), b"R\0\0\0\x0a\0\0\0\x0bab"),
        (messages.authentication_sasl_final(b"ab"), b"R\0\0\0\x0a\0\0\0\x0cab"),
        (messages.ready_for_query(), b"Z\0\0\0\5I"),
        (messages.command_complete("SHOW"), b"C\0\0\0\x09SHOW\0"),
        (messages.PARSE_COMPLETE, b"1\0\0\0\4"),
        (messages.BIND_COMPLETE, b"2\0\0\0\4"),
        (messages.CLOSE_COMPLETE, b"3\0\0\0\4"),
        (messages.NO_DATA, b"n\0\0\0\4"),
        (messages.EMPTY_QUERY_RESPONSE, b"I\0\0\0\4"),
        (messages.PORTAL_SUSPENDED, b"s\0\0\0\4"),
        (messages.parameter_description([23, 25]), b"t\0\0\0\x0e\0\2\0\0\0\x17\0\0\0\x19"),
        (
            messages.row_description(["a"]),
            b"T\0\0\0\x1a\0\1a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0",
        ),
        (messages.SSL_REQUEST, b"\0\0\0\x08\x04\xd2\x16\x2f"),
        (messages.GSSENC_REQUEST, b"\0\0\0\x08\x04\xd2\x16\x30"),
        (messages.cancel_request(1, b"abcd"), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\1abcd"),
        (messages.password_message("pw"), b"p\0\0\0\7pw\0"),
        (messages.query("select 1"), b"Q\0\0\0\x0dselect 1\0"),
        (messages.parse("s", "q", [23]), b"P\0\0\0\x0es\0q\0\0\1\0\0\0\x17"),
        (messages.bind("", "s", ["a", None]), b"B\0\0\0\x16\0s\0\0\0\0\2\0\0\0\1a\xff\xff\xff\xff\0\0"),
        (messages.describe("S", "s"), b"D\0\0\0\7Ss\0"),
        (messages.execute("", 5), b"E\0\0\0\x09\0\0\0\0\5"),
        (messages.close("P", ""), b"C\0\0\0\6P\0"),
        (messages.SYNC, b"S\0\0\0\4"),
        (messages.FLUSH, b"H\0\0\0\4"),
        (messages.TERMINATE, b"X\0\0\0\4"),
    ],
)
def test_bytes_of_messages(raw: bytes, expected: bytes) -> None:
    assert raw == expected


def test_notice_response() -> None:
    raw = messages.notice_response("step done", detail="3 ms")
    fields = messages.error_fields(body_of(raw, ServerMessage.NOTICE_RESPONSE))
    assert fields == {"S": b"NOTICE", "V": b"NOTICE", "C": b"00000", "M": b"step done", "D": b"3 ms"}


def test_a_byte_of_zero_is_not_smuggled_into_a_message() -> None:
    for encode in (messages.query, messages.password_message, messages.command_complete):
        with pytest.raises(ValueError, match="byte of zero"):
            encode("a\0b")
