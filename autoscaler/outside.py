"""What of a daemon touches the world, in one place: files, the cloud, balancers, nodes, its own HTTP, the host.

`open_outside` is the real one. Whatever satisfies `Outside` can stand in for it: the simulation of faults runs the
whole daemon on a virtual clock against a cloud in its own process.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import aiohttp
import asyncssh
from watchfiles import awatch

from autoscaler.adopting import adopter_of, introductions_of
from autoscaler.backups import every_day
from autoscaler.balance.assemble import build_balancers
from autoscaler.balance.group import BalancerGroup
from autoscaler.balance.remote import HaproxySockets
from autoscaler.clock import Clock
from autoscaler.cloud.mkinf.connect import open_cloud, settings_of
from autoscaler.cloud.mkinf.emulated import why_no_emulator
from autoscaler.cloud.protocol import Cloud
from autoscaler.config import CloudSettings, Config
from autoscaler.directories import private_directory
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.front_door import warm_up_door
from autoscaler.gateway.notify import Notifier
from autoscaler.nodes.host_authority import HostAuthority, open_host_authority
from autoscaler.nodes.keys import client_key, private_key, public_line
from autoscaler.nodes.prober import NodeProber
from autoscaler.nodes.protocol import Prober
from autoscaler.nodes.reach import Reach
from autoscaler.nodes.startup.pins import ImagePins
from autoscaler.nodes.verify_http import Door, node_session
from autoscaler.nodes.vouching import Voucher
from autoscaler.observe.assemble import build_feed
from autoscaler.observe.demand import DemandWatch
from autoscaler.observe.feed import SignalFeed
from autoscaler.policy import Policy
from autoscaler.serve.adopting import Adoptions
from autoscaler.serve.server import Server
from autoscaler.store.protocol import Store
from autoscaler.store.sqlite import SqliteStore
from autoscaler.ways import authority_of, build_reach

if TYPE_CHECKING:
    from autoscaler.daemon import Daemon


class Face(Protocol):
    """How a running daemon shows itself: its HTTP."""

    listening: asyncio.Event

    async def run(self) -> None:
        """Serve until cancelled. Raises `ConfigError`: the port or the socket cannot be used."""


class Outside(Protocol):
    """What a daemon acts through and is told by, open."""

    @property
    def store(self) -> Store:
        """Our durable state."""

    @property
    def cloud(self) -> Cloud:
        """What is rented from."""

    @property
    def balancers(self) -> BalancerGroup:
        """Every balancer that nodes are registered with."""

    @property
    def reach(self) -> Reach:
        """The way to nodes."""

    @property
    def public_key(self) -> str:
        """The line of our SSH key that new machines let in."""

    def prober(self, pins: ImagePins) -> Prober:
        """What looks at nodes; `pins` says which image each engine runs."""

    def feed(self, policy: Policy) -> SignalFeed:
        """One model's sources of signals, for the caller to close."""

    def face(self, daemon: Daemon) -> Face:
        """What shows this daemon to whoever asks."""

    async def why_no_emulator(self) -> str | None:
        """Why the cloud's endpoint is not the emulator, None when it is; raises while nobody answers."""

    async def watch_policies(self, wake: Callable[[], None], stopping: asyncio.Event) -> None:
        """Call `wake` when a policy file changes, until stopping."""

    async def watch_demand(self, wake: Callable[[ModelName], None]) -> None:
        """Call `wake` with each model for which requests begin to wait. Runs until cancelled."""

    async def every_day(self, at: str, wake: Callable[[], None]) -> None:
        """Call `wake` each day at a time of day ("03:17", UTC). Runs until cancelled."""

    def on_signals(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        """Have the host's signals call these."""

    def tell_manager(self, *lines: str) -> None:
        """Say to the service manager, if there is one, how we are."""


OpenOutside = Callable[
    [Config, Clock, Callable[[], Mapping[ModelName, Policy]]], AbstractAsyncContextManager[Outside]
]
OpenCloud = Callable[[CloudSettings, Clock], Cloud]


@asynccontextmanager
async def open_outside(
    config: Config,
    clock: Clock,
    policies: Callable[[], Mapping[ModelName, Policy]],
    cloud: OpenCloud = open_cloud,
) -> AsyncIterator[Outside]:
    """Open all that the config names, and close it again.

    Args:
        policies: gives the policies in force.
        cloud: opens the cloud that is rented from.

    Raises:
        ConfigError: the config is wrong. StoreUnavailable: the store cannot be used.
    """
    private_directory(config.state_dir)
    private_directory(config.runtime_dir)
    key = client_key(config.ssh_key_file, config.ssh.key_type)
    store = SqliteStore.open(
        config.store_file, config.timings.lease_time, config.timings.store_wait
    )
    try:
        host_authority = open_host_authority(config.host_authority_file)
        authority = authority_of(config, clock)
        vouches = authority.pem if authority is not None else None
        reach = build_reach(config, authority, clock, policies)
        sockets = HaproxySockets(
            config.haproxy,
            lambda path: key if path is None else private_key(path, "haproxy.ssh_key_file"),
        )
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            node_session(vouches) as nodes,
            warm_up_door(config, vouches, nodes, lambda: sockets) as door,
        ):
            rented = cloud(config.cloud, clock)
            balancers = build_balancers(config, sockets, clock.boot_s, vouches)
            try:
                yield _World(
                    store=store,
                    cloud=rented,
                    balancers=balancers,
                    reach=reach,
                    public_key=public_line(key),
                    config=config,
                    clock=clock,
                    key=key,
                    host_authority=host_authority,
                    sockets=sockets,
                    session=session,
                    nodes=nodes,
                    door=door,
                    notifier=Notifier(),
                )
            finally:
                await balancers.close()
                await sockets.close()
                await rented.close()
    finally:
        await store.close()


