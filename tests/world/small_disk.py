"""A folder whose disk can really be filled, for one process of ours.

Where the machine lets us mount, the folder is a small file system in the process's own mount namespace: what it writes
ends with ENOSPC. Elsewhere the kernel refuses each of its writes to a file, which ends with EFBIG.
"""

from __future__ import annotations

import errno
import resource
import subprocess
from pathlib import Path

_MOUNT = 'mount -t tmpfs -o mode=0700,size="$1" small "$2" && shift 2 && exec "$@"'
_MIB = 2**20


class SmallDisk:
    """A small file system at a folder.

    Attributes:
        prefix: what to start the process with, so that the folder is its small file system.
    """

    def __init__(self, folder: Path, mib: int = 8) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        mount = ("unshare", "-rm", "sh", "-c", _MOUNT, "sh", f"{mib}m", str(folder))
        self.prefix = mount if _works(*mount, "true") else ()

    def fill(self, pid: int) -> None:
        """Leave the process not a byte."""
        if not self.prefix:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            return
        with self._filler(pid).open("wb", buffering=0) as file:
            for size in (_MIB, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise

    def empty(self, pid: int) -> None:
        """Make room again."""
        if not self.prefix:
            unlimited = resource.RLIM_INFINITY
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
            return
        self._filler(pid).unlink()

    def _filler(self, pid: int) -> Path:
        """A file in the folder as the process sees it."""
        return Path(f"/proc/{pid}/root{self._folder.resolve()}/filler")


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
