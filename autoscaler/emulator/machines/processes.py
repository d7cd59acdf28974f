"""The emulator's end of a VM's supervisor: start it, run commands under it, end it with all of them.

Where the kernel lets an unprivileged user have namespaces, the supervisor is PID 1 of a PID
namespace, so that its death ends every process of the VM, and commands see only their own VM's
processes. Elsewhere it is their subreaper and kills them one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoscaler.emulator.machines.descriptors import Streams
from autoscaler.emulator.machines.supervisor import MESSAGE_BYTES

SUPERVISOR = Path(__file__).with_name("supervisor.py")
NAMESPACE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--uts",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
)
START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0
ARGUMENT_BYTES = 128 * 1024  # the kernel's limit for one argument


class MachineEnded(Exception):
    """The VM is not running (any more): the command was not started, or was killed with it."""


def namespaces_allowed() -> bool:
    """Probe whether this computer lets us have a PID namespace."""
    try:
        probe = subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


@dataclass(slots=True)
class Command:
    """A command running in a VM."""

    id: int
    _supervisor: Supervisor
    _exited: asyncio.Future[int] = field(repr=False)

    async def wait(self) -> int:
        """Wait for its end: an exit code, or -N when signal N ended it (as when the VM dies)."""
        return await asyncio.shield(self._exited)

    def signal(self, number: int) -> None:
        """Signal every process of its session. No error when it has ended."""
        if not self._exited.done():
            self._supervisor.send({"signal": self.id, "number": number})


class Supervisor:
    """One VM's process tree."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._running: dict[int, asyncio.Future[int]] = {}
        self._last_id = 0
        self.own_pid = 0  # as the VM's processes see it
        self._ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(control, self._receive)

    @classmethod
    async def start(cls, name: str, *, namespace: bool) -> Supervisor:
        """Start a supervisor and wait until it answers.

        Raises:
            MachineEnded: it did not come up.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MESSAGE_BYTES)
        ours.setblocking(False)
        prefix = NAMESPACE if namespace else ()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *prefix,
                sys.executable,
                "-I",
                "-S",
                str(SUPERVISOR),
                str(theirs.fileno()),
                name,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        supervisor = cls(process, ours)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                supervisor.own_pid = await supervisor._ready
        except BaseException as error:
            await supervisor.kill()
            if isinstance(error, TimeoutError):
                raise MachineEnded(f"{name}: no supervisor within {START_TIMEOUT_S} s") from None
            raise
        return supervisor

    @property
    def is_running(self) -> bool:
        """Whether any process of the VM may still run."""
        return self._process.returncode is None

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        streams: Streams,
        tty: bool = False,
    ) -> Command:
        """Start a command in a session of its own.

        Raises:
            MachineEnded: the VM is not running.
            ValueError: an argument is longer than the kernel takes.
        """
        if any(len(argument.encode()) >= ARGUMENT_BYTES for argument in argv):
            raise ValueError(f"argument list too long: over {ARGUMENT_BYTES} bytes")
        self._last_id += 1
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._running[self._last_id] = exited
        command = Command(self._last_id, self, exited)
        message = {
            "run": command.id,
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd),
            "tty": tty,
        }
        try:
            self.send(message, (streams.stdin, streams.stdout, streams.stderr))
        except (MachineEnded, ValueError):
            del self._running[command.id]
            raise
        return command

    def send(self, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> None:
        """Tell the supervisor something. It reads at once, so its buffer does not fill.

        Raises:
            MachineEnded: nobody listens any more.
            ValueError: the message is longer than one read of it.
        """
        if self._gone.is_set():
            raise MachineEnded("the machine is not running")
        data = json.dumps(message).encode()
        if len(data) > MESSAGE_BYTES:
            raise ValueError(f"argument list too long: over {MESSAGE_BYTES} bytes")
        try:
            socket.send_fds(self._control, [data], list(descriptors))
        except OSError as error:
            raise MachineEnded(f"the machine's supervisor does not answer: {error}") from None

    def _receive(self) -> None:
        try:
            data = self._control.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        message = json.loads(data)
        if "ready" in message and not self._ready.done():
            self._ready.set_result(message["ready"])
        elif "exited" in message:
            exited = self._running.pop(message["exited"], None)
            if exited is not None and not exited.done():
                exited.set_result(message["code"])

    def _lost(self) -> None:
        """The supervisor has closed its end: no command of this VM runs on."""
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._gone.set()
        if not self._ready.done():
            self._ready.set_exception(MachineEnded("the supervisor ended as it started"))
        for exited in self._running.values():
            if not exited.done():
                exited.set_result(-9)
        self._running.clear()

    async def ended(self) -> None:
        """Wait until the VM's last process has gone, whoever ended it."""
        await self._gone.wait()
        await self._process.wait()

    async def kill(self) -> None:
        """Kill every process of the VM. None is left when this returns."""
        if not self._gone.is_set():
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            await self._process.wait()
        if not self._gone.is_set():
            self._lost()
