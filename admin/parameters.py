"""Parameters of a Bind message to the text a command reads. Pure.

A parameter stands where a name or a value may stand. Without a type of the client's own it is text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from struct import error as StructError
from typing import Final

from .errors import BrokenMessage, NullParameter, Unsupported
from .requests import BindRequest, formats, utf8
from .result import BINARY_FORMAT

TEXT_OID: Final = 25
_UNSPECIFIED: Final = 0

_INT2: Final = Struct("!h")
_INT4: Final = Struct("!i")
_INT8: Final = Struct("!q")
_BOOL: Final = Struct("!?")


def _number(layout: Struct) -> Callable[[bytes], str]:
    def decode(raw: bytes) -> str:
        try:
            return str(layout.unpack(raw)[0]).lower()
        except StructError:
            raise BrokenMessage("incorrect binary data format in bind parameter") from None

    return decode


# bool, "char", name, int8, int2, int4, text, unknown, bpchar, varchar: pg_type.dat
_BINARY: Final[dict[int, Callable[[bytes], str]]] = {
    16: _number(_BOOL),
    18: utf8,
    19: utf8,
    20: _number(_INT8),
    21: _number(_INT2),
    23: _number(_INT4),
    25: utf8,
    705: utf8,
    1042: utf8,
    1043: utf8,
}


def parameter_oids(given: Sequence[int], count: int) -> tuple[int, ...]:
    """The types that a statement with `count` parameters announces."""
    return tuple(
        given[at] if at < len(given) and given[at] != _UNSPECIFIED else TEXT_OID for at in range(max(count, len(given)))
    )


def parameter_texts(request: BindRequest, oids: Sequence[int]) -> list[str]:
    """Raises BrokenMessage, BadEncoding, NullParameter, Unsupported."""
    if len(request.parameters) != len(oids):
        raise BrokenMessage(
            f"bind message supplies {len(request.parameters)} parameters, "
            f'but prepared statement "{request.statement}" requires {len(oids)}'
        )
    codes = formats(request.parameter_formats, len(oids))
    return [
        _text(number, raw, oid, code)
        for number, (raw, oid, code) in enumerate(zip(request.parameters, oids, codes, strict=True), 1)
    ]


def _text(number: int, raw: bytes | None, oid: int, format_code: int) -> str:
    if raw is None:
        raise NullParameter(number)
    if format_code != BINARY_FORMAT:
        return utf8(raw)
    decode = _BINARY.get(oid)
    if decode is None:
        raise Unsupported(f"parameter ${number} has a type that the console reads as text only (OID {oid})")
    return decode(raw)
