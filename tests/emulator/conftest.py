"""Emulated clouds over real HTTP, for the tests of the cloud's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.server import serving
from autoscaler.emulator.settings import Settings
from tests.emulator.rig import ACCESS_KEY, PASSWORD, AirMachines, ManualClock, Opens, Rig


@pytest.fixture
async def open_cloud() -> AsyncIterator[Opens]:
    """Makes clouds with settings of the test's choice."""
    async with AsyncExitStack() as stack:

        async def opens(**changes: Any) -> Rig:
            settings = replace(Settings(access_key=ACCESS_KEY, password=PASSWORD), **changes)
            clock, machines = ManualClock(), AirMachines()
            emulator = Emulator(settings, machines, clock)
            await emulator.start()
            stack.push_async_callback(emulator.close)
            base = await stack.enter_async_context(serving(emulator, "127.0.0.1", 0))
            timeout = aiohttp.ClientTimeout(total=10)
            client = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            return Rig(emulator, machines, clock, base, client, settings.projects[0].id)

        yield opens


@pytest.fixture
async def cloud(open_cloud: Opens) -> Rig:
    """A cloud with default settings."""
    return await open_cloud()
