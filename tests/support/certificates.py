"""Certificates for tests: a CA, and leaves signed by it, as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

Hash = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512
SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Leaf:
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A CA of our own below `folder`."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def path(self) -> Path:
        return self.folder / "ca.crt"

    def issue(
        self,
        common_name: str,
        *,
        hosts: tuple[str, ...] = (),
        file_name: str | None = None,
        valid: bool = True,
    ) -> Leaf:
        """A leaf for a server (`hosts`: names and addresses) or a client; expired unless `valid`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = build(common_name, key, self.certificate.subject, self.key, hosts=hosts, valid=valid)
        name = file_name or common_name
        leaf = Leaf(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        leaf.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        write_key(leaf.key, key)
        return leaf


def make_authority(folder: Path, name: str = "test CA") -> Authority:
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = build(name, key, subject, key, authority=True)
    authority = Authority(folder, key, certificate)
    authority.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return authority


def write_key(path: Path, key: SigningKey) -> None:
    """Readable by the owner only: libpq and PostgreSQL refuse anything wider."""
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def build(
    common_name: str,
    key: SigningKey,
    issuer: x509.Name,
    issuer_key: SigningKey,
    *,
    hosts: tuple[str, ...] = (),
    authority: bool = False,
    valid: bool = True,
    algorithm: Hash | None = None,
    rsa_padding: padding.PSS | padding.PKCS1v15 | None = None,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * _DAY)
        .not_valid_after(now + 30 * _DAY if valid else now - _DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    if isinstance(issuer_key, ed25519.Ed25519PrivateKey):
        return builder.sign(issuer_key, None)
    if isinstance(issuer_key, rsa.RSAPrivateKey):
        return builder.sign(issuer_key, algorithm or hashes.SHA256(), rsa_padding=rsa_padding)
    return builder.sign(issuer_key, algorithm or hashes.SHA256())


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
