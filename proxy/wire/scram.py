"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both sides (RFC 5802, RFC 7677), as PostgreSQL speaks them.

PostgreSQL's dialect differs from the RFC in ways that a general library refuses: libpq leaves the user name
in the exchange empty (the start-up packet has it), a password that SASLprep refuses is used as it is, and a
role may have fewer than 4096 iterations (scram_iterations). See libpq/auth-scram.c and interfaces/libpq/ fe-
auth-scram.c.

The exchange, `bare` being the client's first message without its channel-binding header:

    client first  gs2-header bare            n,,n=,r=<client nonce>
    server first                             r=<both nonces>,s=<salt>,i=<iterations>
    client final  c=<binding>,r=<nonces>,p=<proof>
    server final                             v=<signature>

The expensive part is PBKDF2 (milliseconds); everything else is a few HMACs. So keys are derived by
`derive_keys`, which remembers them, and a caller that cares about its event loop asks `keys_are_known` first.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Self

from ..errors import FeatureNotSupported, InvalidAuthorization, ProtocolViolation
from .saslprep import saslprep
from .startup import to_bytes

MECHANISM: Final = "SCRAM-SHA-256"
MECHANISM_PLUS: Final = "SCRAM-SHA-256-PLUS"
BINDING_TYPE: Final = "tls-server-end-point"
DEFAULT_ITERATIONS: Final = 4096
"""scram_iterations of PostgreSQL."""
MAX_ITERATIONS: Final = 10_000_000
"""A server that asks for more would keep a processor busy for seconds; nothing legitimate does."""
SALT_LENGTH: Final = 16
NONCE_LENGTH: Final = 18
"""SCRAM_RAW_NONCE_LEN in common/scram-common.h; callers draw this many random bytes."""

_KEY_LENGTH: Final = 32
_CACHED_KEYS: Final = 10_000


