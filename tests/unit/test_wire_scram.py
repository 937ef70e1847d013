"""SCRAM and md5: the RFC's own example, both of our sides against each other, and what is bent on the way."""

from __future__ import annotations

import contextlib
from base64 import b64decode, b64encode
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import FeatureNotSupported, InvalidAuthorization, ProtocolViolation
from proxy.wire import md5, scram
from proxy.wire.saslprep import saslprep
from proxy.wire.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    ScramClient,
    ScramServer,
    ScramVerifier,
    WrongProof,
    derive_keys,
    mock_verifier,
)

SALT = b"0123456789abcdef"
NONCE_C, NONCE_S = b"c" * 18, b"s" * 18
END_POINT = b"d" * 32
FEW = 10  # iterations, for speed


def _exchange(
    client_password: str,
    verifier: ScramVerifier,
    *,
    client_end_point: bytes | None = None,
    server_end_point: bytes | None = None,
) -> tuple[ScramClient, ScramServer]:
    server = ScramServer(verifier, NONCE_S, server_end_point)
    client = ScramClient(server.mechanisms, NONCE_C, client_end_point)
    client.challenge(server.first(client.mechanism, client.first()))
    final = server.final(client.final(derive_keys(client_password, client.salt, client.iterations)))
    client.verify(final)
    return client, server


def test_the_example_of_rfc_7677() -> None:
    client = ScramClient([MECHANISM], b64decode("rOprNGfwEbeRWgbNEkqO"), user="user")
    assert client.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    client.challenge(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    assert client.final(derive_keys("pencil", client.salt, client.iterations)) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@settings(max_examples=40)
@given(password=st.text(min_size=1, max_size=30), salt=st.binary(min_size=1, max_size=20))
def test_any_password_works_for_both_sides(password: str, salt: bytes) -> None:
    verifier = ScramVerifier.from_password(password, salt, FEW)
    _, server = _exchange(password, verifier)
    assert server.client_keys == derive_keys(password, salt, FEW)
    assert verifier.matches_password(password)


@pytest.mark.parametrize(
    ("client_end_point", "server_end_point", "mechanism", "header"),
    [
        (None, None, MECHANISM, b"n,,"),
        (END_POINT, END_POINT, MECHANISM_PLUS, b"p=tls-server-end-point,,"),
        (END_POINT, None, MECHANISM, b"y,,"),
        (None, END_POINT, MECHANISM, b"n,,"),
    ],
)
def test_channel_binding_is_used_where_both_have_it(
    client_end_point: bytes | None, server_end_point: bytes | None, mechanism: str, header: bytes
) -> None:
    verifier = ScramVerifier.from_password("secret", SALT, FEW)
    client, _ = _exchange("secret", verifier, client_end_point=client_end_point, server_end_point=server_end_point)
    assert client.mechanism == mechanism
    assert client.first().startswith(header)


def test_a_man_in_the_middle_with_another_certificate_is_found() -> None:
    verifier = ScramVerifier.from_password("secret", SALT, FEW)
    with pytest.raises(InvalidAuthorization, match="SCRAM channel binding check failed"):
        _exchange("secret", verifier, client_end_point=b"x" * 32, server_end_point=END_POINT)


def test_a_man_in_the_middle_who_hides_the_plus_mechanism_is_found() -> None:
    server = ScramServer(ScramVerifier.from_password("secret", SALT, FEW), NONCE_S, END_POINT)
    client = ScramClient([MECHANISM], NONCE_C, END_POINT)
    with pytest.raises(InvalidAuthorization) as caught:
        server.first(client.mechanism, client.first())
    assert caught.value.message == "SCRAM channel binding negotiation error"


def test_wrong_password_and_unknown_user_fail_at_the_same_place() -> None:
    for verifier in (
        ScramVerifier.from_password("other", SALT, FEW),
        mock_verifier("nobody", b"secret of ours"),
    ):
        with pytest.raises(WrongProof):
            _exchange("secret", verifier)


def test_an_unknown_user_has_a_lasting_salt_of_the_usual_form() -> None:
    first, again = mock_verifier("nobody", b"ours"), mock_verifier("nobody", b"ours")
    assert first == again
    assert len(first.salt) == scram.SALT_LENGTH
    assert first.iterations == scram.DEFAULT_ITERATIONS
    assert first.salt != mock_verifier("nobody", b"of another process").salt
    assert first.salt != mock_verifier("somebody", b"ours").salt


def test_a_server_that_does_not_know_the_password_is_found() -> None:
    verifier = ScramVerifier.from_password("secret", SALT, FEW)
    impostor = ScramVerifier(verifier.iterations, verifier.salt, verifier.stored_key, b"?" * 32)
    with pytest.raises(WrongProof):
        _exchange("secret", impostor)


@pytest.mark.parametrize("answer", [b"v=", b"", b"e=invalid-proof", b"v=AAAA"])
def test_a_server_without_a_signature_is_not_believed(answer: bytes) -> None:
    client = ScramClient([MECHANISM], NONCE_C)
    server = ScramServer(ScramVerifier.from_password("secret", SALT, FEW), NONCE_S)
    client.challenge(server.first(client.mechanism, client.first()))
    with pytest.raises(WrongProof):
        client.verify(answer)  # even before the client has computed what it expects
    client.final(derive_keys("secret", SALT, FEW))
    with pytest.raises(WrongProof):
        client.verify(answer)


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (b"", ProtocolViolation),
        (b"n,,", ProtocolViolation),
        (b"n,,n=,r=", ProtocolViolation),
        (b"n,,n=,r=a\x7fb", ProtocolViolation),
        (b"n,,r=x,n=", ProtocolViolation),
        (b"x,,n=,r=abc", ProtocolViolation),
        (b"n,a=root,n=,r=abc", FeatureNotSupported),
        (b"n,,m=ext,n=,r=abc", FeatureNotSupported),
        (b"p=tls-server-end-point,,n=,r=abc", ProtocolViolation),  # for the mechanism without PLUS
        (b"n,,n=,r=abc\0", ProtocolViolation),
    ],
)
def test_a_bent_first_message_is_refused(first: bytes, error: type[Exception]) -> None:
    server = ScramServer(mock_verifier("x", b""), NONCE_S)
    with pytest.raises(error):
        server.first(MECHANISM, first)


