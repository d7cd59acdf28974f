"""The clients' view: who asked when, on which machine each request ran, and whose was cut.

Demand comes in steps, up and down and to nothing. Requests take between seconds and three minutes, so that there is
always one in flight on a node that leaves. The daemon sees of it what its sources of signals say.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from autoscaler.domain.ids import ModelName
from autoscaler.domain.signals import FigureName
from autoscaler.observe.draft import Draft
from autoscaler.observe.protocol import Reading, Target
from tests.faults.balancers import Entry, SimBalancer, address_of
from tests.faults.hosts import Host, Machines
from tests.faults.lives import Life
from tests.faults.virtual import WorldTime

TICK_S = 10.0
PATIENCE_S = 900.0  # of a client
_WINDOW = 6  # ticks of a rate
_FRONT = frozenset(
    {
        FigureName.ARRIVALS,
        FigureName.WAITING,
        FigureName.RUNNING,
        FigureName.PROMPT_TOKENS,
        FigureName.OUTPUT_TOKENS,
    }
)
_INSIDE = frozenset({FigureName.WAITING, FigureName.RUNNING, FigureName.KV_USE})
_WHOLE = frozenset({"", "engines silent", "probes counted", "refused not counted"})
_ABSURD = (math.nan, math.inf, -1.0, 1e30)


@dataclass(slots=True, eq=False)
class Request:
    """One client's request, once it runs."""

    number: int
    model: ModelName
    balancer: SimBalancer
    process: int
    endpoint: str
    host: Host
    began_s: float
    ends_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended badly: `why` is the world's word for it."""

    request: Request
    at_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests per second, in steps: each (from when, how many)."""

    steps: tuple[tuple[float, float], ...]

    def at(self, at_s: float) -> float:
        rate = 0.0
        for since, value in self.steps:
            if since > at_s:
                break
            rate = value
        return rate


@dataclass(slots=True)
class Trouble:
    """What is wrong with one model's figures: until when, and how."""

    kind: str = ""
    until_s: float = -1.0


