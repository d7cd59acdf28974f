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

import structlog
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
from autoscaler.durable_file import create_file, replace_file
from autoscaler.errors import ConfigError
from autoscaler.nodes.keys import read_private

log = structlog.get_logger(__name__)

AUTHORITY_LIFE = timedelta(days=3650)
NODE_LIFE = timedelta(
    days=825
)  # longer than a node lives: its name, and so its certificate, is used once
_RENEWED_BEFORE = NODE_LIFE + timedelta(days=365)  # a daemon looks when it starts
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
    return _certified(key, now)


def _certified(key: ec.EllipticCurvePrivateKey, now: datetime) -> Authority:
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

    Its certificate is renewed well before a node's could outlive it. The key stays, so that whoever trusts the old one
    or the new one believes all nodes, those that run and those to come.

    Args:
        seed: 48 secret bytes to make it from, so that another host makes the same one.

    Raises:
        ConfigError: others may read the key, it cannot be made, or it is not what it should be.
    """
    path = directory / _FILE
    try:
        if not path.exists():
            create_file(path, _bundle(make_authority(now, seed)))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be made: {exc.strerror}") from exc
    authority = _read(path)
    until = authority.certificate.not_valid_after_utc
    if until - now < _RENEWED_BEFORE:
        authority = _certified(authority.key, now)
        try:
            replace_file(path, _bundle(authority))
        except OSError as exc:
            raise ConfigError(
                f"{path}: its certificate ends {until:%Y-%m-%d}, and a new one cannot be written: {exc.strerror}"
            ) from exc
        log.info("authority_renewed", path=str(path), ended=f"{until:%Y-%m-%d}")
    _publish(directory / "ca.pem", authority.pem)
    return authority


def _read(path: Path) -> Authority:
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
    return Authority(key, certificate)


_REMAKE = (
    "{}: {}. Move it away and start again: it is made anew, and nodes with certificates of another key are replaced as "
    "they fail"
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


def _bundle(authority: Authority) -> bytes:
    return (_private(authority.key) + authority.pem).encode("ascii")


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _publish(path: Path, pem: str) -> None:
    """Leave the certificate where others' tools can be given it from."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(pem)
        draft.replace(path)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from exc
