"""The simulated world: a daemon's real code in it, and everything around it that may go wrong.

Real are `Daemon` with its loops and passes, reconciler, runner, launcher, sweep, uptake, market, leases, the mkinf
client and the SQLite store; and the emulator's core, which keeps the cloud's books. Simulated are time, the network
between them, the hosts, the balancers and the clients.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from autoscaler.balance.group import BalancerGroup
from autoscaler.balance.presence import Patience
from autoscaler.clock import Clock
from autoscaler.cloud.mkinf.connect import settings_of
from autoscaler.cloud.mkinf.listed import listed_offers
from autoscaler.config import Config
from autoscaler.daemon import Daemon
from autoscaler.domain.ids import ModelName
from autoscaler.errors import AutoscalerError, ConfigError
from autoscaler.growth import GrowthGuard, dearest_of
from autoscaler.observe.feed import Feeder, FeedSettings, SignalFeed
from autoscaler.observe.merge import Role
from autoscaler.outside import Outside
from autoscaler.policies import PolicyBook
from autoscaler.policy import Policy
from tests.faults import shop as clients
from tests.faults.balancers import BalancerHandle, SimBalancer
from tests.faults.cloud import KEY, PROJECT, CloudSide, prices
from tests.faults.hosts import Host, HostProber, Machines
from tests.faults.invariants import Booked, Inspector, Invariant, Rules, Scene
from tests.faults.judge import Judge
from tests.faults.lives import Life
from tests.faults.options import MARK, MODELS, Options, config_of, horizon, policy_of
from tests.faults.outside import PUBLIC_KEY, SimOutside
from tests.faults.shop import Shop, ShopSource
from tests.faults.stores import StoreSide
from tests.faults.virtual import HostClock, WorldTime

RESTART_S = 10.0  # until the service manager starts a daemon that ended by itself
_UNNOTICED_S = 300.0  # between a step of the wall clock and a start: who starts ages the rows by it
_STEP_EFFECT_S = 900.0
_CALL_FAULTS = frozenset(
    {
        "drop_before", "drop_after", "delay", "hang", "status", "html", "cut_json", "huge", "late",
        "list_stale", "list_partial", "list_empty", "list_loops", "flicker", "odd_state", "bad_item",
    }
)  # fmt: skip


@dataclass
class _Run:
    """One life with its daemon."""

    life: Life
    daemon: Daemon
    began_s: float


class World:
    """Everything there is. `seed` is all that is random in it."""

    def __init__(self, seed: int, options: Options) -> None:
        self.options = options
        self.seed = seed
        self.time = WorldTime(options.start)
        self.clock = HostClock(self.time, 0.0 if options.is_fine else 5.0)
        self.config = config_of(options)
        self.policies: dict[ModelName, Policy] = {
            model.name: policy_of(model, options.launches) for model in options.models
        }
        self.files: dict[ModelName, Policy] | ConfigError = dict(self.policies)
        self.trace = 0
        self.crossings = 0
        self.inspector = Inspector(Rules(mark=MARK))
        self.judge = Judge(self)
        self.machines = Machines(self.time, self.rng("hosts"))
        self.machines.died = self._host_died
        self.cloud = CloudSide(
            seed, self.time, self.machines, options.switches, self.judge, self.rng("net")
        )
        self.store = StoreSide(self.config.timings.lease_time, self.judge.stored)
        if options.proven:
            self.store.remember(f"delete_proven:{PROJECT.id}", options.start.isoformat())
        self.balancers = [
            SimBalancer(
                name=f"front-{number}",
                machines=self.machines,
                time=self.time,
                in_flight=lambda b, e: self.shop.at_place(b, e),
                old=lambda b: self.shop.in_old_processes(b),
                waiting=lambda m: self.shop.waiting_for(m),
                cut=lambda b, e: self.shop.balancer_cut(b, e),
            )
            for number in range(1, options.balancers + 1)
        ]
        self.shop = Shop(
            time=self.time,
            machines=self.machines,
            balancers=self.balancers,
            demand={model.name: model.demand for model in options.models},
            rng=self.rng("clients"),
            placed=self.judge.placed,
            ended=self.judge.ended,
        )
        self.runs: list[_Run] = []
        self.cut_from_nodes = False
        self.breaks: dict[str, float] = {}
        self.is_over = False
        self.down_until_s = 0.0
        self.unable_s = 0.0
        self.stepped_s = 0.0
        self.clock_stepped_at_s = float("-inf")
        self.two_lies_until_s = -1.0
        self._lives = 0
        self.crash_every_s = 0.0
        self.heir_at_s = float("inf")
        self.zombies: dict[int, float] = {}
        self._crashed_s = 0.0
        self._looked_s = 0.0
        self._supervised: set[asyncio.Task[None]] = set()
        self._store_rng = self.rng("store")
        self._most_ever: dict[ModelName, int] = {m: p.nodes.max for m, p in self.policies.items()}

    def rng(self, what: str) -> random.Random:
        """A stream of its own for each thing, so that one more draw here shifts nothing there."""
        return random.Random(f"{self.seed}/{what}")

    # lives

    @property
    def run(self) -> _Run | None:
        """The daemon that should act: the newest one that is alive."""
        alive = [run for run in self.runs if not run.life.is_dead]
        return alive[-1] if alive else None

    def start(self) -> Life:
        """Start a daemon."""
        self._lives += 1
        life = Life(self._lives, self._crossed)
        daemon = Daemon(self.config, self.clock, partial(self._open, life))
        daemon.book = PolicyBook(
            self.config.policies,
            emulated=False,
            reach="public-plain",
            guard=GrowthGuard(
                dearest_of(listed_offers(prices())), self.config.limits.confirm_growth
            ),
            read=self._read_policies,
        )
        run = _Run(life, daemon, self.time.seconds())
        self.runs.append(run)
        task = asyncio.create_task(self._live(life, daemon), name=f"life {life.number}")
        life.task = task
        self._supervised.add(task)
        task.add_done_callback(self._supervised.discard)
        return life

    async def _live(self, life: Life, daemon: Daemon) -> None:
        try:
            await daemon.run()
        except asyncio.CancelledError:
            pass
        except (AutoscalerError, BaseExceptionGroup) as exc:
            if not life.is_dead and not _is_expected(exc):
                self.inspector.violated(
                    Invariant.HEALS,
                    self.time.now(),
                    "ended",
                    f"the daemon ended by itself: {_whole(exc)}",
                )
        finally:
            ended_by_itself = not life.is_dead
            life.kill()
            self.runs = [run for run in self.runs if run.life is not life]
            if ended_by_itself and not self.is_over:
                self.down_until_s = max(self.down_until_s, self.time.seconds() + RESTART_S)

    def _open(
        self,
        life: Life,
        config: Config,
        clock: Clock,
        policies: Callable[[], Mapping[ModelName, Policy]],
    ) -> AbstractAsyncContextManager[Outside]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Outside]:
            timings = config.timings
            handles = [
                BalancerHandle(life, one, self.rng(f"balancer {one.name}"), self.judge.told)
                for one in self.balancers
            ]
            yield SimOutside(
                world=self,
                life=life,
                store=self.store.open(life),
                cloud=self.cloud.open(life, clock, settings_of(config.cloud)),
                balancers=BalancerGroup(
                    handles,
                    clock.boot_s,
                    Patience(timings.balancer_grace, timings.balancer_absent_after),
                ),
                config=config,
            )

        return opened()

    def _read_policies(self) -> Mapping[ModelName, Policy]:
        if isinstance(self.files, ConfigError):
            raise self.files
        return dict(self.files)

    def prober(self, life: Life) -> HostProber:
        prober = HostProber(
            life,
            self.machines,
            self.time,
            self.rng("probes"),
            self.judge.commanded,
            self.shop.on_host,
        )
        prober.is_cut = lambda: self.cut_from_nodes
        return prober

    def feed(self, life: Life, policy: Policy, group: BalancerGroup) -> SignalFeed:
        def overlooked(name: str) -> bool:
            return name in group.overlooked(policy.name)

        fronts = [
            Feeder(
                ShopSource(one.name, self.shop, policy.name, life, one, self.judge.heard),
                Role.FRONT,
                3.0,
                self.config.timings.signal_max_age,
                partial(overlooked, one.name),
            )
            for one in self.balancers
        ]
        engines = ShopSource("engine", self.shop, policy.name, life, None, self.judge.heard)
        inside = Feeder(engines, Role.INSIDE, 3.0, self.config.timings.signal_max_age)
        keep = int(horizon(policy) / self.config.timings.reconcile) + 1
        return SignalFeed(
            [*fronts, inside],
            FeedSettings(
                policy.name, policy.signals.window, keep, horizon(policy), ttft_target_s=2.0
            ),
        )

    # what is heard of everything

    def _crossed(self, life: Life, where: str, what: str) -> None:
        self.crossings += 1
        text = f"{self.time.seconds():.3f} {life.number} {where} {what}"
        self.trace = zlib.crc32(text.encode(), self.trace)

    def _host_died(self, host: Host) -> None:
        self.shop.host_died(host)

    # what people do

    def change_policy(self, policy: Policy) -> None:
        """Somebody edits a policy's file."""
        self.policies[policy.name] = policy
        self.files = dict(self.policies)
        if self.run is not None:
            self.run.daemon.wakes.now("policies")

    def person(self, verb: str, what: str) -> None:
        """Somebody types a command; it may fail, as the daemon says then."""
        run = self.run
        if run is None or not run.daemon.started.is_set():
            return

        async def typed() -> None:
            with suppress(AutoscalerError):
                await getattr(run.daemon.operations, verb)(what, "somebody")

        self._own(asyncio.create_task(typed()))

    def strangers_rent(self, name: str) -> None:
        """Somebody else rents a machine in our project."""
        body = {
            "name": name,
            "type": "l40s-48gb.1x",
            "location": "us-east1-a",
            "image": "ubuntu22.04-nvidia-pcie-docker",
            "ssh_public_key": PUBLIC_KEY,
        }
        self._own(asyncio.create_task(self._rent(body)))

    async def _rent(self, body: dict[str, str]) -> None:
        with suppress(Exception):  # a fault of the cloud may strike them too
            await self.cloud.ask("POST", "/vms", body)

    def _own(self, task: asyncio.Task[None]) -> None:
        self._supervised.add(task)
        task.add_done_callback(self._supervised.discard)

    # looking

    def booked(self) -> list[Booked]:
        """Every machine that ever was, by the cloud's own books."""
        books, now = self.cloud.emulator.cloud.books, self.time.now()
        found = []
        for account in books.meter.accounts():
            if account.kind != "vm":
                continue
            span = account.exists[-1]
            vm = books.vms.get(account.id)
            found.append(
                Booked(
                    id=account.id,
                    name=account.name,
                    created_at=account.exists[0].start,
                    gone_at=span.end,
                    usd_per_hour=account.usd_per_hour,
                    usd=account.usd("existence", now),
                    listed=vm is not None and vm.seen_by_list,
                )
            )
        return found

    def booked_one(self, vm_id: str) -> Booked | None:
        return next((one for one in self.booked() if one.id == vm_id), None)

    @property
    def cloud_answers(self) -> bool:
        """Whether nothing stands between the daemon and the cloud."""
        emulator, network = self.cloud.emulator.cloud, self.cloud.network
        return not (
            network.cut
            or network.cut_in_flight
            or network.slow_s > 1
            or network.is_elsewhere
            or emulator.credentials.revoked
            or any(fault.kind in _CALL_FAULTS for fault in emulator.faults.standing())
        )

    def _watch_liars(self) -> None:
        """Two witnesses that lie at once prove anything: what follows from that is no fault of the daemon's.

        Nor is what follows from a wall clock that steps while no process is there to notice.
        """
        kinds = {fault.kind for fault in self.cloud.emulator.cloud.faults.standing()}
        listing_lies = kinds & {"list_stale", "list_partial", "list_empty", "list_loops", "flicker"}
        others = len(listing_lies) > 1 or self.cut_from_nodes or self.hosts_dark
        if listing_lies and others:
            self.two_lies_until_s = self.time.seconds() + 180.0
        for run in self.runs:
            if abs(run.began_s - self.clock_stepped_at_s) < _UNNOTICED_S:
                until_s = max(run.began_s, self.clock_stepped_at_s) + _STEP_EFFECT_S
                self.two_lies_until_s = max(self.two_lies_until_s, until_s)

    @property
    def hosts_dark(self) -> bool:
        """Whether some healthy machine looks dead from here."""
        now_s = self.time.seconds()
        return any(
            max(h.dark_until_s, h.stalls_until_s, h.flaps_until_s) > now_s
            for h in self.machines.hosts.values()
        )

    @property
    def deceived(self) -> bool:
        return self.time.seconds() < self.two_lies_until_s

    @property
    def balancers_answer(self) -> bool:
        return not any(b.away or b.dead or b.lies or b.slow_s > 1 for b in self.balancers)

    def is_able(self) -> bool:
        """Whether the daemon could act now."""
        run = self.run
        return (
            run is not None
            and not run.life.is_frozen
            and run.daemon.started.is_set()
            and run.daemon.health.held is None
            and not self.store.trouble
            and self.store.slow_s < 1
            and self.cloud_answers
        )

    def look(self) -> None:
        """One look of the inspector's at everything."""
        now_s = self.time.seconds()
        # while the host slept nobody could act
        passed = timedelta(seconds=min(now_s - self._looked_s, 2 * clients.TICK_S))
        self._looked_s = now_s
        self._watch_liars()
        able = self.is_able()
        if not able:
            self.unable_s += passed.total_seconds()
        self.cloud.emulator.settle()
        self.inspector.look(
            self.scene(
                passed if able else timedelta(0),
                passed if able and self.balancers_answer else timedelta(0),
            )
        )

    def secrets(self) -> tuple[str, ...]:
        """What must be read nowhere."""
        return (KEY,)

    def scene(self, able: timedelta, may_delete: timedelta) -> Scene:
        return Scene(
            self.time.now(), self.store.rows(), self.booked(), able, may_delete, self.deceived
        )

    # running

    async def tick(self) -> None:
        """The clients, the service manager and the inspector, every ten seconds."""
        while not self.is_over:
            await asyncio.sleep(clients.TICK_S)
            self.cloud.emulator.settle()
            self.shop.tick()
            self._supervise(self.time.seconds())
            self.look()

    def _supervise(self, now_s: float) -> None:
        """What a service manager does, here and on the heir's host."""
        if self.run is None and now_s >= self.down_until_s:
            self.start()
        elif now_s >= self.heir_at_s:
            self.heir_at_s = float("inf")
            self.start()
        if self.crash_every_s and now_s - self._crashed_s >= self.crash_every_s:
            self._crashed_s = now_s
            if self.run is not None:
                self.run.life.kill()
        for run in list(self.runs):
            if now_s >= self.zombies.get(run.life.number, float("inf")):
                run.life.kill()

    def end(self) -> None:
        """Stop everything. Whoever ticks is to be cancelled first."""
        self.is_over = True
        for run in list(self.runs):
            run.life.kill()

    async def close(self) -> None:
        self.end()
        while self._supervised:
            await asyncio.wait(set(self._supervised))
        self.store.close()


def _is_expected(exc: BaseException) -> bool:
    """A daemon may refuse to start where its store or its files are unfit: the service manager tries again."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_expected(one) for one in exc.exceptions)
    return isinstance(exc, AutoscalerError)


def _whole(exc: BaseException) -> str:
    if isinstance(exc, BaseExceptionGroup):
        return "; ".join(_whole(one) for one in exc.exceptions)
    return f"{type(exc).__name__}: {exc}"


__all__ = ["MODELS", "PROJECT", "World"]
