"""The leases this daemon holds: taken at start, renewed on time, checked before every effect."""

from __future__ import annotations

from autoscaler.clock import Clock
from autoscaler.domain.ids import ModelName
from autoscaler.errors import LeaseLost
from autoscaler.store.protocol import Lease, Store


class Leases:
    """The models that this daemon may act on."""

    def __init__(self, store: Store, holder: str, clock: Clock) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock
        self._held: dict[ModelName, Lease] = {}

    @property
    def models(self) -> frozenset[ModelName]:
        """The models whose lease is held."""
        return frozenset(self._held)

    async def acquire(self, model: ModelName) -> bool:
        """Take a model's lease; False while another living daemon has it."""
        lease = await self._store.acquire(model, self._holder, self._clock.boot_s())
        if lease is None:
            return False
        self._held[model] = lease
        return True

    def current(self, model: ModelName) -> Lease:
        """The lease under which to write.

        Raises:
            LeaseLost: we do not hold it, or could not renew it in time.
        """
        lease = self._held.get(model)
        if lease is None:
            raise LeaseLost(f"{model}: no lease is held")
        if self._clock.boot_s() >= lease.good_until_boot_s:
            raise LeaseLost(f"{model}: its lease was not renewed in time")
        return lease

    async def fresh(self, model: ModelName, good_for_s: float) -> Lease:
        """Renew the lease and see that it outlasts a call of `good_for_s` seconds.

        Raises:
            LeaseLost: it is over, or too short for the call.
        """
        held = self._held.get(model)
        if held is None:
            raise LeaseLost(f"{model}: no lease is held")
        lease = await self._renew(held)
        if lease.good_until_boot_s - self._clock.boot_s() < good_for_s:
            raise LeaseLost(f"{model}: its lease is shorter than the call ({good_for_s:g} s)")
        return lease

    async def renew_all(self) -> list[ModelName]:
        """Renew every lease; return the models that were lost."""
        lost = []
        for lease in list(self._held.values()):
            try:
                await self._renew(lease)
            except LeaseLost:
                del self._held[lease.model]
                lost.append(lease.model)
        return lost

    async def _renew(self, lease: Lease) -> Lease:
        # The clock is read before the call: the holder stops counting from when it *sent* the renewal.
        renewed = await self._store.renew(lease, self._clock.boot_s())
        self._held[lease.model] = renewed
        return renewed
