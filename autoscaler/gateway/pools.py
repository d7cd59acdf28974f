"""All pools: finding one by a request's model, and telling the daemon that somebody waits."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field

from autoscaler.gateway.pool import Pool
from autoscaler.gateway.settings import PoolSettings


@dataclass(eq=False, slots=True)
class Pools:
    """The models that this gateway serves.

    Attributes:
        boot_id: new at each start; counters of another boot do not compare.
        generation: grows with each change of pools or endpoints and with each new demand.
        unmatched_total: requests for models that nobody serves.
        is_retired: another process has taken over; this one finishes what it has.
    """

    loop: asyncio.AbstractEventLoop
    boot_id: str = field(default_factory=lambda: secrets.token_hex(8))
    started_at: float = field(default_factory=time.time)
    by_model: dict[str, Pool] = field(default_factory=dict)
    generation: int = 0
    unmatched_total: int = 0
    is_stopping: bool = False
    is_retired: bool = False
    _by_name: dict[str, Pool] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def find(self, name: str) -> Pool | None:
        """Find the pool of a model by its name or an alias."""
        return self._by_name.get(name)

    def put(self, settings: PoolSettings) -> Pool:
        """Add a pool, or set an existing one anew; its endpoints, line and figures stay.

        Raises:
            ValueError: another pool has one of the names.
        """
        for name in (settings.model, *settings.aliases):
            other = self._by_name.get(name)
            if other is not None and other.settings.model != settings.model:
                raise ValueError(f"{name!r} is already a name of pool {other.settings.model!r}")
        pool = self.by_model.get(settings.model)
        if pool is None:
            pool = Pool(settings, self.loop, self.note_demand)
            self.by_model[settings.model] = pool
        pool.settings = settings
        self._index()
        pool.dispatch()
        return pool

    def remove(self, pool: Pool) -> None:
        """Forget a pool; whoever waits in it is refused."""
        del self.by_model[pool.settings.model]
        self._index()
        pool.close("pool_removed", "the model is no longer served")

    def close(self) -> None:
        """Refuse all who wait: the process is stopping."""
        self.is_stopping = True
        for pool in self.by_model.values():
            pool.close("shutdown", "the gateway is stopping")
        self._announce()

    def retire(self) -> None:
        """Serve on for those who are connected, one answer each; who asked to know of demand asks elsewhere."""
        self.is_retired = True
        for pool in self.by_model.values():
            pool.is_leaving = True
        self._announce()

    def note_change(self) -> int:
        """Count a change of pools or endpoints."""
        self.generation += 1
        return self.generation

    def note_demand(self, pool: Pool) -> None:
        """Count that somebody began to wait in `pool`, and wake who asked to know."""
        self.generation += 1
        pool.demand_generation = self.generation
        self._announce()

    async def demand_since(
        self, generation: int, model: str | None, timeout_s: float
    ) -> list[Pool]:
        """Wait until a pool (or that of `model`) has demand newer than `generation`.

        Returns the pools that have; none when `timeout_s` went by or the gateway is stopping.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    pools = [p for name, p in self.by_model.items() if model in (None, name)]
                    fresh = [pool for pool in pools if pool.demand_generation > generation]
                    if fresh or self.is_stopping or self.is_retired:
                        return fresh
                    await self._changed.wait()
        except TimeoutError:
            return []

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _index(self) -> None:
        self._by_name = {
            name: pool
            for pool in self.by_model.values()
            for name in (pool.settings.model, *pool.settings.aliases)
        }
