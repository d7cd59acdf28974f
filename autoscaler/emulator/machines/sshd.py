"""A VM's SSH server, in the emulator's own process: any login name, and what its authorized_keys let in.

At first that is the VM's one key. Whatever a login writes into ~/.ssh/authorized_keys then counts, authorities too.
Commands run under the VM's supervisor, with pipes (or a terminal) of their own. SFTP and scp see the
VM's root directory as `/`. When a client's channel closes under a running command, every process of
its session is killed; one that has ended leaves alone what it put into the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import asyncssh

from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.descriptors import (
    CHUNK_BYTES,
    Descriptor,
    OurEnds,
    Streams,
    open_pipes,
    open_terminal,
)
from autoscaler.emulator.machines.layout import Layout
from autoscaler.emulator.machines.processes import Command, MachineEnded, Supervisor

LOGIN_TIMEOUT_S = 10.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Process = asyncssh.SSHServerProcess[bytes]


def reserve(address: str, port: int) -> socket.socket:
    """Take a VM's SSH port without answering on it: connections are refused until sshd is up."""
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((address, port))
    except OSError:
        reserved.close()
        raise
    return reserved


def load_host_key(path: Path) -> asyncssh.SSHKey:
    """Read the VM's host key; made at its first boot."""
    if path.exists():
        return asyncssh.read_private_key(path)
    key = asyncssh.generate_private_key("ssh-ed25519")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.export_private_key())
    path.with_suffix(".pub").write_bytes(key.export_public_key())
    return key


def public_line(key: asyncssh.SSHKey) -> str:
    """The OpenSSH form of its public half, without a comment."""
    return " ".join(key.export_public_key().decode().split()[:2])


class SshServer:
    """Answers on the VM's reserved port until it is closed."""

    def __init__(
        self, spec: MachineSpec, layout: Layout, supervisor: Supervisor, key: asyncssh.SSHKey
    ) -> None:
        self._spec = spec
        self._key = key
        self._sessions = _Sessions(spec, layout, supervisor)
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()

    async def start(self, reserved: socket.socket) -> None:
        """Begin to listen. The socket is the server's from here on."""
        root = os.fsencode(self._sessions.layout.root)
        self._acceptor = await asyncssh.listen(
            sock=reserved,
            server_factory=lambda: _Login(self),
            server_host_keys=[self._key],
            authorized_client_keys=_authorized(self._spec.authorized_key),  # until a name is given
            process_factory=self._sessions.serve,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=root),
            allow_scp=True,
            encoding=None,
            line_editor=False,
            password_auth=False,
            kbdint_auth=False,
            gss_host=None,
            login_timeout=LOGIN_TIMEOUT_S,
            config=None,
        )

    def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._acceptor is not None:
            self._acceptor.close()
        for connection in list(self._connections):
            connection.abort()

    def connected(self, connection: asyncssh.SSHServerConnection) -> None:
        """A client has connected."""
        self._connections.add(connection)

    def disconnected(self, connection: asyncssh.SSHServerConnection) -> None:
        """Its connection is over."""
        self._connections.discard(connection)

    def own(self, host: str) -> str:
        """Where a client's tunnel to `host` ends: the VM's loopback is its one address, and nothing else is there.

        Raises:
            asyncssh.ChannelOpenError: it is another host's.
        """
        if host not in (*_LOOPBACK, self._spec.address):
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "an emulated VM reaches itself only"
            )
        return self._spec.address

    def authorized(self, user: str) -> asyncssh.SSHAuthorizedKeys:
        """What lets a login in now."""
        return _authorized(self._sessions.authorized_keys(user))

    def logged_in(self) -> None:
        """A client has got in: with the fault, the next one meets another host key."""
        if "host_key_changed" in self._spec.boot_faults and self._acceptor is not None:
            other = asyncssh.generate_private_key("ssh-ed25519")
            self._acceptor.update(server_host_keys=[other])