@dataclass
class Shop:
    """All clients of all models."""

    time: WorldTime
    machines: Machines
    balancers: Sequence[SimBalancer]
    demand: Mapping[ModelName, Demand]
    rng: random.Random
    placed: Callable[[Request], None]
    ended: Callable[[Ended], None]
    running: list[Request] = field(default_factory=list)
    waiting: dict[ModelName, deque[float]] = field(default_factory=dict)
    troubles: dict[ModelName, Trouble] = field(default_factory=dict)
    refused: int = 0
    served: int = 0
    number: int = 0
    _by_place: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    _by_host: Counter[str] = field(default_factory=Counter)
    _by_front: Counter[tuple[ModelName, str]] = field(default_factory=Counter)
    _came: dict[ModelName, deque[int]] = field(default_factory=dict)
    _done: dict[ModelName, deque[int]] = field(default_factory=dict)
    closed: bool = False
    poisoned: bool = False
    _poison_at_s: float = 0.0

    def __post_init__(self) -> None:
        for model in self.demand:
            self.open(model)

    def open(self, model: ModelName) -> None:
        """Clients may ask for a model from now on."""
        self.waiting[model] = deque()
        self.troubles[model] = Trouble()
        self._came[model] = deque([0] * _WINDOW, maxlen=_WINDOW)
        self._done[model] = deque([0] * _WINDOW, maxlen=_WINDOW)

    # time passes

    def tick(self) -> None:
        """One step: what is finished ends, what came is placed."""
        now_s = self.time.seconds()
        done: Counter[ModelName] = Counter()
        kept = []
        self._poison(now_s)
        for request in self.running:
            if request.host.fails:
                self._forget(request)
                self.ended(Ended(request, now_s, "its server failed it"))
                continue
            if request.host.hangs or request.ends_s > now_s:
                if now_s - request.began_s < PATIENCE_S:
                    kept.append(request)
                    continue
                self._forget(request)
                self.ended(Ended(request, now_s, "the client gave up"))
                continue
            self._forget(request)
            done[request.model] += 1
            self.served += 1
        self.running = kept
        for model, demand in self.demand.items():
            came = 0 if self.closed else self._poisson(demand.at(now_s) * TICK_S)
            self._came[model].append(came)
            self._done[model].append(done[model])
            queue = self.waiting[model]
            queue.extend([now_s] * came)
            self._place(model, queue, now_s)
            while queue and now_s - queue[0] > PATIENCE_S:
                queue.popleft()
                self.refused += 1

    def _place(self, model: ModelName, queue: deque[float], now_s: float) -> None:
        if not queue:
            return
        fronts = [
            (balancer, takers)
            for balancer in self.balancers
            if not balancer.dead and (takers := balancer.takers(model))
        ]
        while queue and fronts:
            balancer, takers = fronts[self.rng.randrange(len(fronts))]
            best = self._least_loaded(balancer, takers)
            if best is None:
                fronts.remove((balancer, takers))
                continue
            queue.popleft()
            self._start(model, balancer, best, now_s)

    def _least_loaded(self, balancer: SimBalancer, takers: list[Entry]) -> Entry | None:
        loads = [
            (self._by_place[balancer.name, balancer.incarnation, entry.endpoint.id], index, entry)
            for index, entry in enumerate(takers)
        ]
        load, _, entry = min(loads, key=lambda one: one[:2])
        return entry if load < entry.endpoint.capacity else None

    def _start(self, model: ModelName, balancer: SimBalancer, entry: Entry, now_s: float) -> None:
        host = self.machines.at(address_of(entry.endpoint.url))
        assert host is not None, "its health check has just passed"
        self.number += 1
        length_s = min(180.0, 5.0 + self.rng.expovariate(1 / 35))
        request = Request(
            self.number,
            model,
            balancer,
            balancer.incarnation,
            entry.endpoint.id,
            host,
            now_s,
            now_s + length_s,
        )
        self.running.append(request)
        self._by_place[balancer.name, balancer.incarnation, entry.endpoint.id] += 1
        self._by_host[host.spec.vm_id] += 1
        self._by_front[model, balancer.name] += 1
        self.placed(request)

    def _forget(self, request: Request) -> None:
        self._by_place[request.balancer.name, request.process, request.endpoint] -= 1
        self._by_host[request.host.spec.vm_id] -= 1
        self._by_front[request.model, request.balancer.name] -= 1

    def _poisson(self, mean: float) -> int:
        if mean <= 0:
            return 0
        limit, count, product = math.exp(-mean), 0, self.rng.random()
        while product > limit:
            count += 1
            product *= self.rng.random()
        return count

    # what ends requests

    def _poison(self, now_s: float) -> None:
        """One client's request kills the server that takes it, and the client sends it again."""
        if self.poisoned and self.running and now_s >= self._poison_at_s:
            self._poison_at_s = now_s + 30.0
            self.server_died(self.running[-1].host)

    def server_died(self, host: Host) -> None:
        """A model server ends in the middle of its requests, and is started again."""
        host.was_ill = True
        host.serves_at_s = max(host.serves_at_s, self.time.seconds() + 45.0)
        self._end(lambda r: r.host is host, "its server died")

    def told_to_come_again(self) -> None:
        """Whoever holds requests ends, and answers them 503 first."""
        for queue in self.waiting.values():
            self.refused += len(queue)
            queue.clear()

    def host_died(self, host: Host) -> None:
        self._end(lambda r: r.host is host, "its machine died")

    def balancer_cut(self, balancer: SimBalancer, endpoint: str) -> None:
        self._end(
            lambda r: (
                r.balancer is balancer
                and r.endpoint == endpoint
                and r.process == balancer.incarnation
            ),
            "the balancer was told to cut it",
        )

    def balancer_died(self, balancer: SimBalancer) -> None:
        self._end(lambda r: r.balancer is balancer, "its balancer died")

    def _end(self, hit: Callable[[Request], bool], why: str) -> None:
        now_s = self.time.seconds()
        kept = []
        for request in self.running:
            if not hit(request):
                kept.append(request)
            elif request.ends_s <= now_s and not request.host.hangs:
                self._forget(request)  # it had ended since the last tick
                self.served += 1
            else:
                self._forget(request)
                self.ended(Ended(request, now_s, why))
        self.running = kept

    # what can be counted

    def at_place(self, balancer: SimBalancer, endpoint: str) -> int:
        return self._by_place[balancer.name, balancer.incarnation, endpoint]

    def in_old_processes(self, balancer: SimBalancer) -> int:
        return int(
            any(r.balancer is balancer and r.process != balancer.incarnation for r in self.running)
        )

    def on_host(self, host: Host) -> int:
        return self._by_host[host.spec.vm_id]

    def waiting_for(self, model: ModelName) -> int:
        return len(self.waiting.get(model, ()))

    def rates(self, model: ModelName) -> tuple[float, float]:
        """Arrivals and completions per second."""
        span = TICK_S * _WINDOW
        return sum(self._came[model]) / span, sum(self._done[model]) / span

    def through(self, model: ModelName, balancer: SimBalancer) -> int:
        return self._by_front[model, balancer.name]


