"""The owner's SSH certificate authority: what it signs outlives our store, and so do the nodes.

Its key is a file of its own (`ssh.host_authority`), made at first start and to be kept elsewhere too. It signs each
node's host key once that is pinned; the certificate's text is the node's manifest. Who has the authority's key can so
prove a node anew without our store, and log in to it: nodes let in who shows a fresh certificate of it. Both are plain
OpenSSH certificates: `ssh-keygen -L` shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import asyncssh
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.hazmat.primitives.serialization.ssh import (
    SSHCertificate,
    SSHCertificateBuilder,
    SSHCertificateType,
    SSHCertPublicKeyTypes,
    load_ssh_public_identity,
)

from autoscaler.errors import ConfigError, HostKeyMismatch
from autoscaler.nodes.hostkey import normal_form
from autoscaler.nodes.keys import client_key, read_private
from autoscaler.nodes.manifest import Manifest, parse_manifest

NAMED = "ssh.host_authority"
# A node's name is used once and its host key dies with it: what ends is the node, not its certificate.
_FOR_EVER = 2**64 - 1
_LOGIN_LIFE = timedelta(days=1)  # to either side of now: a node's clock may be off


@dataclass(frozen=True, slots=True)
class HostAuthority:
    """Signs host keys and logins; believes its own signatures alone."""

    key: Ed25519PrivateKey

    @property
    def public_line(self) -> str:
        """Its public key, which everybody may know: `ssh-ed25519 AAAA…`."""
        return _line(self.key.public_key())

    def certify(self, host_key: str, manifest: Manifest) -> str:
        """A host certificate for a pinned key, as one line."""
        certificate = (
            SSHCertificateBuilder()
            .public_key(_public(host_key.encode("ascii")))
            .type(SSHCertificateType.HOST)
            .key_id(manifest.text.encode())
            .valid_principals([manifest.name.encode()])
            .valid_after(0)
            .valid_before(_FOR_EVER)
            .sign(self.key)
        )
        return certificate.public_bytes().decode("ascii")

    def read(self, certificate: str, host_key: str) -> Manifest:
        """What was signed for this very host key.

        Raises:
            HostKeyMismatch: it is no certificate of ours, or of another host.
        """
        found = self._ours(certificate)
        if found.type is not SSHCertificateType.HOST:
            raise HostKeyMismatch("its certificate is for a login and not for a host")
        if _line(found.public_key()) != normal_form(host_key):
            raise HostKeyMismatch(
                "its certificate is of another host key than the one shown: copied from another machine"
            )
        try:
            manifest = parse_manifest(found.key_id.decode())
        except ValueError as exc:
            raise HostKeyMismatch(f"its certificate has no manifest of ours: {exc}") from exc
        if found.valid_principals != [manifest.name.encode()]:
            raise HostKeyMismatch("its certificate is for another name than its manifest says")
        return manifest

    def admit(self, key: asyncssh.SSHKey, principal: str, now: datetime) -> asyncssh.SSHCertificate:
        """A certificate with which this client key may log in to nodes that trust us, for a day."""
        builder = (
            SSHCertificateBuilder()
            .public_key(_public(key.export_public_key("openssh")))
            .type(SSHCertificateType.USER)
            .key_id(b"autoscaler adopt")
            .valid_principals([principal.encode()])
            .valid_after(int((now - _LOGIN_LIFE).timestamp()))
            .valid_before(int((now + _LOGIN_LIFE).timestamp()))
        )
        return asyncssh.import_certificate(builder.sign(self.key).public_bytes())

    def trust_line(self, principal: str) -> str:
        """What a node's authorized_keys must have, so that a certificate of ours for `principal` lets in."""
        return f"{self.trust_head(principal)} {self.public_line} autoscaler"

    def trust_head(self, principal: str) -> str:
        """What such a line begins with, whichever the authority."""
        return f'cert-authority,restrict,principals="{principal}"'

    def secret_for(self, purpose: str, length: int = 32) -> bytes:
        """Bytes that only who has our key can make, the same each time."""
        seed = self.key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        info = f"autoscaler {purpose}".encode()
        return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(seed)

    def _ours(self, certificate: str) -> SSHCertificate:
        try:
            found = load_ssh_public_identity(certificate.strip().encode("ascii"))
            if not isinstance(found, SSHCertificate):
                raise HostKeyMismatch("what it shows as its certificate is a bare key")
            if _line(found.signature_key()) != self.public_line:
                raise HostKeyMismatch(
                    f"its certificate is signed by another authority than {NAMED}: is that file the one of this "
                    "deployment?"
                )
            found.verify_cert_signature()
        except InvalidSignature as exc:
            raise HostKeyMismatch("its certificate's signature is wrong: it was altered") from exc
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise HostKeyMismatch("what it shows as its certificate cannot be read") from exc
        return found


def open_host_authority(path: Path) -> HostAuthority:
    """Read the authority's key, made now when there is none.

    Raises:
        ConfigError: others may read the file, it cannot be made, or it holds no usable key.
    """
    client_key(path, "ed25519", NAMED)
    try:
        key = load_ssh_private_key(read_private(path), password=None)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{NAMED} {path}: holds no key that can be used: {exc}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{NAMED} {path}: found a key of another kind, allowed: ed25519: ssh-keygen -t ed25519 -N '' -f {path}"
        )
    return HostAuthority(key)


def _public(line: bytes) -> SSHCertPublicKeyTypes:
    return cast("SSHCertPublicKeyTypes", load_ssh_public_key(line))  # DSA is gone from SSH


def _line(key: SSHCertPublicKeyTypes) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
