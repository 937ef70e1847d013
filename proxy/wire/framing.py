"""Cutting bytes into packets and messages. Pure: buffers in, slices out.

Two framings share a connection. Before the log-in a client sends start-up packets: a length word (which
counts itself) and a body. After that both sides send typed messages: a type byte, a length word (which counts
itself but not the type), a body. The functions check a length as soon as its word is complete, before they
wait for the body, so a peer cannot make a buffer grow past the limit by announcing a large one.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from ..errors import ProtocolViolation
from .codes import MAX_STARTUP_PACKET_LENGTH

LENGTH: Final = Struct("!I")
HEADER: Final = Struct("!BI")
HEADER_SIZE: Final = HEADER.size
LENGTH_SIZE: Final = LENGTH.size


def take_startup_packet(buffer: bytearray) -> bytes | None:
    """Remove one start-up packet from the front of `buffer` and return its body, without the length word.

    None where it has not all arrived yet. Raises ProtocolViolation with the text of PostgreSQL's
    ProcessStartupPacket where the announced length cannot be.
    """
    if len(buffer) < LENGTH_SIZE:
        return None
    (length,) = LENGTH.unpack_from(buffer)
    if not 2 * LENGTH_SIZE <= length <= MAX_STARTUP_PACKET_LENGTH + LENGTH_SIZE:
        raise ProtocolViolation("invalid length of startup packet")
    if len(buffer) < length:
        return None
    body = bytes(buffer[LENGTH_SIZE:length])
    del buffer[:length]
    return body


def take_message(buffer: bytearray, max_length: int) -> tuple[int, bytes] | None:
    """Remove one typed message from the front of `buffer` and return its type and its body.

    None where it has not all arrived yet. `max_length` bounds the body. Raises ProtocolViolation where the
    announced length is below its own size or above the bound (PostgreSQL: pq_getmessage).
    """
    if len(buffer) < HEADER_SIZE:
        return None
    kind, length = HEADER.unpack_from(buffer)
    if not LENGTH_SIZE <= length <= max_length + LENGTH_SIZE:
        raise ProtocolViolation("invalid message length")
    if len(buffer) < 1 + length:
        return None
    body = bytes(buffer[HEADER_SIZE : 1 + length])
    del buffer[: 1 + length]
    return kind, body


def messages_in(buffer: bytes | bytearray | memoryview) -> Iterator[tuple[int, int, int]]:
    """Every complete typed message in `buffer`: its type, where it starts, where it ends (type byte
    included).

    Stops at the first incomplete one, so the end of the last yielded message is where the rest begins. Raises
    ProtocolViolation at a length below its own size.
    """
    unpack = HEADER.unpack_from
    position = 0
    size = len(buffer)
    while position + HEADER_SIZE <= size:
        kind, length = unpack(buffer, position)
        if length < LENGTH_SIZE:
            raise ProtocolViolation("invalid message length")
        end = position + 1 + length
        if end > size:
            return
        yield kind, position, end
        position = end
