"""The deployment's own SSH key, and tokens for weights: files that only we may read.

The key is made at first start. One key for all nodes is no weakness: a login's signature is bound to its session.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

import asyncssh

from autoscaler.cloud.secret import Secret
from autoscaler.durable_file import create_file
from autoscaler.errors import ConfigError

KeyType = Literal["ed25519", "rsa-4096"]
_TOKEN_BYTES = 8192


def client_key(path: Path, key_type: KeyType, named: str = "ssh.key_file") -> asyncssh.SSHKey:
    """Read our SSH key, made now when there is none; `named` is the config key that says where.

    Raises:
        ConfigError: others may read the file, it is not ours, or it holds no usable key.
    """
    if not path.exists():
        _make(path, key_type, named)
    return private_key(path, named)


def private_key(path: Path, named: str = "ssh.key_file") -> asyncssh.SSHKey:
    """Read an SSH key that is there; `named` is the config key that says where.

    Raises:
        ConfigError: others may read the file, it is not ours, or it holds no usable key.
    """
    text = read_private(path)
    try:
        return asyncssh.import_private_key(text)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise ConfigError(
            f"{named} {path}: holds no private key without a passphrase; make one: "
            "ssh-keygen -t ed25519 -N '' -f PATH"
        ) from exc


def public_line(key: asyncssh.SSHKey) -> str:
    """The public key as a cloud wants it: `ssh-ed25519 AAAA… autoscaler`."""
    kind, data = key.export_public_key("openssh").decode("ascii").split()[:2]
    return f"{kind} {data} autoscaler"


def read_token(path: Path) -> Secret:
    """Read a hub's token.

    Raises:
        ConfigError: others may read the file, it is not ours, it is empty, or larger than a token.
    """
    token = read_private(path).decode("utf-8", "replace").strip()
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"server.token_file {path}: holds no token (one line, no spaces)")
    return Secret(token)


def read_private(path: Path) -> bytes:
    """Read a file of secrets, refused when anybody else may read it too.

    Raises:
        ConfigError: with what to do about it.
    """
    if os.path.isdir(path):  # unlike Path's, false where we may not look
        raise ConfigError(f"{path}: not a regular file, but a directory: name the file in it")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ConfigError(f"{path}: not a regular file")
        if facts.st_mode & 0o077:
            mode = stat.S_IMODE(facts.st_mode)
            raise ConfigError(f"{path}: mode is {mode:04o}, others may read it: chmod 0600 {path}")
        if facts.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"{path}: belongs to user {facts.st_uid}, not to us: chown it")
        content = file.read(_TOKEN_BYTES + 1)
    if len(content) > _TOKEN_BYTES:
        raise ConfigError(f"{path}: larger than {_TOKEN_BYTES} bytes, so neither key nor token")
    return content


def _make(path: Path, key_type: KeyType, named: str) -> None:
    """Write a new key whole or not at all; another process that was first wins."""
    if key_type == "ed25519":
        key = asyncssh.generate_private_key("ssh-ed25519", comment="autoscaler")
    else:
        key = asyncssh.generate_private_key("ssh-rsa", comment="autoscaler", key_size=4096)
    try:
        create_file(path, key.export_private_key("openssh"))
    except OSError as exc:
        raise ConfigError(f"{named} {path}: cannot be made: {exc.strerror}") from exc
