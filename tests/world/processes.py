"""Processes of a world: started under a name, their output kept, ended whatever becomes of the tests."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.world.nursery import KINDS, Child, fork

_PR_SET_PDEATHSIG = 1
_START_S = 30.0
_STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # whatever the command prints
        return json.loads(self.out)


class Processes:
    """Processes of ours that work in one directory; what each says is appended to `<name>.log` there."""

    def __init__(self, directory: Path, *, forked: bool = False) -> None:
        """Work in `directory`; with `forked`, what the nursery has loaded is not loaded again for each."""
        self.directory = directory
        self.forked = forked
        self._running: dict[str, asyncio.subprocess.Process | Child] = {}
        self._copying: list[asyncio.Task[None]] = []
        self._forks: list[Child] = []

    async def spawn(
        self,
        name: str,
        *arguments: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a process of ours under a name; what it says is appended to `<name>.log`.

        Args:
            prefix: a command that starts it.
            environment: what it has besides ours.
        """
        process: asyncio.subprocess.Process | Child
        whole = os.environ | (environment or {})
        if self.forked and not prefix and arguments[0] in KINDS:
            process = await fork(arguments, self.directory, whole)
            self._forks.append(process)
        else:
            process = await self._exec(prefix, arguments, whole)
        self._running[name] = process
        copying = asyncio.create_task(self._copy_log(name, process), name=name)
        self._copying.append(copying)

    async def _exec(
        self, prefix: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *prefix,
            sys.executable,
            "-m",
            "autoscaler",
            *arguments,
            cwd=self.directory,
            env=environment,
            # through a pipe, as under systemd: a full disk does not stop its log
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    async def _copy_log(self, name: str, process: asyncio.subprocess.Process | Child) -> None:
        assert process.stdout is not None
        with (self.directory / f"{name}.log").open("ab", buffering=0) as log:
            while piece := await process.stdout.read(65536):
                log.write(piece)

    async def end(self, name: str, signum: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; its exit status."""
        process = self._running.pop(name)
        if process.returncode is None:
            process.send_signal(signum)
        try:
            async with asyncio.timeout(_STOP_S):
                return await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            pytest.fail(
                f"{name} did not end within {_STOP_S:g} s of signal {signum}\n{self.logs()}"
            )

    def signal(self, name: str, signum: int) -> None:
        self._running[name].send_signal(signum)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    async def exit_code(self, name: str) -> int:
        """Wait for a process that ends by itself."""
        try:
            async with asyncio.timeout(_START_S):
                return await self._running.pop(name).wait()
        except TimeoutError:
            pytest.fail(f"{name} did not end\n{self.logs()}")

    async def stop(self, *order: str) -> None:
        """End those named, in this order, then kill the others."""
        for name in order:
            if name in self._running:
                await self.end(name)
        for name in tuple(self._running):
            await self.end(name, signal.SIGKILL)
        for task in self._copying:
            task.cancel()
        await asyncio.gather(*self._copying, return_exceptions=True)
        for child in self._forks:
            child.close()

    async def copied(self, name: str) -> None:
        """Wait until all that the ended ones of a name said is in its log."""
        async with asyncio.timeout(_STOP_S):
            await asyncio.gather(*(task for task in self._copying if task.get_name() == name))

    def has_ended(self, name: str) -> int | None:
        """Its exit status, None while it runs."""
        return self._running[name].returncode

    def logs(self) -> str:
        """The end of every log, for a failure's text."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.directory.glob("*.log"))
        )

    def log_of(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")


def die_with_parent(nice: int = 0) -> None:
    """Let the kernel end this process when the one that started it ends."""
    os.nice(nice)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def command_lines() -> dict[int, str]:
    """The command line of every process but this one, by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                raw = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            found[int(entry.name)] = raw.replace(b"\0", b" ").decode(errors="replace")
    return found


def processes_below(directory: Path) -> list[str]:
    """Processes that work in a directory or name it: what a run has left behind."""
    found = []
    for pid, line in command_lines().items():
        try:
            where = Path(os.readlink(f"/proc/{pid}/cwd"))
        except OSError:
            continue
        if str(directory) in line or where.is_relative_to(directory):
            found.append(f"{pid} {line}")
    return found
