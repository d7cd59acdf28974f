"""How long an unanswered create call may still bring a machine: learned from how long answered ones took to be listed.

Too short, and a machine that was written off surfaces beside its replacement; too long, and a place under the limits
stays blocked. The sweep deletes what surfaces either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from autoscaler.clock import Clock
from autoscaler.domain.ids import NodeName
from autoscaler.domain.machine import Inventory
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.store.protocol import ListingLags, Store
from autoscaler.timings import Timings

log = structlog.get_logger(__name__)

MEASURED_LAUNCHES = 50  # fewer say too little of the largest lag
_LAGS = 3
_WATCHED_FOR_S = 3600.0  # a machine that is not listed by then was never made


def settling_time(lags: ListingLags, timings: Timings, create_timeout: timedelta) -> timedelta:
    """The create call's timeout and three times the largest lag yet seen, within its bounds. Pure.

    Until enough launches are measured it is the configured `settling_time`.
    """
    if lags.launches < MEASURED_LAUNCHES:
        return timings.settling_time
    learned_s = create_timeout.total_seconds() + _LAGS * lags.largest_s
    least, most = timings.settling_time_min, timings.settling_time_max
    return max(least, timedelta(seconds=min(learned_s, most.total_seconds())))


@dataclass(slots=True)
class _Launch:
    """A create call and the newest complete listing after it that lacked its machine, in seconds since boot."""

    sent_s: float
    missed_s: float


@dataclass(slots=True)
class LagWatch:
    """Measures how long machines take from their create call to the first complete listing that has them.

    Only create calls of this process count: what an heir finds was listed nobody knows when. So does a machine that
    shows up after nobody could read listings for longer than `longest_gap`: that measures the outage.
    """

    longest_gap: timedelta
    _launches: dict[NodeName, _Launch] = field(default_factory=dict)
    _read_at_s: float = float("-inf")

    def sent(self, name: NodeName, at_s: float) -> None:
        """A create call is about to be made."""
        self._launches[name] = _Launch(at_s, at_s)

    def forget(self, name: NodeName) -> None:
        """No call was made after all."""
        self._launches.pop(name, None)

    def witness(self, inventory: Inventory, read_at_s: float) -> dict[NodeName, float]:
        """Take a listing into account and return the lags that it ends, in seconds.

        Args:
            read_at_s: when it was asked for.
        """
        if not inventory.complete or read_at_s <= self._read_at_s:
            return {}
        self._read_at_s = read_at_s
        listed = {machine.name for machine in inventory.machines}
        lags: dict[NodeName, float] = {}
        for name, launch in list(self._launches.items()):
            if name in listed:
                del self._launches[name]
                if read_at_s - launch.missed_s <= self.longest_gap.total_seconds():
                    lags[name] = max(0.0, read_at_s - launch.sent_s)
            elif read_at_s - launch.sent_s > _WATCHED_FOR_S:
                del self._launches[name]
            else:
                launch.missed_s = max(launch.missed_s, read_at_s)
        return lags


class SettlingTime:
    """The settling time in use: watches launches, keeps what they taught in the store, survives a restart."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        timings: Timings,
        create_timeout: timedelta,
        told: Callable[[timedelta], None],
    ) -> None:
        """`told` is given each new value, the first one too."""
        self._store = store
        self._clock = clock
        self._timings = timings
        self._create_timeout = create_timeout
        self._told = told
        # A machine that was written off is seen by the sweep alone: two of its rounds may pass.
        self._watch = LagWatch(2 * timings.sweep)
        self._length: timedelta | None = None

    @property
    def length(self) -> timedelta:
        """How long an unanswered create is waited for."""
        return self._length if self._length is not None else self._timings.settling_time

    def sent(self, name: NodeName) -> None:
        """A create call is about to be made under this name."""
        self._watch.sent(name, self._clock.boot_s())

    def forget(self, name: NodeName) -> None:
        """Nothing was sent under this name."""
        self._watch.forget(name)

    async def learn(self, feed: InventoryFeed) -> None:
        """Learn from the newest listing, and at first from what the store remembers.

        Raises:
            StoreUnavailable: the length in use stays.
        """
        lags = self._watch.witness(feed.last, feed.read_at_s) if feed.last is not None else {}
        for name, seconds in lags.items():
            await self._store.add_listing_lag(name, seconds, self._clock.now())
        if lags or self._length is None:
            self._take(await self._store.listing_lags())

    def _take(self, lags: ListingLags) -> None:
        length = settling_time(lags, self._timings, self._create_timeout)
        if length == self._length:
            return
        log.info(
            "settling_time_set",
            seconds=length.total_seconds(),
            launches=lags.launches,
            largest_lag_s=round(lags.largest_s, 1),
        )
        self._length = length
        self._told(length)