@dataclass
class ShopSource:
    """One balancer's, or the engines', word on one model's demand. Satisfies `Source`."""

    name: str
    shop: Shop
    model: ModelName
    life: Life
    balancer: SimBalancer | None
    heard: Callable[[ModelName, str, bool], None]

    @property
    def gives(self) -> frozenset[FigureName]:
        return _FRONT if self.balancer is not None else _INSIDE

    async def close(self) -> None:
        """Nothing is open."""

    async def read(self, target: Target, now: datetime) -> Reading:
        await self.life.cross("source", f"{self.name} {self.model}")
        draft = Draft(self.name, self.gives, now)
        trouble = self.shop.troubles[self.model]
        kind = trouble.kind if self.shop.time.seconds() < trouble.until_s else ""
        is_front = self.balancer is not None
        is_away = is_front and self.balancer is not None and self.balancer.dead
        if is_front:
            is_whole = kind in _WHOLE and not is_away
            self.heard(self.model, self.name, is_whole)
        if kind == "slow":
            await asyncio.sleep(60.0)
        if kind == "silent" or (kind == "engines silent" and not is_front) or is_away:
            return draft.finish(otherwise="no answer")
        for name, value in self._figures().items():
            if kind == "absurd":
                value = _ABSURD[(self.shop.number + len(name)) % len(_ABSURD)]
            elif kind == "zeros are missing" and value == 0:
                continue
            elif kind == "probes counted" and name is FigureName.ARRIVALS:
                value += 0.05
            elif kind == "refused not counted" and name is FigureName.WAITING:
                value = 0.0
            at = now - timedelta(minutes=10) if kind == "stale" else now
            draft.give(name, value, at=at)
        return draft.finish(held=self._held())

    def _held(self) -> int:
        first = self.balancer is not None and self.balancer is self.shop.balancers[0]
        return self.shop.waiting_for(self.model) if first else 0

    def _figures(self) -> dict[FigureName, float]:
        shop, model = self.shop, self.model
        if self.balancer is None:
            running = sum(shop.through(model, one) for one in shop.balancers)
            return {FigureName.WAITING: 0.0, FigureName.RUNNING: float(running)}
        share = 1 / len(shop.balancers)
        came, done = shop.rates(model)
        return {
            FigureName.ARRIVALS: came * share,
            FigureName.WAITING: float(self._held()),
            FigureName.RUNNING: float(shop.through(model, self.balancer)),
            FigureName.PROMPT_TOKENS: came * share * 1024,
            FigureName.OUTPUT_TOKENS: done * share * 256,
        }
