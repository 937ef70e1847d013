"""Framing: any bytes in any pieces are cut the same way, or refused, and never kept beyond the limit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.wire import messages
from proxy.wire.codes import MAX_STARTUP_PACKET_LENGTH
from proxy.wire.framing import messages_in, take_message, take_startup_packet

LIMIT = 300


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(
    bodies=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=LIMIT)), max_size=8),
    cuts=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_messages_come_out_whole_however_they_were_cut(bodies: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(messages.message(kind, body) for kind, body in bodies)
    buffer = bytearray()
    taken: list[tuple[int, bytes]] = []
    for piece in _pieces(stream, cuts):
        buffer += piece
        while (found := take_message(buffer, LIMIT)) is not None:
            taken.append(found)
    assert taken == bodies
    assert buffer == b""


@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=20))
def test_any_bytes_are_messages_or_a_violation_and_the_buffer_stays_bounded(data: bytes, cuts: list[int]) -> None:
    def run(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], bool]:
        buffer = bytearray()
        taken = []
        for piece in pieces:
            buffer += piece
            try:
                while (found := take_message(buffer, LIMIT)) is not None:
                    taken.append(found)
            except ProtocolViolation:
                return taken, True
            assert len(buffer) < 1 + 4 + LIMIT  # what waits is always less than one message
        return taken, False

    assert run(_pieces(data, cuts)) == run([data])


@given(
    bodies=st.lists(st.binary(min_size=4, max_size=60), max_size=5),
    tail=st.binary(max_size=60),
    cuts=st.lists(st.integers(0, 500), max_size=12),
)
def test_startup_packets_come_out_whole_and_what_follows_is_a_packet_or_a_violation(
    bodies: list[bytes], tail: bytes, cuts: list[int]
) -> None:
    stream = b"".join((len(body) + 4).to_bytes(4, "big") + body for body in bodies) + tail
    buffer = bytearray()
    taken: list[bytes] = []
    try:
        for piece in _pieces(stream, cuts):
            buffer += piece
            while (body := take_startup_packet(buffer)) is not None:
                taken.append(body)
    except ProtocolViolation:
        assert not 8 <= int.from_bytes(tail[:4], "big") <= MAX_STARTUP_PACKET_LENGTH + 4
        assert taken == bodies
        return
    assert taken[: len(bodies)] == bodies
    assert b"".join((len(body) + 4).to_bytes(4, "big") + body for body in taken) + buffer == stream


@pytest.mark.parametrize("length", [0, 3, 4, 7, MAX_STARTUP_PACKET_LENGTH + 5, 0x16030100, 0xFFFFFFFF])
def test_startup_packet_of_an_impossible_length_is_refused_before_its_body(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length of startup packet"):
        take_startup_packet(bytearray(length.to_bytes(4, "big")))


@pytest.mark.parametrize("length", [8, MAX_STARTUP_PACKET_LENGTH + 4])
def test_startup_packet_at_the_edge_of_the_limits_is_taken(length: int) -> None:
    body = b"x" * (length - 4)
    buffer = bytearray(length.to_bytes(4, "big") + body + b"rest")
    assert take_startup_packet(buffer[: length - 1]) is None
    assert take_startup_packet(buffer) == body
    assert buffer == b"rest"


def test_message_above_the_limit_is_refused_before_its_body() -> None:
    assert take_message(bytearray(b"Q" + (LIMIT + 4).to_bytes(4, "big")), LIMIT) is None
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        take_message(bytearray(b"Q" + (LIMIT + 5).to_bytes(4, "big")), LIMIT)


@given(
    bodies=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=6),
    rest=st.integers(0, 200),
)
def test_messages_in_finds_every_complete_message(bodies: list[tuple[int, bytes]], rest: int) -> None:
    whole = [messages.message(kind, body) for kind, body in bodies]
    stream = b"".join(whole)
    cut = len(stream) - rest % (len(stream) + 1)
    found = [stream[start:end] for _, start, end in messages_in(stream[:cut])]
    assert found == whole[: len(found)]
    left = stream[sum(map(len, found)) : cut]
    assert len(found) == len(whole) or len(left) < len(whole[len(found)])


def test_messages_in_refuses_a_length_below_its_own_size() -> None:
    with pytest.raises(ProtocolViolation):
        list(messages_in(b"Q\0\0\0\3"))
