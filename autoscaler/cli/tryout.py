"""The house of one trial: a daemon in this process with one policy, and a gateway of its own that no client knows."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from autoscaler.brakes.proof import Proof
from autoscaler.brakes.recording import RecordingCloud
from autoscaler.brakes.trial import Plan, Report, Trial
from autoscaler.cli.trial_gateway import free_port, own_gateway
from autoscaler.cli.trial_store import ACTOR, TrialStore, check_owner
from autoscaler.clock import Clock, SystemClock
from autoscaler.cloud.mkinf.connect import open_cloud
from autoscaler.config import (
    CloudSettings,
    Config,
    GatewaySettings,
    ServeSettings,
    TunnelSettings,
)
from autoscaler.daemon import Daemon
from autoscaler.decide.capacity import excluded, replica_capacity
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import typical_work
from autoscaler.directories import private_directory
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import State
from autoscaler.domain.offer import Offer
from autoscaler.errors import AutoscalerError, ConfigError, StoreUnavailable
from autoscaler.log import set_up
from autoscaler.outside import open_outside
from autoscaler.policies import PolicyBook
from autoscaler.policy import Mode, NodeBounds, Policy

T = TypeVar("T")

_PATIENCE = timedelta(minutes=2)  # for a sweep, the market, the firewall rule, and a pass


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What is tried, and how far."""

    policy: Policy
    max_cost: Money
    load: timedelta
    concurrency: int | None


def with_key(config: Config, key_file: Path | None) -> Config:
    """The config with another file of the access key, where one is named."""
    if key_file is None:
        return config
    other = {"key_file": key_file, "email": None, "password_file": None}
    return config.model_copy(update={"cloud": config.cloud.model_copy(update=other)})


async def cheapest(policy: Policy, config: Config) -> Offer:
    """The cheapest offer in stock that could serve the policy's model.

    Raises:
        ConfigError: there is none; each that was passed over has its reason.
    """
    cloud = open_cloud(config.cloud)
    try:
        offers = await cloud.offers()
    finally:
        await cloud.close()
    judged = [(offer, _why_not(offer, policy)) for offer in offers]
    fit = [o for o, why in judged if why is None and o.in_stock and o.price_per_hour]
    if not fit:
        sold_out = [str(o.key) for o, why in judged if why is None]
        reasons = sorted({f"{o.key.type}: {why}" for o, why in judged if why is not None})
        said = f"out of stock: {', '.join(sold_out)}" if sold_out else "; ".join(reasons[:8])
        raise ConfigError(f"{policy.model}: nothing can be rented for it now ({said})")
    return min(fit, key=lambda offer: (offer.price_per_hour or ZERO, offer.key))


def least_cost(settings: TrialSettings, config: Config, price: Money) -> tuple[timedelta, Money]:
    """How long the shortest life takes (boot, load, proof of absence), and what it costs."""
    life = settings.policy.scaling.boot_prior + settings.load + config.timings.gone_after
    return life, price.for_time(life)


def _why_not(offer: Offer, policy: Policy) -> str | None:
    if offer.unrentable is not None:
        return offer.unrentable
    if (reason := excluded(policy, offer)) is not None:
        return reason
    capacity = replica_capacity(policy, offer, typical_work(policy), Profiles.load())
    return None if capacity.fits else capacity.why_not


class Left(AutoscalerError):
    """A person would not wait for the end: VMs may be left, and bill."""


