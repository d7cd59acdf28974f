"""PID 1 of one emulated VM: starts its commands, reaps what they leave, ends everything.

Run as a file by a bare interpreter (`python -I -S supervisor.py FD NAME`), standard library only, so
that it starts in some 20 ms. FD is a SOCK_SEQPACKET socket to the emulator, one JSON message each:

    {"run": 7, "argv": [...], "env": {...}, "cwd": "/", "tty": false} with three descriptors
    {"signal": 7, "number": 9}          to every process of that command's session
    {"exited": 7, "code": 0}            the answer when it ends; -N says that signal N ended it

When the socket closes, which the kernel does however the emulator ends, the supervisor ends too and
takes the VM's processes with it: in a PID namespace the kernel kills them as their PID 1 goes;
without one it is their subreaper, and walks the tree until it is empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

MESSAGE_BYTES = 192 * 1024
PR_SET_CHILD_SUBREAPER = 36


class Supervisor:
    """The main loop, over the control socket and the ends of children."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._commands: dict[int, int] = {}  # pid, which is its session too → the command's id
        self._ending = False
        self._wake, wake_writer = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_writer, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_shutdown)

    def run(self) -> None:
        """Serve until the emulator goes, or the VM is shut down from inside."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        while not self._ending:
            for descriptor, _ in poller.poll():
                if descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._reap()
                elif not self._receive():
                    return

    def _on_shutdown(self, *_: object) -> None:
        self._ending = True

    def _receive(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 3)
        except ConnectionError:
            return False
        if not data:
            return False
        for descriptor in descriptors:
            # they come inheritable: a background job would hold its command's output open
            os.set_inheritable(descriptor, False)
        message = json.loads(data)
        if "run" in message:
            self._start(message, descriptors)
        elif "signal" in message:
            self._signal(message["signal"], message["number"])
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            become(message, descriptors)
        self._commands[pid] = message["run"]

    def _signal(self, command: int, number: int) -> None:
        for session, name in list(self._commands.items()):
            if name == command:
                for pid in members(session):
                    send(pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            command = self._commands.pop(pid, None)
            if command is not None:
                code = os.waitstatus_to_exitcode(status)
                self._tell({"exited": command, "code": code})

    def _tell(self, message: dict[str, int]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            self._ending = True  # the emulator has gone


def become(message: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Turn this forked child into the command, in a session of its own."""
    try:
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        if message["tty"]:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.chdir(message["cwd"])
        os.execvpe(message["argv"][0], message["argv"], message["env"])
    except BaseException as error:
        os.write(2, f"{message['argv'][0]}: {error}\n".encode())
    os._exit(127)


def members(session: int) -> Iterator[int]:
    """Yield the processes of a session: `timeout` and job control leave a group, never a session."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                if int(fields[3]) == session:
                    yield int(entry)


def descendants(root: int) -> Iterator[int]:
    """Yield every process below `root`."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{root}/task"):
            with open(f"/proc/{root}/task/{task}/children", "rb") as file:
                for child in file.read().split():
                    yield int(child)
                    yield from descendants(int(child))


def send(pid: int, number: int) -> None:
    """Signal a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_all() -> None:
    """Kill every process below this one. Stopped first, so that none can fork a way out."""
    for pid in descendants(os.getpid()):
        send(pid, signal.SIGSTOP)
    while True:
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def become_subreaper() -> None:
    """Have orphans below this process handed to it rather than to the computer's init."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def main() -> None:
    """Take the control socket and the VM's name from the command line, and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    is_init = os.getpid() == 1
    if is_init:
        with contextlib.suppress(OSError):
            socket.sethostname(sys.argv[2])
    else:
        become_subreaper()
    supervisor = Supervisor(control)
    control.send(json.dumps({"ready": os.getpid()}).encode())
    try:
        supervisor.run()
    finally:
        if not is_init:
            kill_all()
        os._exit(0)  # as PID 1: the kernel now kills the rest


if __name__ == "__main__":
    main()
