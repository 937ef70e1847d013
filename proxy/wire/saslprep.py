"""SASLprep (RFC 4013): the normal form of a password, so that two ways to type it give the same keys."""

from __future__ import annotations

import stringprep
import unicodedata


def saslprep(password: str) -> str:
    """The normal form of a password (RFC 4013), or the password as it is where RFC 4013 refuses it.

    PostgreSQL does the same (common/saslprep.c, and its callers), so that every password works somehow.
    """
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    return normal if normal and not _is_prohibited(normal) else password


def _is_prohibited(text: str) -> bool:
    prohibited = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
        stringprep.in_table_a1,
    )
    if any(test(char) for char in text for test in prohibited):
        return True
    # RFC 3454, 6: right-to-left text has no left-to-right letters and both begins and ends right-to-left.
    if any(map(stringprep.in_table_d1, text)):
        ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
        return not ends or any(map(stringprep.in_table_d2, text))
    return False
