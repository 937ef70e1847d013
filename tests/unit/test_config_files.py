"""Files that the configuration names: certificates, keys, tools."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from config.load import load
from config.model import Config
from config.problems import ConfigError

ADMIN = '[admin]\npassword = "x"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`server.crt` and `server.key` belong together; `other.key`, `locked.key` do not."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pgcutover")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    (tmp_path / "server.crt").write_bytes(certificate)
    (tmp_path / "server.key").write_bytes(_pem(key, NoEncryption()))
    (tmp_path / "both.pem").write_bytes(certificate + _pem(key, NoEncryption()))
    (tmp_path / "locked.key").write_bytes(_pem(key, BestAvailableEncryption(b"passphrase")))
    (tmp_path / "other.key").write_bytes(_pem(ec.generate_private_key(ec.SECP256R1()), NoEncryption()))
    (tmp_path / "junk").write_text("junk")
    return tmp_path


def _pem(key: ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _load(folder: Path, text: str) -> Config:
    (folder / "pgcutover.toml").write_text(text)
    (folder / "users.toml").write_text("")
    return load(folder / "pgcutover.toml", folder / "users.toml", {})


def _problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _load(folder, text)
    return [str(p).removeprefix(f"{folder}/pgcutover.toml:").replace(str(folder), "F") for p in caught.value.problems]


def test_relative_paths_start_at_the_configuration_file(folder: Path) -> None:
    config = _load(
        folder,
        '[general]\nclient_tls_sslmode = "verify-full"\nauth_type = "cert"\ntls_certificate = "server.crt"\n'
        'tls_private_key = "./server.key"\ntls_client_ca_certificate = "server.crt"\n'
        f'{ADMIN}[[databases]]\nname = "a"\nhost = "h"\nsslmode = "verify-full"\nsslrootcert = "server.crt"\n'
        f'sslcert = "both.pem"\n[[databases]]\nname = "b"\nhost = "h"\nsslcert = "{folder}/server.crt"\n'
        'sslkey = "server.key"\n',
    )
    assert config.general.tls_private_key == str(folder / "server.key")
    assert config.databases[0].sslcert == str(folder / "both.pem")
    assert config.databases[1].sslcert == str(folder / "server.crt")


@pytest.mark.parametrize(
    ("general", "expected"),
    [
        (
            ['client_tls_sslmode = "require"'],
            '2: general.client_tls_sslmode: "require" needs our certificate: set tls_certificate and tls_private_key',
        ),
        (['tls_certificate = "server.crt"'], "2: general.tls_certificate: needs tls_private_key as well"),
        (['tls_private_key = "server.key"'], "2: general.tls_private_key: needs tls_certificate as well"),
        (
            [
                'tls_certificate = "both.pem"',
                'tls_private_key = "both.pem"',
                'client_tls_sslmode = "verify-ca"',
            ],
            '4: general.client_tls_sslmode: "verify-ca" checks the certificates of clients: '
            "set tls_client_ca_certificate",
        ),
        (
            ['auth_type = "cert"'],
            '2: general.auth_type: "cert" needs client certificates: '
            "set client_tls_sslmode and tls_client_ca_certificate",
        ),
        (
            ['tls_certificate = "no.crt"', 'tls_private_key = "server.key"'],
            "2: general.tls_certificate: cannot read F/no.crt: No such file or directory",
        ),
        (
            ['tls_certificate = "server.crt"', 'tls_private_key = "."'],
            "3: general.tls_private_key: cannot read F: Is a directory",
        ),
        (
            ['tls_certificate = "server.crt"', 'tls_private_key = "other.key"'],
            "3: general.tls_private_key: F/other.key does not belong to the certificate in F/server.crt",
        ),
        (
            ['tls_certificate = "server.crt"', 'tls_private_key = "locked.key"'],
            "3: general.tls_private_key: F/locked.key cannot be used; a key with a passphrase is not supported",
        ),
        (
            ['tls_certificate = "junk"', 'tls_private_key = "server.key"'],
            "2: general.tls_certificate: F/junk does not contain a PEM certificate",
        ),
        (
            ['tls_certificate = "server.crt"', 'tls_private_key = "junk"'],
            "3: general.tls_private_key: F/junk does not contain a PEM private key",
        ),
        (
            ['tls_client_ca_certificate = "junk"'],
            "2: general.tls_client_ca_certificate: F/junk does not contain PEM certificates",
        ),
        (
            ['tls_client_ca_certificate = "no.crt"'],
            "2: general.tls_client_ca_certificate: cannot read F/no.crt: No such file or directory",
        ),
        (
            ['tls_client_ca_certificate = "\\u0000"'],
            "2: general.tls_client_ca_certificate: 'F/\\x00' is not a path",
        ),
    ],
)
def test_our_own_certificate(folder: Path, general: list[str], expected: str) -> None:
    assert _problems(folder, "\n".join(["[general]", *general, ADMIN])) == [expected]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('sslkey = "server.key"', "sslkey: is of no use without sslcert, the certificate that it belongs to"),
        ('sslcert = "no.crt"', "sslcert: cannot read F/no.crt: No such file or directory"),
        ('sslmode = "verify-ca"', 'sslmode: "verify-ca" needs sslrootcert: a PEM file of CAs'),
        (
            'sslmode = "verify-full"',
            'sslmode: "verify-full" needs sslrootcert: a PEM file of CAs or "system"',
        ),
        ('sslrootcert = "system"', 'sslrootcert: "system" needs sslmode = "verify-full"'),
        ('sslrootcert = "junk"', "sslrootcert: F/junk does not contain PEM certificates"),
    ],
)
def test_certificates_towards_servers(folder: Path, line: str, expected: str) -> None:
    text = f'{ADMIN}[[databases]]\nname = "a"\nhost = "h"\n{line}\n'
    assert _problems(folder, text) == [f"6: databases.a.{expected}"]


def test_the_certificates_of_the_operating_system(folder: Path) -> None:
    text = f'{ADMIN}[[databases]]\nname = "a"\nhost = "h"\nsslmode = "verify-full"\nsslrootcert = "system"\n'
    assert _load(folder, text).databases[0].sslrootcert == "system"


def test_the_folder_with_the_tools(folder: Path) -> None:
    text = f'{ADMIN}[replication]\npg_bin_dir = "bin"\n'
    assert _problems(folder, text) == ["4: replication.pg_bin_dir: there is no folder F/bin"]
    (folder / "bin").mkdir()
    (folder / "bin" / "pg_dump").touch()
    assert _problems(folder, text) == ["4: replication.pg_bin_dir: F/bin does not contain pg_restore"]
    (folder / "bin" / "pg_restore").touch()
    assert _load(folder, text).replication.pg_bin_dir == str(folder / "bin")