class Tryout:
    """Builds the house, runs the trial in it, and tears it down."""

    def __init__(
        self, settings: TrialSettings, config: Config, told: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._config = config
        self._told = told_safely(told)
        self._clock: Clock = SystemClock()
        self._directory = config.state_dir / "trial"
        self._kept = TrialStore(config, settings.policy.name, self._clock)
        self._trial: Trial | None = None
        self._recording: RecordingCloud | None = None
        self._leaving = asyncio.Event()
        self.is_interrupted = False

    async def run(self) -> Report:
        """Run the trial; whatever it came to, nothing of it is left when this returns.

        Raises:
            Left: it was told twice to end; what is left was said.
            ConfigError, StoreUnavailable: it cannot begin, or not go on; what is left, if anything, was said.
        """
        check_owner(self._config.state_dir)
        for directory in (self._config.state_dir, self._directory, self._directory / "policies"):
            private_directory(directory)
        await self._kept.look_before()
        try:
            return await self._run()
        except BaseException:
            for line in await self._kept.left():
                self._told(line)
            raise

    async def _run(self) -> Report:
        config, policy = self._config, self._settings.policy
        set_up("warning" if config.log.level != "debug" else "debug", "console")
        port, serve = free_port(), free_port()
        own = config.model_copy(
            update={
                "policies": self._directory / "policies",
                "runtime_dir": self._directory,
                "balancer": "gateway",
                "haproxy": (),
                "tunnels": TunnelSettings(control=config.tunnels_control),
                "gateway": GatewaySettings(control=self._directory / "gateway.sock"),
                "serve": ServeSettings(
                    listen=f"127.0.0.1:{serve}", socket=self._directory / "daemon.sock"
                ),
            }
        )
        async with own_gateway(self._directory, port):
            daemon = Daemon(own, self._clock, partial(open_outside, cloud=self._watched))
            daemon.proof = Proof(lambda: False)  # this is how it is proven
            daemon.book = PolicyBook(
                own.policies,
                emulated=config.cloud.is_loopback,
                fixed={policy.name: _for_one(policy)},
            )
            running = asyncio.create_task(daemon.run(), name="trial daemon")
            try:
                report = await self._in_house(daemon, running, f"http://127.0.0.1:{port}")
            finally:
                daemon.stop()
                with contextlib.suppress(BaseExceptionGroup, AutoscalerError):
                    await running
        await self._kept.keep(report)
        return report

    async def _in_house(self, daemon: Daemon, running: asyncio.Task[None], url: str) -> Report:
        await _unless_ended(running, daemon.started.wait())
        self._catch_signals()
        assert self._recording is not None  # the daemon has opened its cloud
        timings, settings = self._config.timings, self._settings
        self._trial = Trial(
            Plan(
                policy=settings.policy,
                url=url,
                max_cost=settings.max_cost,
                load=settings.load,
                settling=timings.settling_time,
                gone_after=timings.gone_after,
                patience=max(_PATIENCE, 3 * timings.sweep),
                concurrency=settings.concurrency,
                over_ssh=self._config.way == "tunnel",
            ),
            daemon.store,
            self._recording,
            _House(daemon, settings.policy.name),
            self._clock,
            self._told,
        )
        return await _unless_ended(running, self._unless_leaving(self._trial))

    async def _unless_leaving(self, trial: Trial) -> Report:
        """The trial's report; a second Ctrl-C is not waited out."""
        running = asyncio.create_task(trial.run(), name="trial")
        leaving = asyncio.create_task(self._leaving.wait(), name="leaving")
        try:
            await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise Left("interrupted twice: not all is proven absent")
            return running.result()
        finally:
            running.cancel()
            leaving.cancel()
            await asyncio.wait({running, leaving})

    def _watched(self, cloud: CloudSettings, clock: Clock) -> RecordingCloud:
        self._recording = RecordingCloud(open_cloud(cloud, clock), clock)
        return self._recording

    def _catch_signals(self) -> None:
        """The first Ctrl-C ends the trial in order; the VM is deleted all the same."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._interrupt, "interrupted")
        loop.add_signal_handler(signal.SIGHUP, self._interrupt, "its terminal was closed", False)

    def _interrupt(self, why: str, may_leave: bool = True) -> None:
        self.is_interrupted = True
        if self._trial is not None and not self._trial.stop_why:
            self._trial.stop_why = why
            self._told(f"{why}: it ends when its VM is proven absent; it bills until then")
            return
        if not may_leave:
            return
        if not self._leaving.is_set():
            self._told("interrupted again: it leaves, and says what is left")
            self._leaving.set()
            return
        rows = self._trial.left if self._trial is not None else ()
        left = ", ".join(node.name for node in rows) or "not known"
        raise SystemExit(f"left: {left}. `autoscaler audit` lists it, `autoscaler panic` ends it")


def told_safely(told: Callable[[str], None]) -> Callable[[str], None]:
    """Tell as long as there is somebody to tell: a closed terminal or pipe must not keep a VM from being deleted."""

    def tell(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            told(line)

    return tell


async def _unless_ended(running: asyncio.Task[None], wanted: Coroutine[Any, Any, T]) -> T:
    """Wait for something that the daemon must live for.

    Raises:
        AutoscalerError: the daemon ended first, by this.
    """
    waiting = asyncio.create_task(wanted, name="trial")
    try:
        await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        await running
        raise ConfigError("the trial's daemon was stopped: `autoscaler audit` says what is left")
    except BaseExceptionGroup as group:
        ours = group.subgroup(AutoscalerError)
        raise _first(ours) if ours is not None else group from None
    finally:
        waiting.cancel()


@dataclass(frozen=True, slots=True)
class _House:
    """The daemon's verbs that a trial needs (`House`)."""

    daemon: Daemon
    model: ModelName

    async def give_back(self) -> None:
        record = await self.daemon.store.record(self.model)
        if record.retired_by is None:
            await self.daemon.operations.pause(self.model, ACTOR)
            await self.daemon.operations.retire(self.model, ACTOR)
        for node in await self.daemon.store.nodes():
            if node.model == self.model and node.state is State.READY:
                with contextlib.suppress(ConfigError, StoreUnavailable):  # it has just moved on
                    await self.daemon.operations.drain(NodeName(node.name), ACTOR)

    def thought(self) -> str:
        last = self.daemon.reconciler.last.get(self.model)
        why = self.daemon.health.forbidden()
        if last is None:
            return why or "no pass has ended"
        return "; ".join(filter(None, (why, last.decision.reason, *last.plan.notes)))


def _for_one(policy: Policy) -> Policy:
    """The policy as it is tried: active, one node, no more; demand is looked for at the trial's gateway."""
    return policy.model_copy(
        update={
            "mode": Mode.ACTIVE,
            "nodes": NodeBounds(min=1, max=1),
            "signals": type(policy.signals)(),
        }
    )


def _first(group: BaseExceptionGroup[AutoscalerError]) -> AutoscalerError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
