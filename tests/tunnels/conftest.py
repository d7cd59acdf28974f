"""Nodes to lead to, and a process of tunnels in this loop: real SSH, real sockets, no emulator."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoscaler.tunnels.values import TunnelsSettings
from tests.tunnels.tunnel_parts import CLIENT_KEY, Client, Node, Running, free_range

Start = Callable[..., Awaitable[Running]]
Connect = Callable[[int], Awaitable[Client]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="tunnels-") as name:
        yield Path(name)


@pytest.fixture
def settings(folder: Path) -> TunnelsSettings:
    """Settings with quick retries, on ports of this test's own."""
    key = folder / "ssh_key"
    key.write_bytes(CLIENT_KEY.export_private_key("openssh"))
    key.chmod(0o600)
    first = free_range(8)
    return TunnelsSettings(
        control=folder / "tunnels.sock",
        key_file=key,
        state_file=folder / "tunnels.json",
        first_port=first,
        last_port=first + 7,
        retry_max_s=0.3,
        drain_timeout_s=20.0,
    )


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node whose sshd and model server answer."""
    async with Node.made() as made:
        yield made


@pytest.fixture
async def start(settings: TunnelsSettings) -> AsyncIterator[Start]:
    """Start the process with its settings, edited as given; whatever runs at the end is stopped."""
    running: list[Running] = []

    async def begin(**edits: object) -> Running:
        made = Running(replace(settings, **edits))  # type: ignore[arg-type]  # a builder's keywords
        await made.start()
        running.append(made)
        return made

    yield begin
    await asyncio.gather(*(one.kill() for one in running))


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect to a local port as a balancer does; whatever is open at the end is closed."""
    made: list[Client] = []

    async def to(port: int) -> Client:
        made.append(await Client.connected(port))
        return made[-1]

    yield to
    await asyncio.gather(*(client.close() for client in made))
