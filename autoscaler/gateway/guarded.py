"""Files that only their owner may read: client keys, and the key of the certificate."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from autoscaler.errors import ConfigError

_MAX_BYTES = 1024 * 1024


def read_guarded(path: Path, what: str, *, uid: int | None = None) -> bytes:
    """Read a file that nobody but us (or root) may read or write.

    What was checked is what is read: the mode is that of the opened file.

    Args:
        what: what the file holds, for the message.
        uid: who reads; by default this process.

    Raises:
        ConfigError: it cannot be read, is open to others, belongs to somebody else, or is huge.
    """
    who = os.geteuid() if uid is None else uid
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as exc:
        raise ConfigError(
            f"{path}: {what} may not be read by user {who}: chown {who} {path}"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"{path}: {what} cannot be read: {exc.strerror}") from exc
    with os.fdopen(descriptor, "rb") as file:
        _check(path, what, os.fstat(descriptor), who)
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ConfigError(
            f"{path}: larger than {_MAX_BYTES} bytes: split {what} into several files"
        )
    return data


def check_folder(path: Path, what: str) -> None:
    """Refuse a directory into which others may put files.

    Raises:
        ConfigError: they may, or it belongs to somebody else.
    """
    try:
        status = path.stat()
    except OSError as exc:
        raise ConfigError(f"{path}: {what} cannot be read: {exc.strerror}") from exc
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(_not_ours(path, what, status.st_uid, os.geteuid()))
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise ConfigError(f"{path}: others may write to this directory: chmod go-w {path}")


def _check(path: Path, what: str, status: os.stat_result, who: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: {what} must be a regular file")
    if _is_systemd_credential(path):
        return  # its mode is 0440; the directory keeps others out
    if status.st_uid not in (who, 0):
        raise ConfigError(_not_ours(path, what, status.st_uid, who))
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path}: mode {mode:04o} opens {what} to others: chmod 600 {path}")


def _not_ours(path: Path, what: str, owner: int, who: int) -> str:
    return f"{path}: {what} belongs to user {owner}, and this runs as {who}: chown {who} {path}"


def _is_systemd_credential(path: Path) -> bool:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and path.resolve().parent == Path(directory or "").resolve()
