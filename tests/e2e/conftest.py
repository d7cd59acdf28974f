"""Worlds for the end-to-end tests. Each has its own ports, its own block of addresses and its own directory."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import World, opened

Build = Callable[..., Awaitable[World]]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory with a short path: Unix sockets allow about a hundred characters."""
    path = Path(tempfile.mkdtemp(prefix="e2e-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def bare(directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world in which nothing runs yet."""
    forked = request.node.get_closest_marker("started_anew") is None
    async with opened(directory, forked=forked) as world:
        yield world


@pytest.fixture
async def cloud(bare: World) -> World:
    """A world with its cloud and its gateway; the daemon is the test's to start."""
    await asyncio.gather(bare.start_emulator(), bare.start_gateway())
    return bare


@pytest.fixture
def world(cloud: World) -> Build:
    """Start the daemon with one policy, edited as given."""

    async def build(config: dict[str, Any] | None = None, **edits: Any) -> World:
        cloud.config_edits = config or {}
        cloud.write_policy(**edits)
        await cloud.start_daemon()
        return cloud

    return build
