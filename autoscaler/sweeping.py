"""Rounds of the sweep: the cloud's list against the store, and what only its outcome allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from autoscaler.act import Unbooked
from autoscaler.clock import Clock
from autoscaler.domain.money import ZERO, total
from autoscaler.domain.offer import Market
from autoscaler.errors import AutoscalerError, CloudUnavailable
from autoscaler.health import Health
from autoscaler.market import MarketFeed
from autoscaler.nodes.firewall import FirewallGate
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.runner import NodeRunner
from autoscaler.nodes.sweep import Sweeper, model_slugs
from autoscaler.policies import PolicyBook
from autoscaler.serve.metrics import Metrics
from autoscaler.store.protocol import Store
from autoscaler.timings import Timings
from autoscaler.wakes import Wakes

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SweepRounds:
    """Sweeps when woken, counts starts, and prices what no row knows.

    Attributes:
        idle: told after a round where there is no model, whose passes would feed the watchdog.
        listed: the price list: what a machine costs is known before the market is.
    """

    sweeper: Sweeper
    store: Store
    clock: Clock
    timings: Timings
    book: PolicyBook
    market: MarketFeed
    inventory: InventoryFeed
    firewall: FirewallGate
    wakes: Wakes
    metrics: Metrics
    health: Health
    idle: Callable[[], None]
    listed: Market | None = None

    async def count_start(self) -> None:
        """Record this start. Too many in a short time, and the daemon launches nothing: it is in a crash loop."""
        now, window = self.clock.now(), self.timings.safe_mode_window
        starts = await self.store.add_start(now)
        recent = sum(1 for at in starts if now - at < window)
        if recent > self.timings.safe_mode_starts:
            self.health.enter_safe_mode(self.clock.boot_s() + window.total_seconds())
            log.error("safe_mode_entered", starts=recent, window=str(window))

    async def run(self, runner: NodeRunner, tasks: asyncio.TaskGroup) -> None:
        """Sweep whenever woken, for ever; nodes that a sweep brought back are moved by `runner`."""
        self.wakes.every("sweep", self.timings.sweep)
        trouble = ""
        while True:
            await self.wakes.wait("sweep")
            if not self.health.project_checked:
                continue
            try:
                await self._sweep()
                await runner.start_new(tasks)
                await self.store.prune(self.clock.now() - self.timings.retention)
                trouble = ""
                await self._verify_firewall()
            except (AutoscalerError, OSError) as exc:
                if str(exc) != trouble:
                    log.warning("sweep_failed", why=str(exc))
                trouble = str(exc)
            if not self.book.policies:
                self.idle()

    async def _sweep(self) -> None:
        findings = await self.sweeper.sweep(
            model_slugs(tuple(self.book.policies)), self.market.last or self.listed
        )
        self.metrics.swept(findings)
        self.health.held = findings.held
        self.health.swept = self.health.swept or findings.held is None
        if self.health.left_safe_mode(self.clock.boot_s()):
            log.warning("safe_mode_left")

    async def _verify_firewall(self) -> None:
        """Look at the rule again; one that was just made takes a moment, and launches wait for it."""
        try:
            await self.firewall.verify()
        except CloudUnavailable as exc:
            log.info("firewall_pending", why=str(exc))

    def unbooked(self) -> Unbooked:
        """What is ours and in no row, each machine by its offer, else at the dearest there is."""
        market, listing = self.market.last or self.listed, self.inventory.last
        offers = market.offers if market is not None else ()
        dearest = max((o.price_per_hour for o in offers if o.price_per_hour), default=ZERO)
        largest = max((o.gpus for o in offers), default=0)
        prices, gpus = [], 0
        for orphan in self.sweeper.findings.orphans:
            machine = listing.by_id(orphan.machine_id) if listing is not None else None
            alike = [o for o in offers if machine is not None and o.key.type == machine.type]
            here = [o for o in alike if machine is not None and o.key.location == machine.location]
            known = [o.price_per_hour for o in here or alike if o.price_per_hour]
            prices.append(max(known, default=dearest))
            gpus += alike[0].gpus if alike else largest
        left = [disk.price_per_hour for disk in self.sweeper.disks_left if disk.price_per_hour]
        return Unbooked(tuple(prices), gpus, total(left))
