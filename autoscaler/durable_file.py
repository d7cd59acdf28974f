"""Files that a power loss leaves whole: the old one or the new, never half of either."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, text: bytes) -> None:
    """Write beside, sync, rename, sync the folder. Mode 0600.

    Raises:
        OSError: it could not be written; what was there is still there.
    """
    beside = path.with_name(path.name + ".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
