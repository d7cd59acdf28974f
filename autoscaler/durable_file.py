"""Files that a power loss leaves whole: the old one or the new, never half of either."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace_file(path: Path, text: bytes) -> None:
    """Write beside, sync, rename, sync the folder. Mode 0600.

    Raises:
        OSError: it could not be written; what was there is still there.
    """
    beside = path.with_name(path.name + ".new")
    _write(beside, text, os.O_TRUNC)
    beside.replace(path)
    _sync_folder(path)


def create_file(path: Path, text: bytes) -> bool:
    """Write one that is not there yet, whole or not at all; false where another process was first. Mode 0600.

    Raises:
        OSError: it could not be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(beside, text, os.O_EXCL)
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path)
    return True


def _write(path: Path, text: bytes, how: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