@dataclass(frozen=True, slots=True)
class _World:
    """The real `Outside`, whose docstrings say what each does."""

    store: Store
    cloud: Cloud
    balancers: BalancerGroup
    reach: Reach
    public_key: str
    config: Config
    clock: Clock
    key: asyncssh.SSHKey
    host_authority: HostAuthority
    sockets: HaproxySockets
    session: aiohttp.ClientSession
    nodes: aiohttp.ClientSession
    door: Callable[[Endpoint], Door] | None
    notifier: Notifier

    def prober(self, pins: ImagePins) -> Prober:
        return self._prober(pins)

    def _prober(self, pins: ImagePins | None) -> Prober:
        cloud = self.config.cloud
        voucher = Voucher(self.host_authority, f"{cloud.prefix}-{cloud.owner}", self.key)
        prober = NodeProber(
            self.config, self.nodes, self.clock, self.reach, self.door, pins=pins, voucher=voucher
        )
        prober.use(self.key)
        return prober

    def feed(self, policy: Policy) -> SignalFeed:
        return build_feed(
            policy,
            self.config,
            self.session,
            lambda: self.balancers.overlooked(policy.name),
            self.sockets.stats,
            self.nodes,
        )

    def face(self, daemon: Daemon) -> Face:
        introductions = introductions_of(self.config, self.clock, self.key, self.host_authority)
        adopter = adopter_of(daemon, introductions, self._prober(None), self.reach)
        return Server(daemon, Adoptions(daemon, adopter))

    async def why_no_emulator(self) -> str | None:
        return await why_no_emulator(settings_of(self.config.cloud))

    async def watch_policies(self, wake: Callable[[], None], stopping: asyncio.Event) -> None:
        async for _ in awatch(self.config.policies, stop_event=stopping, debounce=300):
            wake()

    async def watch_demand(self, wake: Callable[[ModelName], None]) -> None:
        watch = DemandWatch(self.config.gateway_control, self.config.timings.reconcile)
        await watch.run(wake)

    async def every_day(self, at: str, wake: Callable[[], None]) -> None:
        await every_day(at, wake)

    def on_signals(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop)
        loop.add_signal_handler(signal.SIGHUP, reload)

    def tell_manager(self, *lines: str) -> None:
        self.notifier.send(*lines)
