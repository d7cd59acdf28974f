"""One listing of all machines, shared by every node's step and the sweep, so that ten nodes cost one call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import NodeName
from autoscaler.domain.machine import Inventory


class InventoryFeed:
    """Reads the inventory when somebody needs one younger than what is known; one call at a time."""

    def __init__(self, cloud: Cloud, clock: Clock) -> None:
        self._cloud = cloud
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: Inventory | None = None
        self._read_at_s = 0.0
        self._confirmed: frozenset[NodeName] = frozenset()

    @property
    def last(self) -> Inventory | None:
        return self._last

    @property
    def read_at_s(self) -> float:
        """When the last inventory was asked for, in seconds since boot."""
        return self._read_at_s

    @property
    def confirmed_absent(self) -> frozenset[NodeName]:
        """Nodes whose machines a person said are truly gone, although many are missing at once."""
        return self._confirmed

    def confirm_absent(self, names: Iterable[NodeName]) -> None:
        """A person confirmed that these nodes' machines are gone."""
        self._confirmed = frozenset(names)

    async def latest(self, max_age: timedelta) -> Inventory:
        """An inventory at most `max_age` old.

        Raises:
            CloudUnavailable, SchemaError: it could not be read; what was known stays known.
        """
        async with self._lock:
            # The age is counted on the boot clock: after a step back of the wall clock a listing would stay young
            # for as long as the step.
            asked_at_s = self._clock.boot_s()
            last = self._last
            if last is None or asked_at_s - self._read_at_s >= max_age.total_seconds():
                last = self._last = await self._cloud.inventory()
                self._read_at_s = asked_at_s
            return last
