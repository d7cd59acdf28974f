"""The composition root: builds the parts from the config, runs them in one task group, and stops them.

Stopping kills nothing: nodes go on serving behind their balancers, and the next daemon takes them up.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from functools import partial

import structlog

from autoscaler.backups import Backups
from autoscaler.brakes.proof import Proof
from autoscaler.clock import Clock, SystemClock
from autoscaler.cloud.mkinf.listed import listed_offers
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.cloud.watched import WatchedCloud
from autoscaler.cloud_check import CloudCheck
from autoscaler.config import Config
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Node
from autoscaler.domain.offer import Market, Offer
from autoscaler.errors import PaymentRequired
from autoscaler.growth import GrowthGuard, dearest_of
from autoscaler.health import Health
from autoscaler.lag import LoopLag
from autoscaler.lease_keeping import keep, take
from autoscaler.market import MarketFeed
from autoscaler.nodes.firewall import FirewallGate
from autoscaler.nodes.inventory import Owner
from autoscaler.nodes.launch import Launcher, Scripts
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.runner import NodeRunner, Parts
from autoscaler.nodes.startup.pins import ImagePins
from autoscaler.nodes.startup.render import render
from autoscaler.nodes.sweep import ORPHANS_MODEL, Sweeper
from autoscaler.observe.feed import SignalFeed
from autoscaler.operate import Operations
from autoscaler.outside import OpenOutside, Outside, open_outside
from autoscaler.passes import Passes
from autoscaler.policies import PolicyBook
from autoscaler.policy import Policy
from autoscaler.reconcile import Feed, Reconciler
from autoscaler.serve.metrics import Metrics
from autoscaler.serve.views import Views
from autoscaler.supervising import supervised
from autoscaler.sweeping import SweepRounds
from autoscaler.uptake import PolicyUptake
from autoscaler.usage_check import UsageCheck
from autoscaler.wakes import Wakes
from autoscaler.ways import tend
from autoscaler.welcoming import welcome

log = structlog.get_logger(__name__)


class Daemon:
    """One running autoscaler."""

    def __init__(
        self, config: Config, clock: Clock | None = None, outside: OpenOutside = open_outside
    ) -> None:
        """Take what it is made of; `outside` opens all of it that touches the world."""
        self.config = config
        self._open_outside = outside
        self.clock: Clock = clock or SystemClock()
        self.health = Health()
        self.lag = LoopLag(self.clock)
        self._listed = listed_offers(load_prices(config.cloud.prices_file))
        self.book = PolicyBook(
            config.policies,
            emulated=config.cloud.is_loopback,
            balancer=config.balancer,
            reach=config.way,
            guard=GrowthGuard(dearest_of(self._listed), config.limits.confirm_growth),
        )
        self.wakes = Wakes()
        unneeded = frozenset({"firewall"}) if config.way == "tunnel" else frozenset()
        self.proof = Proof(self._must_prove, unneeded)
        self.started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._feeds: dict[ModelName, SignalFeed] = {}
        self._tasks: dict[ModelName, asyncio.Task[None]] = {}

    def stop(self) -> None:
        """Ask for an orderly end: nodes stay, the state is on disk."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stopped.

        Raises:
            ConfigError: config or policies are wrong. StoreUnavailable: the store cannot be used.
        """
        self.book.load()
        async with self._open_outside(
            self.config, self.clock, lambda: self.book.policies
        ) as outside:
            self._build(outside)
            try:
                await self._run_parts()
            finally:
                for feed in self._feeds.values():
                    await feed.close()

    def _build(self, outside: Outside) -> None:
        config, clock, store = self.config, self.clock, outside.store
        balancers, reach = outside.balancers, outside.reach
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.metrics = Metrics()
        cloud = WatchedCloud(outside.cloud, self.metrics.alarms.cloud_called)
        self._outside, self.reach = outside, reach
        self.store, self.cloud, self.balancers = store, cloud, balancers
        self.leases = Leases(store, holder, clock)
        self.check = CloudCheck(
            config=config,
            book=self.book,
            cloud=cloud,
            why_no_emulator=outside.why_no_emulator,
            store=store,
            clock=clock,
            health=self.health,
            done=lambda: self.wakes.now("sweep"),
        )
        self.inventory = InventoryFeed(cloud, clock)
        self.market = MarketFeed(cloud, store, clock)
        self.firewall = FirewallGate(
            cloud,
            f"{config.cloud.prefix}-{config.cloud.owner}-serve",
            config.firewall.sources,
            manage=config.firewall.manage and config.way != "tunnel",
        )
        self._pins = ImagePins(store)
        launcher = Launcher(
            store,
            cloud,
            clock,
            self.leases,
            lambda: self.market.last,
            self._render,
            self.firewall,
            outside.public_key,
            self.health.forbidden,
            lambda why: self.health.want_payment(why, clock.boot_s()),
            config.cloud.create_timeout,
        )
        self.runner = NodeRunner(
            Parts(
                store=store,
                cloud=cloud,
                clock=clock,
                leases=self.leases,
                inventory=self.inventory,
                balancers=balancers,
                prober=outside.prober(self._pins),
                reach=reach,
                launcher=launcher,
                timings=config.timings,
                policies=lambda: self.book.policies,
                market=lambda: self.market.last,
                changed=self._node_changed,
                cut=self.metrics.requests_cut,
                settling=self.metrics.settling_time,
                disagreed=self.metrics.alarms.balancer_disagreed,
            )
        )
        self.sweeper = Sweeper(
            store,
            cloud,
            self.inventory,
            self.leases,
            clock,
            config.timings,
            Owner(config.cloud.prefix, config.cloud.owner, config.cloud.owner_is_derived),
            balancers.in_traffic,
        )
        self.sweeping = SweepRounds(
            sweeper=self.sweeper,
            store=store,
            clock=clock,
            timings=config.timings,
            book=self.book,
            market=self.market,
            inventory=self.inventory,
            firewall=self.firewall,
            wakes=self.wakes,
            metrics=self.metrics,
            health=self.health,
            idle=self._feed_watchdog,
            listed=Market(self._listed, clock.now()),
        )
        self.reconciler = Reconciler(
            config,
            store,
            self.market,
            self.leases,
            self._feed,
            lambda: self.book.policies,
            self.health.forbidden,
            self.sweeping.unbooked,
            balancers.why_no_release,
            self.proof.most_nodes,
        )
        self.passes = Passes(
            store=store,
            balancers=balancers,
            clock=clock,
            clock_jump=config.timings.clock_jump,
            book=self.book,
            wakes=self.wakes,
            reconciler=self.reconciler,
            runner=self.runner,
            metrics=self.metrics,
            health=self.health,
            ended=self._feed_watchdog,
        )
        self.uptake = PolicyUptake(
            book=self.book,
            store=store,
            leases=self.leases,
            wakes=self.wakes,
            market=self.market,
            firewall=self.firewall,
            reach=reach,
            metrics=self.metrics,
            health=self.health,
            start=self._start_model,
            drop_feed=self._drop_feed,
            now=clock.now,
        )
        self.usage = UsageCheck(store, cloud, clock, config.limits.usage_tolerance)
        self.views = Views(store, clock)
        self.operations = Operations(
            config,
            self.book,
            store,
            self.leases,
            self.runner,
            self.reconciler,
            self.market,
            balancers,
            self.wakes,
            clock,
        )

    def _render(self, node: Node, policy: Policy, offer: Offer) -> Scripts:
        script = render(
            policy,
            offer,
            nonce=node.nonce or "",
            replicas=node.replicas,
            config=self.config,
            pins=self._pins.known,
        )
        return Scripts(script.text, script.shutdown)

    def _feed(self, model: ModelName) -> Feed:
        if model not in self._feeds:
            self._feeds[model] = self._outside.feed(self.book.policies[model])
        return self._feeds[model]

    async def _drop_feed(self, model: ModelName) -> None:
        feed = self._feeds.pop(model, None)
        if feed is not None:
            await feed.close()

    async def _run_parts(self) -> None:
        renew = self.config.timings.lease_renew
        await self.sweeping.count_start()
        reload = partial(self.wakes.now, "policies")
        self._outside.on_signals(self.stop, reload)
        face = self._outside.face(self)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._group = tasks
                await self._take_leases()
                await self._pins.load()
                await self.uptake.take_up()
                tasks.create_task(face.run(), name="serve")
                for name, part in (
                    ("leases", lambda: keep(self.leases, self.wakes, renew, self.health)),
                    ("lag", self.lag.watch),
                    ("market", self._read_market),
                    ("cloud", self._check_cloud),
                    ("sweep", lambda: self.sweeping.run(self.runner, tasks)),
                    ("policies", self.uptake.reload),
                    (
                        "policy-files",
                        lambda: self._outside.watch_policies(reload, self._stopping),
                    ),
                    ("nodes", self._move_nodes),
                    ("demand", self._watch_demand),
                    ("balancers", self._watch_balancers),
                    ("ways", self._tend_ways),
                    ("backups", self._back_up),
                    ("usage", self.usage.run),
                ):
                    tasks.create_task(supervised(name, part, self.clock), name=name)
                for model in self.book.policies:
                    self._start_model(model)
                await face.listening.wait()
                self._outside.tell_manager("READY=1", "STATUS=running")
                self.started.set()
                log.info("daemon_started", models=sorted(self.book.policies), pid=os.getpid())
                await self._stopping.wait()
                self._outside.tell_manager("STOPPING=1")
                raise _Stop
        except* _Stop:
            log.info("daemon_stopped", nodes="left serving")
        finally:
            self.wakes.stop()

    # start

    async def _take_leases(self) -> None:
        models = {*self.book.policies, ORPHANS_MODEL}
        models |= {node.model for node in await self.store.nodes()}
        await take(self.leases, models)

    def _start_model(self, model: ModelName) -> None:
        self.wakes.every(f"model {model}", self.config.timings.reconcile)
        self._tasks[model] = self._group.create_task(
            self.passes.serve(model, self._group), name=f"model {model}"
        )
        self.uptake.want_ports()

    # loops

    async def _move_nodes(self) -> None:
        await self.check.known.wait()
        await self.runner.run(self._group)

    async def _check_cloud(self) -> None:
        await self.check.run()
        await self.proof.read(self.store, self.clock.now())

    def _must_prove(self) -> bool:
        """A real cloud must prove that it deletes before much is rented; an emulator when it is told to."""
        asked = self.config.limits.prove_first
        return not self.book.is_emulated if asked is None else asked

    async def _read_market(self) -> None:
        await self.check.known.wait()
        self.wakes.every("market", self.config.timings.market)
        while True:
            await self.wakes.wait("market")
            first = self.market.last is None
            await self.market.refresh()
            if isinstance(self.market.trouble, PaymentRequired):
                self.health.want_payment(str(self.market.trouble), self.clock.boot_s())
            else:
                self.health.may_be_paid(self.clock.boot_s())
            self.uptake.want_ports()
            self.metrics.market_read(self.market)
            self.operations.note_tight()
            if first and self.market.last is not None:
                for model in self.book.policies:
                    self.wakes.now(f"model {model}")

    async def _watch_balancers(self) -> None:
        step = self.config.timings.step
        await welcome(self.balancers, self.store, lambda: self.book.policies, self.clock, step)

    async def _back_up(self) -> None:
        folder, backup = self.config.state_dir / "backups", self.config.backup
        backups = Backups(self.store, self.clock, folder, backup.keep)
        await backups.run(backup.at, self._outside.every_day)

    async def _tend_ways(self) -> None:
        await tend(self.reach, self.store, self.health, self.clock, self.config.timings.step)

    async def _watch_demand(self) -> None:
        """A request that begins to wait at the gateway wakes its model's pass."""
        await self._outside.watch_demand(lambda model: self.wakes.now(f"model {model}"))

    # small things

    def _feed_watchdog(self) -> None:
        self._outside.tell_manager("WATCHDOG=1")

    def _node_changed(self, before: Node, after: Node) -> None:
        self.metrics.node_changed(before, after)
        self.proof.node_changed(after)
        self.wakes.now(f"model {after.model}")


class _Stop(Exception):
    """Ends the task group in order."""
