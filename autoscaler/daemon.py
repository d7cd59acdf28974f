"""The composition root: builds the parts from the config, runs them in one task group, and stops them.

Stopping kills nothing: nodes go on serving behind their balancers, and the next daemon takes them up.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import structlog
from watchfiles import awatch

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.haproxy import HaproxyBalancer
from autoscaler.balance.haproxy import HaproxySettings as HaproxyTarget
from autoscaler.balance.protocol import Balancer, Pool
from autoscaler.clock import Clock, SystemClock
from autoscaler.cloud.mkinf.connect import open_cloud
from autoscaler.cloud.protocol import Cloud
from autoscaler.config import Config
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import Node
from autoscaler.domain.offer import Offer, OfferKey
from autoscaler.errors import (
    AutoscalerError,
    BalancerUnavailable,
    CloudUnavailable,
    ConfigError,
    LeaseLost,
    PaymentRequired,
    StoreUnavailable,
)
from autoscaler.gateway.notify import Notifier
from autoscaler.market import MarketFeed
from autoscaler.nodes.firewall import FirewallGate
from autoscaler.nodes.inventory import Owner
from autoscaler.nodes.keys import client_key, public_line
from autoscaler.nodes.launch import Launcher, Scripts
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.prober import NodeProber
from autoscaler.nodes.runner import NodeRunner, Parts
from autoscaler.nodes.startup.render import render, replicas_of
from autoscaler.nodes.sweep import ORPHANS_MODEL, Sweeper, model_slugs
from autoscaler.observe.assemble import build_feed
from autoscaler.observe.demand import DemandWatch
from autoscaler.observe.feed import SignalFeed
from autoscaler.operate import Operations
from autoscaler.policies import PolicyBook
from autoscaler.policy import Policy
from autoscaler.reconcile import Feed, Reconciler
from autoscaler.serve.metrics import Metrics
from autoscaler.serve.server import Server
from autoscaler.serve.views import Views
from autoscaler.store.protocol import Store
from autoscaler.store.sqlite import SqliteStore
from autoscaler.wakes import Wakes

log = structlog.get_logger(__name__)

_PAUSE_S = 5.0  # before a broken part begins anew, or an unanswered question is asked again
_RELOAD = timedelta(minutes=1)
_PAYMENT_PAUSE_S = 600.0


@dataclass(slots=True)
class Health:
    """What makes the daemon ready, and what is wrong with it."""

    swept: bool = False
    held: str | None = None
    safe_mode: bool = False
    project_checked: bool = False
    last_pass_s: float = 0.0
    payment_trouble: str | None = None
    stray: tuple[ModelName, ...] = ()

    def forbidden(self) -> str | None:
        """Why nothing may be launched at all."""
        if self.safe_mode:
            return "safe mode: too many starts in a short time; it sweeps, deletes and serves only"
        if not self.project_checked:
            return "the project that the key reaches was not checked yet"
        if self.held is not None:
            return f"the sweep is held, so what bills is not known: {self.held}"
        if not self.swept:
            return "the first sweep has not ended yet"
        if self.payment_trouble is not None:
            return f"the cloud wants payment: {self.payment_trouble}"
        return None


class Daemon:
    """One running autoscaler."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self.config = config
        self.clock: Clock = clock or SystemClock()
        self.health = Health()
        self.book = PolicyBook(config.policies, emulated=config.cloud.is_loopback)
        self.wakes = Wakes()
        self.notifier = Notifier()
        self._stopping = asyncio.Event()
        self._started_s = self.clock.boot_s()
        self._payment_until_s = 0.0
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
        _private_directory(self.config.state_dir)
        _private_directory(self.config.runtime_dir)
        key = client_key(self.config.ssh_key_file, self.config.ssh.key_type)
        store = SqliteStore.open(self.config.store_file, self.config.timings.lease_time)
        try:
            async with aiohttp.ClientSession(trust_env=False) as session:
                cloud = open_cloud(self.config.cloud, self.clock)
                balancers = _balancers(self.config)
                try:
                    self._build(store, cloud, balancers, session, public_line(key))
                    self._prober.use(key)
                    await self._run_parts()
                finally:
                    for feed in self._feeds.values():
                        await feed.close()
                    for balancer in balancers:
                        await balancer.close()
                    await cloud.close()
        finally:
            await store.close()

    def _build(
        self,
        store: Store,
        cloud: Cloud,
        balancers: Sequence[Balancer],
        session: aiohttp.ClientSession,
        public_key: str,
    ) -> None:
        config, clock = self.config, self.clock
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.store, self.cloud, self.balancers, self._session = store, cloud, balancers, session
        self.leases = Leases(store, holder, clock)
        self.inventory = InventoryFeed(cloud, clock)
        self.market = MarketFeed(cloud, store, clock)
        self.firewall = FirewallGate(
            cloud,
            f"{config.cloud.prefix}-{config.cloud.owner}-serve",
            config.firewall.sources,
            manage=config.firewall.manage,
        )
        self._prober = NodeProber(config, session, clock)
        self.metrics = Metrics()
        launcher = Launcher(
            store,
            cloud,
            clock,
            self.leases,
            lambda: self.market.last,
            self._render,
            self.firewall,
            public_key,
            self.health.forbidden,
            self._note_payment,
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
                prober=self._prober,
                launcher=launcher,
                timings=config.timings,
                policies=lambda: self.book.policies,
                market=lambda: self.market.last,
                changed=self._node_changed,
                cut=self.metrics.requests_cut,
                settling=self.metrics.settling_time,
            )
        )
        self.sweeper = Sweeper(
            store,
            cloud,
            self.inventory,
            self.leases,
            clock,
            config.timings,
            Owner(config.cloud.prefix, config.cloud.owner),
        )
        self.reconciler = Reconciler(
            config,
            store,
            self.market,
            self.leases,
            self._feed,
            lambda: self.book.policies,
            self.health.forbidden,
            self._unbooked,
        )
        self.views = Views(store, clock)
        self.operations = Operations(store, self.leases, self.runner, self.wakes, clock)

    def _render(self, node: Node, policy: Policy, offer: Offer) -> Scripts:
        script = render(
            policy, offer, nonce=node.nonce or "", replicas=node.replicas, config=self.config
        )
        return Scripts(script.text, script.shutdown)

    def _unbooked(self) -> list[Money]:
        """Prices of the machines of ours that no row knows, each by its offer, else at the dearest there is."""
        market, listing = self.market.last, self.inventory.last
        offers = market.offers if market is not None else ()
        dearest = max((o.price_per_hour for o in offers if o.price_per_hour), default=ZERO)
        prices = []
        for orphan in self.sweeper.findings.orphans:
            machine = listing.by_id(orphan.machine_id) if listing is not None else None
            key = OfferKey(machine.type, machine.location) if machine is not None else None
            offer = market.offer(key) if market is not None and key is not None else None
            prices.append((offer.price_per_hour if offer is not None else None) or dearest)
        return prices

    def _feed(self, model: ModelName) -> Feed:
        if model not in self._feeds:
            policy = self.book.policies[model]
            self._feeds[model] = build_feed(policy, self.config, self._session)
        return self._feeds[model]

    async def _run_parts(self) -> None:
        await self._check_starts()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self.wakes.now("policies"))
        server = Server(self)
        self.wakes.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._group = tasks
                await self._take_leases()
                await self._take_up_policies()
                running = [tasks.create_task(server.run(), name="serve")]
                running += [
                    tasks.create_task(self._supervised(name, part), name=name)
                    for name, part in (
                        ("leases", self._keep_leases),
                        ("market", self._read_market),
                        ("project", self._check_project),
                        ("sweep", self._sweep),
                        ("policies", self._reload_policies),
                        ("policy-files", self._watch_files),
                        ("nodes", lambda: self.runner.run(tasks)),
                        ("demand", self._watch_demand),
                    )
                ]
                for model in self.book.policies:
                    self._start_model(model)
                await server.listening.wait()
                self.notifier.send("READY=1", "STATUS=running")
                log.info("daemon_started", models=sorted(self.book.policies), pid=os.getpid())
                await self._stopping.wait()
                self.notifier.send("STOPPING=1")
                del running
                raise _Stop
        except* _Stop:
            log.info("daemon_stopped", nodes="left serving")
        finally:
            self.wakes.stop()

    async def _supervised(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part for ever. One that breaks is logged and begins anew; only a wrong config ends the daemon."""
        while True:
            try:
                await part()
                return
            except ConfigError:
                raise
            except Exception:
                log.exception("part_broken", part=name)
                await self.clock.sleep(_PAUSE_S)

    # start

    async def _check_project(self) -> None:
        """A key of another project shows an empty listing: nothing is launched or concluded before this is known."""
        trouble = ""
        while not self.health.project_checked:
            try:
                found = await self.cloud.project_id()
            except AutoscalerError as exc:
                if str(exc) != trouble:
                    log.warning("project_not_checked", why=str(exc))
                trouble = str(exc)
                await self.clock.sleep(_PAUSE_S)
                continue
            known = await self.store.meta("project")
            if known is not None and known != found:
                raise ConfigError(
                    f"cloud: the key reaches project {found}, but this store belongs to {known}: "
                    "use that project's key, or another state_dir"
                )
            await self.store.set_meta("project", found)
            self.health.project_checked = True
            self.wakes.now("sweep")

    async def _take_up_policies(self) -> None:
        """Remember the policies in force, and take up those of models that have nodes and no file any more."""
        for policy in self.book.policies.values():
            await self._keep_policy(policy)
        models = {n.model for n in await self.store.nodes()} - {ORPHANS_MODEL}
        for model in sorted(models - set(self.book.policies)):
            kept = await self.store.meta(f"policy:{model}")
            try:
                if kept is None:
                    raise ValueError("it was never kept")
                self.book.remember(Policy.model_validate_json(kept))
            except ValueError as exc:
                self.health.stray = (*self.health.stray, model)
                log.error("nodes_without_policy", model=model, why=str(exc))
            else:
                log.error("policy_vanished", models=[model], do="autoscaler retire MODEL")

    async def _keep_policy(self, policy: Policy) -> None:
        text = policy.model_dump_json(by_alias=True)
        await self.store.set_meta(f"policy:{policy.model}", text)

    async def _check_starts(self) -> None:
        now = self.clock.now()
        starts = await self.store.add_start(now)
        timings = self.config.timings
        recent = sum(1 for at in starts if now - at < timings.safe_mode_window)
        self.health.safe_mode = recent > timings.safe_mode_starts
        if self.health.safe_mode:
            log.error("safe_mode_entered", starts=recent, window=str(timings.safe_mode_window))

    async def _take_leases(self) -> None:
        models = {*self.book.policies, ORPHANS_MODEL}
        models |= {node.model for node in await self.store.nodes()}
        for model in sorted(models):
            if not await self.leases.acquire(model):
                log.error("lease_held_elsewhere", model=model)

    def _start_model(self, model: ModelName) -> None:
        self.wakes.every(f"model {model}", self.config.timings.reconcile)
        self._tasks[model] = self._group.create_task(
            self._serve_model(model), name=f"model {model}"
        )
        self._want_ports()

    def _want_ports(self) -> None:
        """Every port that a node of any policy may serve on: one per replica."""
        most = 16
        market = self.market.last
        ports: set[int] = set()
        for policy in self.book.policies.values():
            replicas = max(
                (replicas_of(policy, offer) for offer in market.offers) if market else (most,),
                default=most,
            )
            ports |= {policy.server.port + i for i in range(max(1, min(replicas, most)))}
        self.firewall.want(sorted(ports))

    # loops

    async def _serve_model(self, model: ModelName) -> None:
        """One model's passes. A failure is logged when it changes; the other models go on."""
        trouble = ""
        wall, boot = self.clock.now(), self.clock.boot_s()
        while True:
            await self.wakes.wait(f"model {model}")
            started = self.clock.boot_s()
            wall, boot = self._watch_clock(model, wall, boot)
            try:
                await self._pass(model)
                trouble = ""
            except (CloudUnavailable, BalancerUnavailable, StoreUnavailable, LeaseLost) as exc:
                trouble = self._note_trouble(model, trouble, exc)
            except Exception as exc:
                # One model that throws for ever is isolated and visible.
                if str(exc) != trouble:
                    log.exception("pass_broken", model=model)
                trouble = str(exc)
                self.metrics.pass_failed(model, type(exc).__name__)
            self.health.last_pass_s = self.clock.boot_s()
            self.metrics.pass_done(model, self.clock.boot_s() - started)
            self.notifier.send("WATCHDOG=1")

    async def _pass(self, model: ModelName) -> None:
        policy = self.book.policies[model]
        try:
            await self._ensure_pool(policy)
        except BalancerUnavailable as exc:
            # Nothing can be registered now, but what should be rented can still be known.
            log.warning("pool_not_ensured", model=model, why=str(exc))
        outcome = await self.reconciler.reconcile(policy, self.clock.now())
        self.metrics.decided(policy, outcome.decision, outcome.plan)
        if outcome.launched:
            await self.runner.start_new(self._group)
        for release in outcome.plan.releases:
            self.runner.wake(release.node)

    def _watch_clock(self, model: ModelName, wall: datetime, boot: float) -> tuple[datetime, float]:
        now, boot_now = self.clock.now(), self.clock.boot_s()
        jump = (now - wall) - timedelta(seconds=boot_now - boot)
        if abs(jump) > self.config.timings.clock_jump:
            log.error("clock_jumped", model=model, by_s=jump.total_seconds())
            self.reconciler.be_cautious(self.book.policies[model], now)
        return now, boot_now

    async def _ensure_pool(self, policy: Policy) -> None:
        boots = (await self.store.boots(policy.name)).values()
        measured = sorted(seconds for row in boots for seconds in row)
        wait = (
            timedelta(seconds=measured[len(measured) // 2])
            if measured
            else policy.scaling.boot_prior
        )
        pool = Pool(
            model=policy.name,
            aliases=policy.aliases,
            hold_requests=policy.hold.requests,
            hold_bytes=policy.hold.bytes,
            hold_time=policy.hold.time,
            retry_after=wait,
            queue_in_engine=policy.hold.queue_in == "engine",
        )
        for balancer in self.balancers:
            await balancer.ensure_pool(pool)

    async def _keep_leases(self) -> None:
        self.wakes.every("leases", self.config.timings.lease_renew)
        while True:
            await self.wakes.wait("leases")
            try:
                lost = await self.leases.renew_all()
            except StoreUnavailable as exc:
                log.error("leases_not_renewed", why=str(exc))
                continue
            for model in lost:
                log.error("lease_lost", model=model)

    async def _read_market(self) -> None:
        self.wakes.every("market", self.config.timings.market)
        while True:
            await self.wakes.wait("market")
            first = self.market.last is None
            await self.market.refresh()
            if isinstance(self.market.trouble, PaymentRequired):
                self._note_payment(str(self.market.trouble))
            elif self.clock.boot_s() >= self._payment_until_s:
                self.health.payment_trouble = None
            self._want_ports()
            self.metrics.market_read(self.market)
            if first and self.market.last is not None:
                for model in self.book.policies:
                    self.wakes.now(f"model {model}")

    async def _sweep(self) -> None:
        self.wakes.every("sweep", self.config.timings.sweep)
        trouble = ""
        while True:
            await self.wakes.wait("sweep")
            if not self.health.project_checked:
                continue
            try:
                slugs = model_slugs(tuple(self.book.policies))
                findings = await self.sweeper.sweep(slugs, self.market.last)
                self.metrics.swept(findings)
                self.health.held = findings.held
                self.health.swept = self.health.swept or findings.held is None
                await self._leave_safe_mode()
                await self.runner.start_new(self._group)
                await self.store.prune(self.clock.now() - self.config.timings.retention)
                trouble = ""
                await self._verify_firewall()
            except (AutoscalerError, OSError) as exc:
                if str(exc) != trouble:
                    log.warning("sweep_failed", why=str(exc))
                trouble = str(exc)
            if not self.book.policies:
                self.notifier.send("WATCHDOG=1")

    async def _verify_firewall(self) -> None:
        """Look at the rule again; one that was just made takes a moment, and launches wait for it."""
        try:
            await self.firewall.verify()
        except CloudUnavailable as exc:
            log.info("firewall_pending", why=str(exc))

    async def _leave_safe_mode(self) -> None:
        """Launch again once the window of too many starts has passed without another one."""
        window = self.config.timings.safe_mode_window.total_seconds()
        if self.health.safe_mode and self.clock.boot_s() - self._started_s >= window:
            self.health.safe_mode = False
            log.warning("safe_mode_left")

    async def _watch_demand(self) -> None:
        """A request that begins to wait at the gateway wakes its model's pass."""
        watch = DemandWatch(self.config.gateway_control, self.config.timings.reconcile)
        await watch.run(lambda model: self.wakes.now(f"model {model}"))

    async def _watch_files(self) -> None:
        """Reload when a policy file changes."""
        async for _ in awatch(self.config.policies, stop_event=self._stopping, debounce=300):
            self.wakes.now("policies")

    async def _reload_policies(self) -> None:
        # now and then also without a sign: a directory that was replaced is watched no more
        self.wakes.every("policies", _RELOAD)
        while True:
            await self.wakes.wait("policies")
            change = self.book.reload()
            self.metrics.reloaded(ok=change.error is None)
            for model in (*change.added, *change.changed):
                await self._keep_policy(self.book.policies[model])
            for model in change.added:
                await self.leases.acquire(model)
                self._start_model(model)
            for model in change.changed:
                feed = self._feeds.pop(model, None)
                if feed is not None:
                    await feed.close()
                self.wakes.now(f"model {model}")
            self._want_ports()

    # small things

    def _note_trouble(self, model: ModelName, before: str, exc: AutoscalerError) -> str:
        text = f"{type(exc).__name__}: {exc}"
        if text != before:
            log.warning("pass_failed", model=model, why=text)
        self.metrics.pass_failed(model, type(exc).__name__)
        return text

    def _note_payment(self, why: str) -> None:
        """An unpaid account refuses every launch: try again after a while, not at every pass."""
        if self.health.payment_trouble is None:
            log.error("payment_required", why=why, do="mend the account's payment; nodes go on")
        self.health.payment_trouble = why
        self._payment_until_s = self.clock.boot_s() + _PAYMENT_PAUSE_S

    def _node_changed(self, before: Node, after: Node) -> None:
        self.metrics.node_changed(before, after)
        self.wakes.now(f"model {after.model}")


class _Stop(Exception):
    """Ends the task group in order."""


def _balancers(config: Config) -> list[Balancer]:
    """The gateway, and before it the HAProxies where there are any: it is their activator and must know the nodes."""
    gateway = GatewayBalancer(config.gateway_control)
    if config.balancer == "gateway":
        return [gateway]
    return [
        gateway,
        *(
            HaproxyBalancer(
                HaproxyTarget(
                    socket_path=h.socket,
                    master_socket_path=h.master_socket,
                    backends={ModelName(model): name for model, name in h.backends.items()},
                    check_interval=h.check_interval,
                ),
                h.name,
            )
            for h in config.haproxy
        ),
    ]


def _private_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigError(
            f"{path}: cannot make this directory ({exc.strerror}): name another one as state_dir or "
            "runtime_dir in config.toml, or run as the service's user"
        ) from exc
