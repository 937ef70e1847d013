"""The md5 password method: md5(md5(password + user) + salt).

https://www.postgresql.org/docs/current/protocol-flow.html (AuthenticationMD5Password). Deprecated by
PostgreSQL 18, still what old drivers and old role passwords need.
"""

from __future__ import annotations

from hashlib import md5
from hmac import compare_digest
from re import compile as pattern

from .startup import to_bytes

_SECRET = pattern(r"md5[0-9a-f]{32}")


def is_md5_secret(secret: str) -> bool:
    """Whether a stored secret is the hash (as pg_authid keeps it) rather than a plain password."""
    return _SECRET.fullmatch(secret) is not None


def md5_secret(user: str, password: str) -> str:
    """The form in which pg_authid keeps the password."""
    return "md5" + _hex_digest(to_bytes(password) + to_bytes(user))


def md5_response(user: str, secret: str, salt: bytes) -> str:
    """What the client sends; `secret` is the plain password or its hash, `salt` the server's 4 bytes."""
    stored = secret if is_md5_secret(secret) else md5_secret(user, secret)
    return "md5" + _hex_digest(to_bytes(stored[3:]) + salt)


def md5_response_matches(user: str, secret: str, salt: bytes, response: bytes) -> bool:
    return compare_digest(md5_response(user, secret, salt).encode("ascii"), response)


def _hex_digest(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()
