"""One listing of all machines, shared by every node's step and the sweep, so that ten nodes cost one call."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.machine import Inventory


class InventoryFeed:
    """Reads the inventory when somebody needs one younger than what is known; one call at a time."""

    def __init__(self, cloud: Cloud, clock: Clock) -> None:
        self._cloud = cloud
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: Inventory | None = None

    @property
    def last(self) -> Inventory | None:
        return self._last

    async def latest(self, max_age: timedelta) -> Inventory:
        """An inventory at most `max_age` old.

        Raises:
            CloudUnavailable, SchemaError: it could not be read; what was known stays known.
        """
        async with self._lock:
            last = self._last
            if last is None or self._clock.now() - last.at >= max_age:
                last = self._last = await self._cloud.inventory()
            return last