class _Login(asyncssh.SSHServer):
    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connected(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._server.disconnected(self._connection)

    def begin_auth(self, username: str) -> bool:
        if self._connection is not None:
            self._connection.set_authorized_keys(self._server.authorized(username))
        return True

    def auth_completed(self) -> None:
        self._server.logged_in()

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        assert self._connection is not None
        way = self._connection.forward_connection(self._server.own(dest_host), dest_port)
        # asyncssh passes on what comes of it, whatever its annotations say
        return cast("Awaitable[asyncssh.SSHTCPSession[bytes]]", way)


def _authorized(text: str) -> asyncssh.SSHAuthorizedKeys:
    try:
        return asyncssh.import_authorized_keys(text)
    except ValueError:
        return asyncssh.import_authorized_keys("")  # as on a real VM: nobody gets in


@dataclass(frozen=True, slots=True)
class _Sessions:
    """Runs what clients ask of one VM."""

    spec: MachineSpec
    layout: Layout
    supervisor: Supervisor

    async def serve(self, process: Process) -> None:
        """Run one command or shell until it ends or its channel closes."""
        term = process.get_terminal_type()
        theirs, ours = open_pipes() if term is None else open_terminal(process.get_terminal_size())
        try:
            try:
                command = await self._start(process, term, theirs)
            finally:
                theirs.close()
            await _converse(process, command, ours, is_terminal=term is not None)
        except (MachineEnded, ValueError) as error:
            process.stderr.write(f"{error}\n".encode())
            process.exit(126)
        finally:
            ours.close()

    async def _start(self, process: Process, term: str | None, streams: Streams) -> Command:
        env = self._environment(str(process.get_extra_info("username")))
        if term is not None:
            env["TERM"] = term
        ends = process.get_extra_info("peername"), process.get_extra_info("sockname")
        env["SSH_CONNECTION"] = " ".join(str(part) for end in ends for part in end[:2])
        argv = ["/bin/bash", "-c", process.command] if process.command else ["/bin/bash", "-l"]
        return await self.supervisor.run(
            argv, env=env, cwd=Path(env["HOME"]), streams=streams, tty=term is not None
        )

    def authorized_keys(self, user: str) -> str:
        """The login's own file; made with the VM's key before anybody is in."""
        path = Path(self._environment(user)["HOME"]) / ".ssh/authorized_keys"
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(f"{self.spec.authorized_key}\n")
        return path.read_text(errors="replace")

    def _environment(self, user: str) -> dict[str, str]:
        # a login name becomes a directory's name, so it may not be a path
        return self.layout.environment(self.spec, user if user.isidentifier() else "ubuntu")


async def _converse(
    process: Process, command: Command, ours: OurEnds, *, is_terminal: bool
) -> None:
    """Carry bytes both ways until the command has ended or the channel is closed."""
    writers = (process.stdout, process.stderr)
    async with asyncio.TaskGroup() as group:
        pumps = [
            group.create_task(_pump(output, writer))
            for output, writer in zip(ours.outputs, writers, strict=False)
        ]
        others = [
            group.create_task(_feed(process, command, ours.stdin, is_terminal=is_terminal)),
            group.create_task(_report_end(process, command, pumps)),
        ]
        await process.wait_closed()
        with contextlib.suppress(MachineEnded):
            command.signal(signal.SIGKILL)
        for task in (*pumps, *others):
            task.cancel()


async def _pump(output: Descriptor, writer: asyncssh.SSHWriter[bytes]) -> None:
    while data := await output.read():
        try:
            writer.write(data)
            await writer.drain()
        except (OSError, asyncssh.Error):
            return  # the channel has closed


async def _feed(
    process: Process, command: Command, stdin: Descriptor, *, is_terminal: bool
) -> None:
    """Pass on what the client sends: bytes, signals, and the size of its window."""
    while True:
        try:
            data = await process.stdin.read(CHUNK_BYTES)
            if not data:
                break
            await stdin.write(data)
        except asyncssh.SignalReceived as received:
            number = getattr(signal, f"SIG{received.signal}", None)
            if number is not None:
                command.signal(number)
        except asyncssh.BreakReceived:
            command.signal(signal.SIGINT)
        except asyncssh.TerminalSizeChanged as changed:
            if is_terminal:
                size = (changed.width, changed.height, changed.pixwidth, changed.pixheight)
                stdin.resize(size)
        except (OSError, asyncssh.Error, MachineEnded):
            break  # the command reads no more, or the channel has closed
    if not is_terminal:
        stdin.close()


async def _report_end(process: Process, command: Command, pumps: list[asyncio.Task[None]]) -> None:
    """Send the exit code once the output is out, as sshd does: a background job may hold it open."""
    code = await command.wait()
    await asyncio.wait(pumps)
    if code < 0:
        process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
    else:
        process.exit(code)
