"""A world with its cloud and its gateway, whose daemon may be killed as often as a test likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.crash.crashes import QUICK, Crashes
from tests.e2e.conftest import directory
from tests.e2e.world import opened

__all__ = ["directory"]


@pytest.fixture
async def crashes(directory: Path) -> AsyncIterator[Crashes]:
    async with opened(directory, forked=True) as world:
        await asyncio.gather(world.start_emulator("--time-factor", "300"), world.start_gateway())
        world.config_edits = {
            "timings": QUICK,
            "limits": {"usd_per_month": "100000"},
            "ssh": {"host_authority": "host_authority"},
            "log": {"level": "info"},
        }
        world.write_policy(nodes={"min": 1, "max": 3})
        yield Crashes(world)
