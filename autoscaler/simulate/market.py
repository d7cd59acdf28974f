"""The market of a backtest: offers at their prices, boots drawn from a distribution, and stock that comes and goes.

All of it is drawn from seeds before any law is asked, so that two laws meet the same market: the k-th launch of a run
boots as long as any other run's k-th, and an offer is sold out at the same times.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

from autoscaler.domain.offer import Offer, OfferKey

_LEAST_BOOT_S = 1.0


@dataclass(frozen=True, slots=True)
class Boots:
    """How long machines take from their order until they serve: log-normal.

    Attributes:
        sigma: of the logarithm; 0 makes every boot as long as the median.
        recorded: boots to take first, in this order, before any is drawn.
    """

    median_s: float = 180.0
    sigma: float = 0.25
    seed: int = 1
    recorded: tuple[float, ...] = ()

    def drawn(self) -> Iterator[float]:
        """The boots of a run, the k-th launch's at the k-th place; without end."""
        yield from self.recorded
        rng = random.Random(f"boots/{self.seed}")
        normal = NormalDist()
        while True:
            # by the inverse: one number each, so that another sigma changes no order
            share = min(max(rng.random(), 1e-9), 1 - 1e-9)
            yield max(_LEAST_BOOT_S, self.median_s * math.exp(self.sigma * normal.inv_cdf(share)))

    @property
    def mean_s(self) -> float:
        return self.median_s * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True, slots=True)
class Market:
    """What can be rented, and when.

    Attributes:
        out_share: share of the time for which each offer is sold out, 0..1.
        out_s: how long it is sold out each time, on average.
        seed: of the times at which offers are sold out.
        read_s: how often the daemon reads the market; in between it may order what has sold out.
    """

    offers: tuple[Offer, ...]
    boots: Boots = Boots()
    out_share: float = 0.0
    out_s: float = 1800.0
    seed: int = 1
    read_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.out_share < 1:
            raise ValueError(
                f"the share out of stock: found {self.out_share}, allowed: 0 to below 1"
            )


class Stock:
    """Which offers are sold out, followed through one run. Ask in the order of time."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._turns = {offer.key: self._drawn(offer.key) for offer in market.offers}
        self._state = {key: next(turns) for key, turns in self._turns.items()}
        self._read_at = -math.inf
        self._read: tuple[Offer, ...] = ()

    def has(self, key: OfferKey, now_s: float) -> bool:
        """Whether an offer can be rented at this instant; one that nobody lists cannot."""
        state = self._state.get(key)
        if state is None:
            return False
        until_s, is_in = state
        while until_s <= now_s:
            until_s, is_in = self._state[key] = next(self._turns[key])
        return is_in

    def read(self, now_s: float) -> tuple[tuple[Offer, ...], float]:
        """The offers as the daemon has read them last, and when that was."""
        if now_s - self._read_at >= self._market.read_s:
            self._read_at = now_s
            offers = tuple(
                offer
                if self.has(offer.key, now_s) == offer.in_stock
                else replace(offer, in_stock=not offer.in_stock)
                for offer in self._market.offers
            )
            if offers != self._read:
                self._read = offers
        return self._read, self._read_at

    def _drawn(self, key: OfferKey) -> Iterator[tuple[float, bool]]:
        """Until when it is in stock, or out of it, turn by turn."""
        share, out_s = self._market.out_share, self._market.out_s
        if share <= 0:
            yield math.inf, True
            return
        rng = random.Random(f"stock/{self._market.seed}/{key}")
        in_s = out_s * (1 - share) / share
        is_in, until_s = rng.random() >= share, 0.0
        while True:
            until_s += rng.expovariate(1 / (in_s if is_in else out_s))
            yield until_s, is_in
            is_in = not is_in
