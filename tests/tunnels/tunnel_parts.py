"""What tunnels are tested with: a node with a real SSH server, a model server, and a process of tunnels."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import asyncssh

from autoscaler.nodes.tunnel_client import TunnelClient, TunnelState, TunnelWish
from autoscaler.tunnels.run import TunnelProcess
from autoscaler.tunnels.values import TunnelsSettings

HERE = "127.0.0.1"
CLIENT_KEY = asyncssh.generate_private_key("ssh-ed25519")
DEADLINE_S = 30.0
T = TypeVar("T")


def public(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key().decode().split()[:2])


def free_range(count: int) -> int:
    """The first of so many ports in a row that are free now, away from those that the kernel hands out."""
    while True:
        first = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as stack:
            try:
                for number in range(first, first + count):
                    stack.enter_context(socket.socket()).bind((HERE, number))
            except OSError:
                continue
            return first


async def until(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Look again and again until there is something to see."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        seen = await look()
        if seen is not None and seen is not False:
            return seen
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.02)


@dataclass(eq=False, slots=True)
class Server:
    """A model server of sorts: it greets, then sends back what it is sent, until told to hang up.

    Attributes:
        open: writers of its connections.
    """

    port: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    ended: int = 0
    _server: asyncio.Server | None = None

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HERE, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and end those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self.open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            with contextlib.suppress(OSError):
                writer.write(b"hello ")
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
        finally:
            self.ended += 1
            self.open.discard(writer)
            writer.close()


@dataclass(eq=False, slots=True)
class Node:
    """A node: an SSH server that leads on to its own ports, and a model server.

    Attributes:
        opens: while cleared, an asked way is neither opened nor refused.
        logins: how often a client has logged in.
        sessions: how often one wanted to run something, which nobody may here.
    """

    host_key: asyncssh.SSHKey
    server: Server
    port: int = 0
    opens: asyncio.Event = field(default_factory=asyncio.Event)
    logins: int = 0
    sessions: int = 0
    connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    _acceptor: asyncssh.SSHAcceptor | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def made(cls) -> AsyncIterator[Node]:
        node = cls(asyncssh.generate_private_key("ssh-ed25519"), Server())
        node.opens.set()
        await node.server.listen()
        await node.listen()
        try:
            yield node
        finally:
            node.cut()
            await node.server.stop()

    async def listen(self, host_key: asyncssh.SSHKey | None = None) -> None:
        """Answer SSH, on the port of before if there was one."""
        self._acceptor = await asyncssh.listen(
            HERE,
            self.port,
            server_factory=lambda: _Login(self),
            server_host_keys=[host_key or self.host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(
                CLIENT_KEY.export_public_key().decode()
            ),
            config=None,
        )
        self.port = self._acceptor.get_port()

    def cut(self) -> None:
        """Refuse SSH, and cut what is there."""
        if self._acceptor is not None:
            self._acceptor.close()
        for connection in tuple(self.connections):
            connection.abort()

    def wish(self, tunnel_id: str = "n1", **edits: object) -> TunnelWish:
        """A tunnel to the model server, edited as given."""
        facts: dict[str, object] = {
            "id": tunnel_id,
            "address": HERE,
            "port": self.port,
            "user": "ubuntu",
            "host_key": public(self.host_key),
            "remote_port": self.server.port,
        }
        return TunnelWish(**(facts | edits))  # type: ignore[arg-type]  # a builder's keywords


class Wire:
    """The network between here and a node, which may fall silent: what is sent then is lost, and no one is told."""

    def __init__(self, node: Node) -> None:
        self.port = 0
        self.is_silent = False
        self._node = node
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def laid(self) -> AsyncIterator[Wire]:
        self._server = await asyncio.start_server(self._carry, HERE, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()
            for pipe in tuple(self._pipes):
                pipe.cancel()
            await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(HERE, self._node.port)
        for pair in ((reader, there[1]), (there[0], writer)):
            pipe = asyncio.create_task(self._pipe(*pair))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    if not self.is_silent:
                        writer.write(data)
                        await writer.drain()
        finally:
            writer.close()


class _Login(asyncssh.SSHServer):
    def __init__(self, node: Node) -> None:
        self._node = node
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._node.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._node.connections.discard(self._connection)

    def auth_completed(self) -> None:
        self._node.logins += 1

    def session_requested(self) -> bool:
        self._node.sessions += 1
        return False

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool | Awaitable[asyncssh.SSHTCPSession[bytes]]:
        return True if self._node.opens.is_set() else self._held(dest_host, dest_port)

    async def _held(self, host: str, port: int) -> asyncssh.SSHTCPSession[bytes]:
        await self._node.opens.wait()
        assert self._connection is not None
        way = await self._connection.forward_connection(host, port)
        return cast("asyncssh.SSHTCPSession[bytes]", way)  # asyncssh takes both


class Running:
    """A process of tunnels, in this loop."""

    def __init__(self, settings: TunnelsSettings) -> None:
        self.process = TunnelProcess(settings)
        self.client = TunnelClient(settings.control)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self.process.run())
        started = asyncio.create_task(self.process.started.wait())
        await asyncio.wait((self._task, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._task.done():
            await self._task

    async def ended(self) -> None:
        assert self._task is not None
        async with asyncio.timeout(DEADLINE_S):
            await self._task

    async def kill(self) -> None:
        """End it as a signal that cannot be caught would: nothing is drained."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def in_state(self, state: str, tunnel_id: str = "n1", why: str = "") -> TunnelState:
        """Wait until a tunnel is in this state, for a reason that has these words."""

        async def look() -> TunnelState | None:
            found = (await self.client.listing()).get(tunnel_id)
            return found if found and found.state == state and why in found.why else None

        return await until(look, f"{tunnel_id} is {state} {why}")


class Client:
    """One connection to a local port, as a balancer makes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connected(cls, port: int) -> Client:
        async with asyncio.timeout(DEADLINE_S):
            return cls(*await asyncio.open_connection(HERE, port))

    async def says(self, text: bytes, *, hears: bytes) -> None:
        """Send, and read exactly what is to come back."""
        self.writer.write(text)
        async with asyncio.timeout(DEADLINE_S):
            assert await self.reader.readexactly(len(hears)) == hears

    async def rest(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
