"""Who we are to mkinf: an access key, or an email and a password, read from a guarded file.

A key in an environment variable or on a command line is seen by every process of the user and by
crash reports, so there is no way to give one there.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from autoscaler.cloud.secret import Secret
from autoscaler.errors import ConfigError

_MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file whose only content is one secret. Read anew each time, so that it can be replaced."""

    path: Path

    def read(self) -> Secret:
        """Read the secret.

        Raises:
            ConfigError: the file is missing, readable by others, not ours, or not one line.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise ConfigError(f"{self.path}: cannot be read: {exc.strerror}") from None
        try:
            self._check(os.fstat(descriptor))
            content = os.read(descriptor, _MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        return Secret(self._text(content))

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{self.path}: a secret is read from a regular file only")
        if self._is_systemd_credential():
            return
        if status.st_uid != os.geteuid():
            raise ConfigError(
                f"{self.path}: belongs to user {status.st_uid}, and this runs as"
                f" {os.geteuid()}: chown it, or use LoadCredential= in the unit"
            )
        if mode := stat.S_IMODE(status.st_mode) & 0o177:
            raise ConfigError(
                f"{self.path}: mode {stat.S_IMODE(status.st_mode):04o} gives others"
                f" {mode:04o} too much: chmod 600 {self.path}"
            )

    def _is_systemd_credential(self) -> bool:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        return bool(directory) and self.path.resolve().parent == Path(directory or "").resolve()

    def _text(self, content: bytes) -> str:
        text = content.decode("utf-8", errors="replace").strip()
        if not text:
            raise ConfigError(f"{self.path}: is empty; put the secret on its only line")
        if len(content) > _MAX_BYTES or not text.isprintable():
            raise ConfigError(f"{self.path}: expected one line of printable text and nothing else")
        return text


def _read(source: SecretFile | Secret) -> Secret:
    return source if isinstance(source, Secret) else source.read()


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A project's access key: no known expiry, and the way we prefer."""

    source: SecretFile | Secret

    def read(self) -> Secret:
        key = _read(self.source)
        if not key.reveal().isascii() or " " in key.reveal():
            raise ConfigError("an access key is one word of ASCII: check the key file")
        return key


@dataclass(frozen=True, slots=True)
class Password:
    """An account's email and password, exchanged for tokens of an hour."""

    email: str
    source: SecretFile | Secret

    def read(self) -> Secret:
        return _read(self.source)


Credential = AccessKey | Password