class WrongProof(Exception):
    """The other side does not know the password: the client gave a wrong proof, or the server a wrong
    signature.
    """


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What stands for the password in an exchange; as secret as the password itself."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @property
    def stored_key(self) -> bytes:
        return hashlib.sha256(self.client_key).digest()


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server keeps: enough to check a proof, not enough to make one.

    The form of pg_authid.rolpassword.
    """

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def parse(cls, secret: str) -> Self | None:
        """`SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; None where it is not of that form."""
        scheme, *parts = secret.split("$")
        if scheme != MECHANISM or len(parts) != 2:
            return None
        iterations, _, salt = parts[0].partition(":")
        stored_key, _, server_key = parts[1].partition(":")
        try:
            verifier = cls(_count(iterations), _decoded(salt), _decoded(stored_key), _decoded(server_key))
        except ValueError:
            return None
        keys_fit = len(verifier.stored_key) == len(verifier.server_key) == _KEY_LENGTH
        return verifier if keys_fit and verifier.salt else None

    @classmethod
    def from_password(cls, password: str, salt: bytes, iterations: int = DEFAULT_ITERATIONS) -> Self:
        keys = derive_keys(password, salt, iterations)
        return cls(iterations, salt, keys.stored_key, keys.server_key)

    def matches_password(self, password: str) -> bool:
        """For a password that came in plain text (PostgreSQL: scram_verify_plain_password)."""
        keys = derive_keys(password, self.salt, self.iterations)
        return hmac.compare_digest(keys.server_key, self.server_key)


_keys: OrderedDict[tuple[str, bytes, int], ScramKeys] = OrderedDict()


def keys_are_known(password: str, salt: bytes, iterations: int) -> bool:
    """Whether `derive_keys` will answer at once."""
    return (password, salt, iterations) in _keys


def derive_keys(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """PBKDF2 and the two keys made from it. Releases the GIL while it computes; safe in a thread."""
    cached = _keys.get((password, salt, iterations))
    if cached is not None:
        return cached
    salted = hashlib.pbkdf2_hmac("sha256", to_bytes(saslprep(password)), salt, iterations)
    keys = ScramKeys(_hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"))
    _keys[(password, salt, iterations)] = keys
    while len(_keys) > _CACHED_KEYS:
        _keys.popitem(last=False)
    return keys


def mock_salt(user: str, secret: bytes) -> bytes:
    """A salt for a user that does not exist, the same at every attempt (PostgreSQL: scram_mock_salt)."""
    return _hmac(secret, to_bytes(user))[:SALT_LENGTH]


def mock_verifier(user: str, secret: bytes) -> ScramVerifier:
    """Looks like a user's verifier, and no password fits it.

    `secret` keeps strangers from telling them apart.
    """
    unknowable = _hmac(secret, b"no such user: " + to_bytes(user))
    return ScramVerifier(DEFAULT_ITERATIONS, mock_salt(user, secret), unknowable, unknowable)


class ScramServer:
    """One exchange with a client.

    `end_point` is the digest of our certificate where the client is on TLS and may be offered channel
    binding. `client_keys` are the client's own keys once it has proved itself: enough to log in as it
    elsewhere, where the verifier is the same.
    """

    def __init__(self, verifier: ScramVerifier, nonce: bytes, end_point: bytes | None = None) -> None:
        self._verifier = verifier
        self._server_nonce = b64encode(nonce)
        self._end_point = end_point
        self._bare = b""
        self._server_first = b""
        self._nonce = b""
        self._header = b""
        self.client_keys: ScramKeys | None = None

    @property
    def mechanisms(self) -> list[str]:
        return [MECHANISM_PLUS, MECHANISM] if self._end_point is not None else [MECHANISM]

    def first(self, mechanism: str, message: bytes) -> bytes:
        """Take the client's first message, give ours. Raises ProxyErrors with PostgreSQL's texts."""
        if mechanism not in self.mechanisms:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        flag, authorization_id, self._bare = _split_header(message)
        self._check_binding_flag(flag, plus=mechanism == MECHANISM_PLUS)
        if authorization_id:
            raise FeatureNotSupported("client uses authorization identity, but it is not supported")
        self._header = message[: len(message) - len(self._bare)]
        if self._bare.startswith(b"m="):
            raise FeatureNotSupported("client requires an unsupported SCRAM extension")
        client_nonce = _attributes(self._bare, b"nr")[b"r"]
        if not client_nonce or not all(0x21 <= byte <= 0x7E for byte in client_nonce):
            raise ProtocolViolation("non-printable characters in SCRAM nonce")
        self._nonce = client_nonce + self._server_nonce
        self._server_first = b"r=%b,s=%b,i=%d" % (
            self._nonce,
            b64encode(self._verifier.salt),
            self._verifier.iterations,
        )
        return self._server_first

    def final(self, message: bytes) -> bytes:
        """Take the client's proof, give ours. Raises WrongProof where the password is wrong."""
        without_proof, separator, proof_text = message.rpartition(b",p=")
        if not separator:
            raise _malformed("The proof is missing in client-final-message.")
        attributes = _attributes(without_proof, b"cr")
        expected = self._header + (self._end_point or b"" if self._header.startswith(b"p=") else b"")
        if attributes[b"c"] != b64encode(expected):
            raise InvalidAuthorization("SCRAM channel binding check failed")
        if attributes[b"r"] != self._nonce:
            raise ProtocolViolation("invalid SCRAM response", detail="Nonce does not match.")
        try:
            proof = b64decode(proof_text, validate=True)
        except ValueError:
            proof = b""
        if len(proof) != _KEY_LENGTH:
            raise _malformed("Malformed proof in client-final-message.")
        signed = b",".join((self._bare, self._server_first, without_proof))
        client_key = _xor(proof, _hmac(self._verifier.stored_key, signed))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key):
            raise WrongProof
        self.client_keys = ScramKeys(client_key, self._verifier.server_key)
        return b"v=" + b64encode(_hmac(self._verifier.server_key, signed))

    def _check_binding_flag(self, flag: bytes, *, plus: bool) -> None:
        """The cases of read_client_first_message in libpq/auth-scram.c; "y" under TLS betrays a man in the
        middle.
        """
        if flag.startswith(b"p="):
            if not plus:
                raise _malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, "
                    "but the SCRAM message includes channel binding data."
                )
            if flag != b"p=" + BINDING_TYPE.encode("ascii"):
                raise ProtocolViolation("unsupported SCRAM channel-binding type")
            return
        if flag not in (b"n", b"y"):
            raise _malformed("Unexpected channel-binding flag.")
        if plus:
            raise _malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."
            )
        if flag == b"y" and self._end_point is not None:
            raise InvalidAuthorization(
                "SCRAM channel binding negotiation error",
                detail="The client supports SCRAM channel binding but thinks the server does not.  "
                "However, this server does support channel binding.",
            )


class ScramClient:
    """One exchange with a server.

    `end_point` is the digest of the server's certificate where the connection is on TLS; channel binding is
    used when the server offers it too. After `challenge` the caller derives the keys and calls `final`.
    """

    def __init__(self, mechanisms: list[str], nonce: bytes, end_point: bytes | None = None, user: str = "") -> None:
        """`user` goes into the exchange, where PostgreSQL ignores it; libpq leaves it empty.

        Raises FeatureNotSupported where the server offers nothing we speak.
        """
        self._end_point: bytes | None = None
        if end_point is not None and MECHANISM_PLUS in mechanisms:
            self.mechanism, self._header, self._end_point = (
                MECHANISM_PLUS,
                f"p={BINDING_TYPE},,".encode(),
                end_point,
            )
        elif MECHANISM in mechanisms:
            # "y": we could, the server does not offer it. A server that did offer will then refuse us.
            self.mechanism, self._header = MECHANISM, b"n,," if end_point is None else b"y,,"
        else:
            raise FeatureNotSupported("none of the server's SASL authentication mechanisms are supported")
        self._nonce = b64encode(nonce)
        self._bare = b"n=%b,r=%b" % (user.replace("=", "=3D").replace(",", "=2C").encode(), self._nonce)
        self._server_first = b""
        self._signature = b""
        self.salt = b""
        self.iterations = 0

    def first(self) -> bytes:
        return self._header + self._bare

    def challenge(self, server_first: bytes) -> None:
        """Take the server's first message; sets `salt` and `iterations`. Raises ProtocolViolation."""
        attributes = _attributes(server_first, b"rsi")
        nonce = attributes[b"r"]
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ProtocolViolation("invalid SCRAM response (nonce mismatch)")
        try:
            self.salt = b64decode(attributes[b"s"], validate=True)
            self.iterations = _count(attributes[b"i"].decode("ascii"))
        except ValueError:
            raise ProtocolViolation("malformed SCRAM message (invalid salt or iteration count)") from None
        if not self.salt:
            raise ProtocolViolation("malformed SCRAM message (invalid salt or iteration count)")
        self._nonce, self._server_first = nonce, server_first

    def final(self, keys: ScramKeys) -> bytes:
        binding = b64encode(self._header + (self._end_point or b""))
        without_proof = b"c=%b,r=%b" % (binding, self._nonce)
        signed = b",".join((self._bare, self._server_first, without_proof))
        self._signature = _hmac(keys.server_key, signed)
        proof = _xor(keys.client_key, _hmac(keys.stored_key, signed))
        return b"%b,p=%b" % (without_proof, b64encode(proof))

    def verify(self, server_final: bytes) -> None:
        """Raises WrongProof where the server does not know the password either: it is not who it claims to
        be.
        """
        expected = b"v=" + b64encode(self._signature)
        if not self._signature or not hmac.compare_digest(server_final.split(b",")[0], expected):
            raise WrongProof


def _split_header(message: bytes) -> tuple[bytes, bytes, bytes]:
    """Channel-binding flag, authorization identity and the rest of a client's first message."""
    parts = message.split(b",", 2)
    if len(parts) != 3 or b"\0" in message:
        raise _malformed("Comma expected in client-first-message.")
    return parts[0], parts[1], parts[2]


def _attributes(message: bytes, names: bytes) -> dict[bytes, bytes]:
    """The leading attributes of a message, which must be `names` in that order; later ones are extensions."""
    found: dict[bytes, bytes] = {}
    parts = message.split(b",")
    for name, part in zip(names, parts, strict=False):
        if part[:1] != bytes((name,)) or part[1:2] != b"=":
            raise _malformed(f'Attribute "{chr(name)}" expected.')
        found[part[:1]] = part[2:]
    if len(found) != len(names):
        raise _malformed("Attributes are missing.")
    return found


def _malformed(detail: str) -> ProtocolViolation:
    return ProtocolViolation("malformed SCRAM message", detail=detail)


def _count(digits: str) -> int:
    """An iteration count. Raises ValueError for anything but a number from 1 to MAX_ITERATIONS."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise ValueError("not a number")
    count = int(digits)
    if not 1 <= count <= MAX_ITERATIONS:
        raise ValueError("out of range")
    return count


def _decoded(text: str) -> bytes:
    return b64decode(text, validate=True)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(_KEY_LENGTH, "big")
