"""Daemons, gateways and emulators that start in a hundredth of a second: forks of a process that has loaded their code.

Loading is half of the processor time of an end-to-end test, and it is the same each time. What is forked is a process
like any other: its own session, directory, environment and output, and its end is its own. Its command line and the
environment that the kernel shows are the nursery's; a test that looks at those starts its processes anew, as do all
that look at how a command starts.

The nursery runs as a file: `python -P nursery.py FD`. FD is a SOCK_SEQPACKET socket; each message asks for one process
and brings two descriptors, where its output goes and a socket that is told its pid (with a pidfd) and its exit status.
"""

from __future__ import annotations

import array
import asyncio
import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

LOADED = (
    "uvloop",
    "autoscaler.cli.run",
    "autoscaler.crashpoints",
    "autoscaler.daemon",
    "autoscaler.emulator.command",
    "autoscaler.gateway.command",
    "autoscaler.gateway.run",
    "autoscaler.log",
)
KINDS = frozenset({"run", "emulator", "gateway"})
"""The commands whose code it has loaded."""

_PR_SET_PDEATHSIG = 1
_MESSAGE_BYTES = 192 * 1024


class Child:
    """A forked process, with what `asyncio.subprocess.Process` offers and `Processes` needs."""

    def __init__(
        self,
        told: socket.socket,
        stdout: asyncio.StreamReader,
        pipe: asyncio.BaseTransport,
    ) -> None:
        self.stdout: asyncio.StreamReader | None = stdout
        self._pipe = pipe
        self.returncode: int | None = None
        self.pid = -1
        self._pidfd = -1
        self._told = told
        self._ended = asyncio.Event()

    async def born(self) -> Child:
        """Wait until it has a pid."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._told, readable.set)
        await readable.wait()
        pid, descriptors, _, _ = socket.recv_fds(self._told, 64, 1)
        assert pid, "the nursery has ended: what it said is on the standard error of these tests"
        self.pid, self._pidfd = int(pid), descriptors[0]
        loop.add_reader(self._told, self._end)
        return self

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._told)
        status = self._told.recv(64)
        # without a word the nursery itself has gone, and took it along
        self.returncode = int(status) if status else -signal.SIGKILL
        self._told.close()
        os.close(self._pidfd)
        self._ended.set()

    def send_signal(self, number: int) -> None:
        """Signal it, if it has not ended: never another process that has got its pid since."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def close(self) -> None:
        """Read its output no more."""
        self._pipe.close()


async def fork(arguments: Sequence[str], directory: Path, environment: Mapping[str, str]) -> Child:
    """Start `autoscaler ARGUMENTS` in a directory."""
    loop = asyncio.get_running_loop()
    stdout = asyncio.StreamReader()
    reading, writing = os.pipe()
    pipe, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(reading, "rb", buffering=0)
    )
    told, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wanted = {
        "arguments": list(arguments),
        "directory": str(directory),
        "environment": dict(environment),
    }
    try:
        socket.send_fds(_nursery(), [json.dumps(wanted).encode()], [writing, telling.fileno()])
    finally:
        os.close(writing)
        telling.close()
    return await Child(told, stdout, pipe).born()


@functools.cache
def _nursery() -> socket.socket:
    """The one of this worker."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(its.fileno())],
        pass_fds=[its.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    its.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# the nursery itself


def serve(control: socket.socket) -> list[str]:
    """Fork what is asked for until nobody can ask; in a fork, return what it is to run."""
    wake, woken = os.pipe()
    for descriptor in (wake, woken):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(wake, select.POLLIN)
    telling: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == wake:
                os.read(wake, 4096)
                _tell_of_the_ended(telling)
                continue
            data, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 2)
            if not data:
                raise SystemExit(0)  # the tests have ended: the kernel ends what is left
            wanted = json.loads(data)
            out, told = descriptors
            nursery = os.getpid()
            if (pid := os.fork()) == 0:
                _grow_up(nursery, out, wanted["directory"], wanted["environment"])
                arguments: list[str] = wanted["arguments"]
                return arguments
            os.close(out)
            telling[pid] = socket.socket(fileno=told)
            _tell_its_pid(telling[pid], pid)


def _tell_its_pid(teller: socket.socket, pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    rights = array.array("i", [pidfd])
    with contextlib.suppress(OSError):  # the test that asked has ended
        teller.sendmsg([str(pid).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    os.close(pidfd)


def _tell_of_the_ended(telling: dict[int, socket.socket]) -> None:
    while telling:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with telling.pop(pid) as teller, contextlib.suppress(OSError):
            teller.send(str(os.waitstatus_to_exitcode(status)).encode())


def _grow_up(nursery: int, out: int, directory: str, environment: Mapping[str, str]) -> None:
    """Turn a fork into a process of its own, as a start by `exec` would have made it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:
        os._exit(1)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.closerange(3, 1024)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    command = import_module("autoscaler.__main__")
    for name in LOADED:
        import_module(name)
    tasks = os.listdir("/proc/self/task")
    assert len(tasks) == 1, f"a fork has one thread only, and loading started {len(tasks) - 1} more"
    gc.freeze()
    arguments = serve(control)
    sys.argv = [str(command.__file__), *arguments]
    sys.orig_argv = [sys.executable, "-m", "autoscaler", *arguments]  # an upgrade starts it again
    command.main()


if __name__ == "__main__":
    main()
