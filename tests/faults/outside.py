"""What a simulated daemon acts through: the `Outside` of one life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.balance.group import BalancerGroup
from autoscaler.cloud.protocol import Cloud
from autoscaler.config import Config
from autoscaler.daemon import Daemon
from autoscaler.domain.ids import ModelName
from autoscaler.nodes.protocol import Prober
from autoscaler.nodes.reach import PlainReach, Reach
from autoscaler.nodes.startup.pins import ImagePins
from autoscaler.observe.feed import SignalFeed
from autoscaler.outside import Face
from autoscaler.policy import Policy
from autoscaler.store.protocol import Store
from tests.faults.lives import Life

if TYPE_CHECKING:
    from tests.faults.world import World

PUBLIC_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDdr0Jv7Y0nC8v9gJt4ZQe1n1S7B9yq2oT3F6l5kT0mA simulated"
)


@dataclass
class _Face:
    """The daemon's HTTP, which nobody asks."""

    listening: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        self.listening.set()
        await asyncio.Event().wait()


@dataclass(eq=False)
class SimOutside:
    """What one life of the daemon acts through. Satisfies `Outside`."""

    world: World
    life: Life
    store: Store
    cloud: Cloud
    balancers: BalancerGroup
    config: Config
    reach: Reach = field(default_factory=lambda: PlainReach(public=True))
    public_key: str = PUBLIC_KEY

    def prober(self, pins: ImagePins) -> Prober:
        return self.world.prober(self.life)

    def feed(self, policy: Policy) -> SignalFeed:
        return self.world.feed(self.life, policy, self.balancers)

    def face(self, daemon: Daemon) -> Face:
        return _Face()

    async def why_no_emulator(self) -> str | None:
        return None

    async def watch_policies(self, wake: Callable[[], None], stopping: asyncio.Event) -> None:
        await asyncio.Event().wait()

    async def watch_demand(self, wake: Callable[[ModelName], None]) -> None:
        await asyncio.Event().wait()

    async def every_day(self, at: str, wake: Callable[[], None]) -> None:
        await asyncio.Event().wait()

    def on_signals(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        """Nobody sends any."""

    def tell_manager(self, *lines: str) -> None:
        """Nobody listens."""
