"""The house of one trial: a daemon in this process with one policy, and a gateway of its own that no client knows."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from autoscaler.brakes.facts import facts_key, read_facts, write_facts
from autoscaler.brakes.proof import Proof
from autoscaler.brakes.recording import RecordingCloud
from autoscaler.brakes.trial import Plan, Report, Trial
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
from autoscaler.store.protocol import Store
from autoscaler.store.sqlite import SqliteStore

T = TypeVar("T")

_ACTOR = "trial"
_START_S = 30.0
_PATIENCE = timedelta(minutes=2)  # for a sweep, the market, the firewall rule, and a pass
_PR_SET_PDEATHSIG = 1


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


class Tryout:
    """Builds the house, runs the trial in it, and tears it down."""

    def __init__(
        self, settings: TrialSettings, config: Config, told: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._config = config
        self._told = told
        self._clock: Clock = SystemClock()
        self._directory = config.state_dir / "trial"
        self._trial: Trial | None = None
        self._recording: RecordingCloud | None = None
        self.is_interrupted = False

    async def run(self) -> Report:
        """Run the trial; whatever it came to, nothing of it is left when this returns.

        Raises:
            ConfigError, StoreUnavailable: it cannot begin, and nothing was rented.
        """
        config, policy = self._config, self._settings.policy
        _is_ours(config.state_dir)
        for directory in (config.state_dir, self._directory, self._directory / "policies"):
            private_directory(directory)
        await self._look_before(policy.name)
        set_up("warning" if config.log.level != "debug" else "debug", "console")
        port, serve = _free_port(), _free_port()
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
        async with _gateway(self._directory, port):
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
        await self._keep(report, policy.name)
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
        return await _unless_ended(running, self._trial.run())

    def _watched(self, cloud: CloudSettings, clock: Clock) -> RecordingCloud:
        self._recording = RecordingCloud(open_cloud(cloud, clock), clock)
        return self._recording

    def _catch_signals(self) -> None:
        """The first Ctrl-C ends the trial in order; the VM is deleted all the same."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._interrupt)

    def _interrupt(self) -> None:
        self.is_interrupted = True
        if self._trial is not None and not self._trial.stop_why:
            self._trial.stop_why = "interrupted"
            self._told("interrupted: it ends when its VM is proven absent; it bills until then")
            return
        rows = self._trial.left if self._trial is not None else ()
        left = ", ".join(node.name for node in rows) or "nothing"
        raise SystemExit(f"left: {left}. `autoscaler panic`, or the next trial or daemon, ends it")

    async def _look_before(self, model: ModelName) -> None:
        """Refuse to begin where something else is at stake; take up what an earlier trial left behind."""
        timings = self._config.timings
        try:
            store = SqliteStore.open(
                self._config.store_file, timings.lease_time, timings.store_wait
            )
        except StoreUnavailable as exc:
            raise StoreUnavailable(
                f"{exc}. A trial needs the store for itself: stop the daemon (its nodes go on serving), try, "
                "and start it again"
            ) from exc
        try:
            record = await store.record(model)
            theirs = [n.name for n in await store.nodes() if n.model != model]
            mine = [n.name for n in await store.nodes() if n.model == model]
            stopped = {record.paused_by, record.retired_by} - {None}
            if theirs or (mine and not await store.meta(_unfinished(model))):
                raise ConfigError(
                    f"{len(theirs + mine)} nodes are there ({', '.join((theirs + mine)[:3])}): a trial would "
                    "run them without their policies. Give them back first (`autoscaler retire MODEL`), or "
                    "try with another state_dir and cloud.owner"
                )
            if stopped - {_ACTOR}:
                raise ConfigError(
                    f"{model} is paused or retired: `autoscaler resume {model}` first"
                )
            await store.set_meta(_unfinished(model), self._clock.now().isoformat())
            await _let_go(store, model, self._clock)
        finally:
            await store.close()

    async def _keep(self, report: Report, model: ModelName) -> None:
        """Write down what was shown, and let the model go on."""
        timings = self._config.timings
        store = SqliteStore.open(self._config.store_file, timings.lease_time, timings.store_wait)
        try:
            project = await store.meta("project") or ""
            key = facts_key(project)
            before = read_facts(await store.meta(key))
            await store.set_meta(key, write_facts(before, report.facts))
            await store.set_meta(_unfinished(model), "")
            await _let_go(store, model, self._clock)
        finally:
            await store.close()


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
            await self.daemon.operations.pause(self.model, _ACTOR)
            await self.daemon.operations.retire(self.model, _ACTOR)
        for node in await self.daemon.store.nodes():
            if node.model == self.model and node.state is State.READY:
                with contextlib.suppress(ConfigError, StoreUnavailable):  # it has just moved on
                    await self.daemon.operations.drain(NodeName(node.name), _ACTOR)

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


def _is_ours(directory: Path) -> None:
    """Leave no file of ours in another user's state: its daemon could not open it any more.

    Raises:
        ConfigError: the directory belongs to somebody else.
    """
    try:
        owner = directory.stat().st_uid
    except OSError:
        return  # it is made, or that says what is wrong
    if owner != os.geteuid():
        raise ConfigError(
            f"{directory}: belongs to user {owner}, and this runs as {os.geteuid()}: run it as that user "
            "(docs/brakes.md has the command)"
        )


def _unfinished(model: ModelName) -> str:
    """Where the store says that a trial of this model has begun and not ended: what is there is the trial's."""
    return f"trial:{model}"


async def _let_go(store: Store, model: ModelName, clock: Clock) -> None:
    await store.set_paused(model, None, clock.now())
    await store.set_retired(model, None, clock.now())


@asynccontextmanager
async def _gateway(directory: Path, port: int) -> AsyncIterator[None]:
    """A gateway for this trial alone, on loopback."""
    control = directory / "gateway.sock"
    control.unlink(missing_ok=True)
    (directory / "gateway.json").unlink(missing_ok=True)
    with (directory / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "autoscaler", "gateway", "--listen", f"127.0.0.1:{port}",
            "--control", str(control), "--state", str(directory / "gateway.json"),
            "--drain-timeout", "1",
            cwd=directory, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            # its own session: Ctrl-C reaches the trial alone, which ends its parts in order
            start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
    try:
        await _is_up(control, process, directory / "gateway.log")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _is_up(control: Path, process: asyncio.subprocess.Process, log: Path) -> None:
    for _ in range(int(_START_S / 0.05)):
        if control.exists():  # noqa: ASYNC240  # one stat of a local file
            return
        if process.returncode is not None:
            break
        await asyncio.sleep(0.05)
    said = log.read_text(errors="replace")[-1000:]  # noqa: ASYNC240  # nothing else runs yet
    raise ConfigError(f"the trial's own gateway did not come up: {said}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _first(group: BaseExceptionGroup[AutoscalerError]) -> AutoscalerError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
