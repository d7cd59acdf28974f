"""One listing of all machines, shared by every node's step and the sweep, so that ten nodes cost one call.

Looks that cannot wait (at a node that serves or drains) give it a moment only, and whoever asks while the cloud does
not answer learns that at once: an outage of the cloud must not hold up what a balancer is to be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import NodeName
from autoscaler.domain.machine import Inventory
from autoscaler.errors import CloudUnavailable

_LONG_S = 5.0  # a call that takes longer is no sign of life
_STALE_S = 30.0  # what an asker that cannot wait is given at the oldest


class InventoryFeed:
    """Reads the inventory when somebody needs one younger than what is known; one call at a time, for all."""

    def __init__(self, cloud: Cloud, clock: Clock) -> None:
        self._cloud = cloud
        self._clock = clock
        self._tasks: asyncio.TaskGroup | None = None
        self._flight: asyncio.Event | None = None
        self._last: Inventory | None = None
        self._asked_at_s = 0.0
        self._read_at_s = 0.0
        self._failure: Exception | None = None
        self._failed_at_s = 0.0
        self._confirmed: frozenset[NodeName] = frozenset()

    def use(self, tasks: asyncio.TaskGroup) -> None:
        """Read in this group's tasks: an asker can then leave while the call goes on for the others."""
        self._tasks = tasks

    @property
    def last(self) -> Inventory | None:
        return self._last

    @property
    def read_at_s(self) -> float:
        """When the last inventory was asked for, in seconds since boot."""
        return self._read_at_s

    @property
    def is_failing(self) -> bool:
        """Whether the last call brought no inventory, or the one under way takes long."""
        slow = self._flight is not None and self._clock.boot_s() - self._asked_at_s > _LONG_S
        return slow or self._failure is not None

    @property
    def confirmed_absent(self) -> frozenset[NodeName]:
        """Nodes whose machines a person said are truly gone, although many are missing at once."""
        return self._confirmed

    def confirm_absent(self, names: Iterable[NodeName]) -> None:
        """A person confirmed that these nodes' machines are gone."""
        self._confirmed = frozenset(names)

    async def latest(self, max_age: timedelta, wait: timedelta | None = None) -> Inventory:
        """An inventory at most `max_age` old, counted from when it was asked for.

        Args:
            wait: how long this asker waits, and is then given what was read up to half a minute ago; None waits for
                the call's end.

        Raises:
            CloudUnavailable, SchemaError: it could not be read now, or less than `max_age` ago; what was known stays
                known.
        """
        # Ages are counted on the boot clock: after a step back of the wall clock a listing would stay young for as
        # long as the step.
        now_s, age_s = self._clock.boot_s(), max_age.total_seconds()
        if self._failure is not None and now_s - self._failed_at_s < age_s:
            raise self._failure
        if self._last is not None and now_s - self._read_at_s < age_s:
            return self._last
        if self._flight is not None and self._failure is not None and wait is not None:
            raise self._failure
        try:
            async with asyncio.timeout(wait.total_seconds() if wait is not None else None):
                await self._fly()
        except TimeoutError:
            if self._failure is not None:
                raise self._failure from None
            if self._last is None or self._clock.boot_s() - self._read_at_s > _STALE_S:
                raise CloudUnavailable("the listing takes long; others wait for it") from None
            return self._last
        if self._failure is not None:
            raise self._failure
        assert self._last is not None
        return self._last

    async def _fly(self) -> None:
        """Wait for the call that is under way, or make one."""
        if self._flight is None:
            self._flight, self._asked_at_s = asyncio.Event(), self._clock.boot_s()
            if self._tasks is None:
                await self._read(self._flight)
                return
            self._tasks.create_task(self._read(self._flight), name="listing")
        await self._flight.wait()

    async def _read(self, landed: asyncio.Event) -> None:
        try:
            inventory = await self._cloud.inventory()
        except asyncio.CancelledError:
            self._fail(CloudUnavailable("the listing was broken off"))
            raise
        except Exception as exc:
            self._fail(exc)  # each asker is told, and handles it as its own
        else:
            self._last, self._read_at_s, self._failure = inventory, self._asked_at_s, None
        finally:
            self._flight = None
            landed.set()

    def _fail(self, exc: Exception) -> None:
        self._failure, self._failed_at_s = exc, self._clock.boot_s()
