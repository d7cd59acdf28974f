"""What the demo's processes are, what they cost, and whether one of them is left at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_GRACE_S = 3.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process as /proc shows it. A pid comes back, a pid with its start does not."""

    pid: int
    parent: int
    start: int
    is_dead: bool
    cpu_s: float

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.start


@dataclass(slots=True)
class Processes:
    """All descendants of a process, this one by default, that were ever seen, with their CPU seconds."""

    root: int = field(default_factory=os.getpid)
    seen: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all, the root included, as far as they were seen."""
        return sum(self.seen.values())

    def scan(self) -> Mapping[int, Process]:
        """Look at all processes, and remember which descend from the root."""
        table = _table()
        ours = {self.root}
        while found := {pid for pid, p in table.items() if p.parent in ours} - ours:
            ours |= found
        for pid in ours & table.keys():
            self.seen[table[pid].identity] = table[pid].cpu_s
        return table

    def end(self, directory: Path) -> list[str]:
        """Wait a moment for those that are ending, kill what is left, and say what that was.

        Args:
            directory: who works in it, is ours too: what began after the last scan.
        """
        deadline = time.monotonic() + _GRACE_S
        while (left := self._left(directory)) and time.monotonic() < deadline:
            time.sleep(0.05)
        said = [f"process {process.pid} ({_command(process.pid)})" for process in left]
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
        return said

    def _left(self, directory: Path) -> list[Process]:
        return [
            process
            for process in _table().values()
            if process.pid != self.root
            and not process.is_dead
            and (process.identity in self.seen or _is_inside(process.pid, directory))
        ]


def _table() -> dict[int, Process]:
    tick = os.sysconf("SC_CLK_TCK")
    table = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        table[int(entry.name)] = Process(
            pid=int(entry.name),
            parent=int(fields[1]),
            start=int(fields[19]),
            is_dead=fields[0] in "ZX",
            cpu_s=(int(fields[11]) + int(fields[12])) / tick,
        )
    return table


def _is_inside(pid: int, directory: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(directory)
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "ended meanwhile"
    return b" ".join(words).decode(errors="replace")[:60].strip()
