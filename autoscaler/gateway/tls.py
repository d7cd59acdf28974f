"""The certificate that clients are shown: read, judged, and replaced while streams run.

A handshake takes the certificate that is in force at its moment; what was agreed before goes on. One that is expired,
not yet valid, or does not fit its key is refused whole, and the one before stays.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from autoscaler.errors import ConfigError
from autoscaler.gateway.guarded import check_folder, read_guarded

if TYPE_CHECKING:  # some 20 MB, for those only who have TLS
    from cryptography.x509 import Certificate

# what certbot, Kubernetes and people call the two
PAIRS = (("fullchain.pem", "privkey.pem"), ("tls.crt", "tls.key"), ("cert.pem", "key.pem"))
_KEY = "the certificate's key"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificate and key lie; the same path when one file holds both."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate in force.

    Attributes:
        context: makes handshakes with it.
        names: the hosts it is for.
        expires_at: the first moment at which clients refuse it.
    """

    context: ssl.SSLContext
    names: tuple[str, ...]
    expires_at: datetime


def find_files(tls: Path, key: Path | None = None) -> TlsFiles:
    """Find certificate and key.

    Args:
        tls: a directory with one of `PAIRS`, or the certificate's file.
        key: the key's file; by default in the directory, or in the certificate's file.

    Raises:
        ConfigError: there is no such pair.
    """
    if not tls.is_dir():
        return TlsFiles(tls, key or tls)
    check_folder(tls, "the directory of the certificate")
    for certificate_name, key_name in PAIRS:
        if (tls / certificate_name).exists():
            return TlsFiles(tls / certificate_name, key or tls / key_name)
    wanted = ", or ".join(" and ".join(pair) for pair in PAIRS)
    raise ConfigError(f"{tls}: holds no certificate: put {wanted} there")


def load_identity(files: TlsFiles, now: datetime) -> Identity:
    """Read certificate and key, and judge whether clients would take them at `now`.

    Raises:
        ConfigError: unreadable, the key open to others, not PEM, not a pair, expired or not yet valid.
    """
    key = read_guarded(files.key, _KEY)
    leaf = _leaf(files.certificate)
    _check_pair(files, leaf, key)
    _check_dates(files.certificate, leaf, now)
    return Identity(_context(files), _names(leaf), leaf.not_valid_after_utc)


def serving_context(current: Callable[[], Identity]) -> ssl.SSLContext:
    """Build the context of a listener: each handshake is made with what is `current()` then."""

    def choose(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = current().context

    listening = _base()  # without a certificate: OpenSSL asks also for a client that names no host
    listening.sni_callback = choose
    return listening


def _base() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = _base()

    def no_password() -> str:
        raise ConfigError(f"{files.key}: {_KEY} is encrypted: a service has nobody to ask")

    try:
        context.load_cert_chain(files.certificate, files.key, no_password)
    except (ssl.SSLError, OSError) as exc:
        reason = getattr(exc, "reason", None) or exc.strerror or exc
        raise ConfigError(
            f"{files.certificate}: OpenSSL does not take it with {files.key}: {reason}; "
            "a certificate needs 2048 bits of RSA or a curve such as P-256"
        ) from exc
    return context


def _leaf(path: Path) -> Certificate:
    from cryptography import x509

    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: the certificate cannot be read: {exc.strerror}") from exc
    try:
        return x509.load_pem_x509_certificates(data)[0]
    except ValueError as exc:
        raise ConfigError(
            f"{path}: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        ) from exc


def _check_pair(files: TlsFiles, leaf: Certificate, key: bytes) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        private = serialization.load_pem_private_key(key, password=None)
    except TypeError as exc:
        raise ConfigError(
            f"{files.key}: {_KEY} is encrypted, and a service has nobody to ask for the password: "
            f"openssl pkey -in {files.key} -out a file of mode 600"
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(
            f"{files.key}: holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"
        ) from exc
    if private.public_key() != leaf.public_key():
        raise ConfigError(
            f"{files.key}: is not the key of {files.certificate} (its first certificate must be the "
            "server's own, the issuers' after it): put the pair of one issuance there"
        )


def _check_dates(path: Path, leaf: Certificate, now: datetime) -> None:
    if now >= leaf.not_valid_after_utc:
        raise ConfigError(
            f"{path}: the certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, so "
            "every client would refuse it: renew it and put the new pair there"
        )
    if now < leaf.not_valid_before_utc:
        raise ConfigError(
            f"{path}: the certificate is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M}"
            f" UTC, and it is {now.astimezone(UTC):%Y-%m-%d %H:%M}: is the clock right (timedatectl)?"
        )


def _names(leaf: Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in found)
