"""The deployment's own certificate authority: it vouches for nodes, for nothing else, and to nobody but our own parts.

Made at first start. Its name constraints let it sign names below `autoscaler.internal` and addresses only, so that who
trusts it trusts no more. A node's key is made here when its startup script waits for one, goes over the pinned SSH
session into the node's memory, and is kept nowhere else.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from autoscaler.cloud.secret import Secret
from autoscaler.domain.node import NODE_DOMAIN
from autoscaler.errors import ConfigError
from autoscaler.nodes.keys import read_private

AUTHORITY_LIFE = timedelta(days=3650)
NODE_LIFE = timedelta(
    days=825
)  # longer than a node lives: its name, and so its certificate, is used once
_SKEW = timedelta(hours=1)  # a machine's clock may be behind ours while it boots
_FILE = "ca-key.pem"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates for nodes.

    Attributes:
        pem: its own certificate, which everybody may know.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    def issue(
        self, host_name: str, address: str, now: datetime, life: timedelta = NODE_LIFE
    ) -> Secret:
        """Make a key and a certificate for one server: both in one PEM text, to be written whole or not at all.

        Args:
            host_name: as balancers check it (`Endpoint.host_name`).
            address: as those check it who know no name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(host_name), x509.IPAddress(ipaddress.ip_address(address))]
        ours = self.key.public_key()
        certificate = (
            _draft("autoscaler node", self.certificate.subject, key, now, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Secret(_private(key) + certificate.public_bytes(Encoding.PEM).decode("ascii"))


def make_authority(now: datetime, seed: bytes | None = None) -> Authority:
    """A new authority, its key in memory only; from one seed always the same, so that old certificates verify."""
    if seed is None:
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        key = ec.derive_private_key(int.from_bytes(seed) % (_ORDER - 1) + 1, ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "autoscaler nodes")])
    everywhere = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    allowed = [x509.DNSName(NODE_DOMAIN), *(x509.IPAddress(each) for each in everywhere)]
    certificate = (
        _draft("autoscaler nodes", subject, key, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(allowed, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def open_authority(directory: Path, now: datetime, seed: bytes | None = None) -> Authority:
    """Read the deployment's authority, made now when there is none; its certificate is then beside it as `ca.pem`.

    Args:
        seed: 48 secret bytes to make it from, so that another host makes the same one.

    Raises:
        ConfigError: others may read the key, it cannot be made, it is not what it should be, or it has expired.
    """
    path = directory / _FILE
    if not path.exists():
        _write_new(path, make_authority(now, seed))
    text = read_private(path)
    try:
        key = load_pem_private_key(text, password=None)
        certificate = x509.load_pem_x509_certificate(text)
    except (ValueError, TypeError) as exc:
        raise ConfigError(_REMAKE.format(path, "holds no key with its certificate")) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise ConfigError(_REMAKE.format(path, "its certificate is not its key's"))
    if certificate.not_valid_after_utc <= now:
        raise ConfigError(
            _REMAKE.format(path, f"expired {certificate.not_valid_after_utc:%Y-%m-%d}")
        )
    authority = Authority(key, certificate)
    _publish(directory / "ca.pem", authority.pem)
    return authority


_REMAKE = (
    "{}: {}. Move it away and start again: a new one is made, and nodes with certificates of the old one are "
    "replaced as they fail"
)


def _draft(
    name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _write_new(path: Path, authority: Authority) -> None:
    """Write key and certificate whole or not at all; another process that was first wins."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(_private(authority.key) + authority.pem)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be made: {exc.strerror}") from exc


def _publish(path: Path, pem: str) -> None:
    """Leave the certificate where others' tools can be given it from."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(pem)
        draft.replace(path)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from exc