def test_plus_needs_its_binding_in_the_message() -> None:
    for first in (b"n,,n=,r=abc", b"y,,n=,r=abc", b"p=tls-unique,,n=,r=abc"):
        server = ScramServer(mock_verifier("x", b""), NONCE_S, END_POINT)
        with pytest.raises(ProtocolViolation):
            server.first(MECHANISM_PLUS, first)


@pytest.mark.parametrize("mechanism", [MECHANISM_PLUS, "PLAIN", ""])
def test_a_mechanism_that_was_not_offered_is_refused(mechanism: str) -> None:
    server = ScramServer(mock_verifier("x", b""), NONCE_S)
    with pytest.raises(ProtocolViolation, match="client selected an invalid SASL authentication mechanism"):
        server.first(mechanism, b"n,,n=,r=abc")


@given(data=st.binary(max_size=100))
def test_any_bytes_from_a_client_are_refused_cleanly(data: bytes) -> None:
    server = ScramServer(mock_verifier("x", b""), NONCE_S)
    with contextlib.suppress(ProtocolViolation, FeatureNotSupported, InvalidAuthorization):
        server.first(MECHANISM, data)
    server = ScramServer(mock_verifier("x", b""), NONCE_S)
    server.first(MECHANISM, b"n,,n=,r=abc")
    with pytest.raises((ProtocolViolation, WrongProof, InvalidAuthorization)):
        server.final(data)


@given(data=st.binary(max_size=100))
def test_any_bytes_from_a_server_are_refused_cleanly(data: bytes) -> None:
    client = ScramClient([MECHANISM], NONCE_C)
    with pytest.raises(ProtocolViolation):
        client.challenge(data)


def _bend(change: Callable[[bytes], bytes]) -> None:
    server = ScramServer(ScramVerifier.from_password("secret", SALT, FEW), NONCE_S)
    client = ScramClient(server.mechanisms, NONCE_C)
    client.challenge(server.first(client.mechanism, client.first()))
    server.final(change(client.final(derive_keys("secret", client.salt, client.iterations))))


def test_a_bent_final_message_is_refused() -> None:
    _bend(lambda final: final)
    with pytest.raises(ProtocolViolation, match="invalid SCRAM response"):
        _bend(lambda final: final.replace(b"r=", b"r=x"))
    with pytest.raises(ProtocolViolation, match="malformed"):
        _bend(lambda final: final.rpartition(b",p=")[0])
    with pytest.raises(ProtocolViolation, match="malformed"):
        _bend(lambda final: final[:-4])
    with pytest.raises(InvalidAuthorization, match="channel binding check failed"):
        _bend(lambda final: final.replace(b"c=biws", b"c=" + b64encode(b"y,,")))
    with pytest.raises(WrongProof):
        _bend(lambda final: final.rpartition(b",p=")[0] + b",p=" + b64encode(b"0" * 32))


