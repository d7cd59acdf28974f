"""What can be rented, as last read: the cloud's offers with what this daemon remembers of them."""

from __future__ import annotations

from datetime import timedelta

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import ModelName
from autoscaler.domain.offer import Market, Offer
from autoscaler.errors import AutoscalerError, CloudUnavailable
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)


class MarketFeed:
    """Reads offers now and then. A reading that failed leaves the last one standing, with its age."""

    def __init__(self, cloud: Cloud, store: Store, clock: Clock) -> None:
        self._cloud = cloud
        self._store = store
        self._clock = clock
        self._last: Market | None = None
        self.trouble: AutoscalerError | None = None

    @property
    def last(self) -> Market | None:
        """The offers as last read, without back-offs and boots; None before the first reading."""
        return self._last

    @property
    def age(self) -> timedelta | None:
        return None if self._last is None else self._clock.now() - self._last.at

    async def refresh(self) -> None:
        """Read the offers. A failure is kept in `trouble` and logged when it changes."""
        try:
            offers: tuple[Offer, ...] = tuple(await self._cloud.offers())
        except AutoscalerError as exc:
            # An unpaid account or a missing endpoint must not end the daemon: what runs must still be given back.
            if str(exc) != str(self.trouble):
                log.warning("market_not_read", why=str(exc))
            self.trouble = exc
            return
        self.trouble = None
        self._last = Market(offers, self._clock.now())

    async def market(self, model: ModelName) -> Market:
        """The offers with the back-offs of all models and this model's measured boots.

        Raises:
            CloudUnavailable: the offers were never read.
            StoreUnavailable: what is remembered cannot be read.
        """
        if self._last is None:
            raise CloudUnavailable(f"the market was not read yet: {self.trouble or 'starting'}")
        return Market(
            offers=self._last.offers,
            at=self._last.at,
            backoffs=await self._store.backoffs(),
            boots_s=await self._store.boots(model),
        )
