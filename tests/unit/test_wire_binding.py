"""The digest SCRAM is bound to, for every kind of signature a certificate can have."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.binding import end_point_digest
from tests.support.certificates import Hash, SigningKey, build

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])


def _der(key: SigningKey, algorithm: Hash | None, pss: bool = False) -> bytes:
    rsa_padding = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH) if pss and algorithm else None
    certificate = build("localhost", key, SUBJECT, key, algorithm=algorithm, rsa_padding=rsa_padding)
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("pss", [False, True], ids=["pkcs1", "pss"])
@pytest.mark.parametrize("algorithm", [hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_rsa(algorithm: Hash, pss: bool) -> None:
    der = _der(RSA_KEY, algorithm, pss)
    assert end_point_digest(der) == hashlib.new(algorithm.name, der).digest()


@pytest.mark.parametrize("algorithm", [hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_ecdsa(algorithm: Hash) -> None:
    der = _der(EC_KEY, algorithm)
    assert end_point_digest(der) == hashlib.new(algorithm.name, der).digest()


# The library no longer signs with SHA-1; the OID of the signature is exchanged in a finished certificate.
@pytest.mark.parametrize(
    ("key", "modern", "old"),
    [
        (RSA_KEY, "2a864886f70d01010b", "2a864886f70d010105"),
        (RSA_KEY, "2a864886f70d01010b", "2a864886f70d010104"),
    ],
    ids=["sha1", "md5"],
)
def test_weak_hashes_are_replaced_by_sha256(key: SigningKey, modern: str, old: str) -> None:
    der = _der(key, hashes.SHA256()).replace(bytes.fromhex(modern), bytes.fromhex(old))
    assert bytes.fromhex(old) in der
    assert end_point_digest(der) == hashlib.sha256(der).digest()


def test_a_signature_without_a_hash_has_no_digest() -> None:
    assert end_point_digest(_der(ed25519.Ed25519PrivateKey.generate(), None)) is None


@given(data=st.binary(max_size=200))
def test_any_bytes_have_a_digest_or_not(data: bytes) -> None:
    end_point_digest(data)


@given(cut=st.integers(0, 10_000), at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_certificate_has_a_digest_or_not(cut: int, at: int, byte: int) -> None:
    der = bytearray(_DER)
    der[at % len(der)] = byte
    end_point_digest(bytes(der[: cut % (len(der) + 1)]))


_DER = _der(EC_KEY, hashes.SHA256())