@pytest.mark.parametrize(
    "challenge",
    [
        b"r=%b,s=AAAA,i=0",
        b"r=%b,s=AAAA,i=-1",
        b"r=%b,s=AAAA,i=99999999999",
        b"r=%b,s=AAAA,i=4_096",
        b"r=%b,s=!,i=4096",
        b"r=%b,s=,i=4096",
        b"r=%b,i=4096,s=AAAA",
        b"m=x,r=%b,s=AAAA,i=4096",
    ],
)
def test_a_bent_challenge_is_refused(challenge: bytes) -> None:
    client = ScramClient([MECHANISM], NONCE_C)
    nonce = client.first().rpartition(b"r=")[2]
    with pytest.raises(ProtocolViolation):
        client.challenge(challenge % (nonce + b"more"))


@pytest.mark.parametrize("suffix", [b"", None])
def test_a_challenge_for_somebody_else_is_refused(suffix: bytes | None) -> None:
    client = ScramClient([MECHANISM], NONCE_C)
    nonce = client.first().rpartition(b"r=")[2] + suffix if suffix is not None else b"another"
    with pytest.raises(ProtocolViolation, match="nonce mismatch"):
        client.challenge(b"r=%b,s=AAAA,i=4096" % nonce)


def test_no_mechanism_in_common() -> None:
    for offered in ([], ["OAUTHBEARER"], [MECHANISM_PLUS]):
        with pytest.raises(FeatureNotSupported):
            ScramClient(offered, NONCE_C)


def test_a_verifier_of_postgresql_is_read() -> None:
    salt, stored, server = (b64encode(part).decode() for part in (SALT, b"t" * 32, b"v" * 32))
    verifier = ScramVerifier.parse(f"SCRAM-SHA-256$4096:{salt}${stored}:{server}")
    assert verifier == ScramVerifier(4096, SALT, b"t" * 32, b"v" * 32)
    assert "ttt" not in repr(verifier)
    for broken in (
        "plain",
        "",
        f"SCRAM-SHA-256$4096:{salt}${stored}",
        f"SCRAM-SHA-256$0:{salt}${stored}:{server}",
        f"SCRAM-SHA-256$x:{salt}${stored}:{server}",
        f"SCRAM-SHA-256$4096:${stored}:{server}",
        f"SCRAM-SHA-256$4096:{salt}${stored}:AAAA",
        f"SCRAM-SHA-256$4096:{salt}${stored}:{server}$x",
        f"SCRAM-SHA-1$4096:{salt}${stored}:{server}",
    ):
        assert ScramVerifier.parse(broken) is None, broken


@given(secret=st.text(max_size=80).map(lambda text: "SCRAM-SHA-256$" + text))
def test_any_text_is_a_verifier_or_not(secret: str) -> None:
    ScramVerifier.parse(secret)


def test_keys_are_remembered() -> None:
    assert not scram.keys_are_known("only here", SALT, FEW)
    keys = derive_keys("only here", SALT, FEW)
    assert scram.keys_are_known("only here", SALT, FEW)
    assert derive_keys("only here", SALT, FEW) is keys
    assert keys.client_key.hex() not in repr(keys)


# Examples of RFC 4013, section 3, and what PostgreSQL does where the RFC says "error".
@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0007", "\u0007"),
        ("\u06271", "\u06271"),
        ("\u00ad", "\u00ad"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_saslprep(password: str, expected: str) -> None:
    assert saslprep(password) == expected


def test_md5() -> None:
    secret = md5.md5_secret("alice", "secret")
    assert secret == "md54a0a68b43b6cd5cf266fa02f196e2371"  # what PostgreSQL stores: md5 of "secretalice"
    assert md5.is_md5_secret(secret)
    response = md5.md5_response("alice", "secret", b"1234")
    assert md5.md5_response("alice", secret, b"1234") == response
    assert md5.md5_response_matches("alice", secret, b"1234", response.encode())
    assert md5.md5_response_matches("alice", "secret", b"1234", response.encode())
    for wrong in (
        b"",
        b"md5",
        response.encode() + b"0",
        md5.md5_response("alice", "other", b"1234").encode(),
    ):
        assert not md5.md5_response_matches("alice", "secret", b"1234", wrong)
    assert not md5.md5_response_matches("bob", "secret", b"1234", response.encode())
    assert not md5.is_md5_secret("md5" + "x" * 32)
