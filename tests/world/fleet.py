"""Scale-ins by the hundred: cheap servers that live, drain and are killed behind real balancers, as the daemon has it.

Each model has a pass of its own, as in the daemon, and it is level-triggered: it reads what every balancer says, tells
again whoever forgot (a reload forgets all), and holds the reports against the daemon's own evidence of a drain
(`DrainEvidence`). A server is killed in the moment that it counts as drained, so that a request forgotten there is cut,
and its client sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

from autoscaler.balance.protocol import Balancer, Pool, PoolReport, ServerState
from autoscaler.domain.ids import ModelName, slug
from autoscaler.domain.node import Endpoint, Node
from autoscaler.errors import BalancerUnavailable
from autoscaler.nodes.drain import DrainEvidence
from tests.world.numbered import Books, NumberedServer

_HOLD = timedelta(minutes=30)
_PATIENCE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How a fleet lives.

    Attributes:
        at_once: servers of one model that are there together, draining ones included.
        serves_s: how long one serves before its scale-in, from and to.
        pass_s: between two passes of one model.
        sample_gap_s: between the two readings of nothing in flight.
        capacity: requests that one server carries; more wait at the balancer.
    """

    at_once: int
    serves_s: tuple[float, float]
    pass_s: float = 1.0
    sample_gap_s: float = 2.0
    capacity: int = 8


@dataclass(eq=False)
class Life:
    """One server, from its start to its scale-in."""

    server: NumberedServer
    endpoint: Endpoint
    evidence: DrainEvidence
    serves_s: float
    up_at: float | None = None
    drained_from: float | None = None

    @property
    def node(self) -> Node:
        """As much of a node as the evidence looks at: its endpoints."""
        return cast(Node, _Endpoints((self.endpoint,)))


@dataclass(frozen=True, slots=True)
class _Endpoints:
    endpoints: tuple[Endpoint, ...]


@dataclass(eq=False)
class Fleet:
    """All servers of all models.

    Attributes:
        wanted: scale-ins until it is over.
        drains_s: how long each took.
        busy: drains that began with requests in flight.
        last: drains that left a model without a server that serves.
        most: drains at the same time.
        undrained: drains that were taken back, since requests waited.
        is_open: every balancer knows every model.
        is_over: all scale-ins have ended; what still waits is served by one more server of each model.
    """

    balancers: Sequence[Balancer]
    models: Sequence[ModelName]
    pace: Pace
    wanted: int
    books: Books
    dice: random.Random
    drains_s: list[float] = field(default_factory=list)
    busy: int = 0
    last: int = 0
    most: int = 0
    undrained: int = 0
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    lives: dict[ModelName, list[Life]] = field(default_factory=dict)
    _begun: int = 0
    _names: Iterator[int] = field(default_factory=itertools.count)

    @property
    def all_lives(self) -> list[Life]:
        return [life for lives in self.lives.values() for life in lives]

    @property
    def draining(self) -> int:
        return sum(life.drained_from is not None for life in self.all_lives)

    async def run(self) -> None:
        """Scale in as often as wanted. Ends with servers that serve on (`stop`)."""
        for model in self.models:
            self.lives[model] = []
            for balancer in self.balancers:
                await self._told(balancer.ensure_pool, Pool(model, hold_time=_HOLD))
        self.is_open.set()
        async with asyncio.timeout(_PATIENCE_S), asyncio.TaskGroup() as passes:
            for model in self.models:
                passes.create_task(self._scale(model))
        self.is_over.set()

    async def serve_on(self, are_done: Callable[[], bool]) -> None:
        """Go on with the passes, and no more scale-ins, until every client is done."""
        async with asyncio.timeout(_PATIENCE_S):
            while not are_done():
                await asyncio.gather(*(self._pass(model) for model in self.models))
                await asyncio.sleep(self.pace.pass_s)

    async def stop(self) -> None:
        await asyncio.gather(*(life.server.kill() for life in self.all_lives))

    # one model

    async def _scale(self, model: ModelName) -> None:
        """Replace what was drained, until enough was; then one server serves on, and the others' drains end."""
        await asyncio.sleep(self.dice.uniform(0, self.pace.pass_s))
        lives = self.lives[model]
        while self._begun < self.wanted:
            if len(lives) < self.pace.at_once:
                self._begun += 1
                await self._begin(model, self.dice.uniform(*self.pace.serves_s))
            await self._pass(model)
            await asyncio.sleep(self.pace.pass_s)
        await self._begin(model, float("inf"))
        while len(lives) > 1:
            await self._pass(model)
            await asyncio.sleep(self.pace.pass_s)

    async def _begin(self, model: ModelName, serves_s: float) -> None:
        server = NumberedServer(self.books)
        await server.start()
        name = f"fleet-{slug(model)}-{next(self._names)}"
        endpoint = Endpoint(name, server.url, self.pace.capacity, 100)
        settle = max(balancer.settle_time for balancer in self.balancers)
        evidence = DrainEvidence(settle, timedelta(seconds=self.pace.sample_gap_s))
        self.lives[model].append(Life(server, endpoint, evidence, serves_s))

    async def _pass(self, model: ModelName) -> None:
        """Bring every server of a model one step further. A balancer that is away is asked again next time."""
        with contextlib.suppress(BalancerUnavailable):
            for balancer in self.balancers:
                await balancer.ensure_pool(Pool(model, hold_time=_HOLD))
            seen = [await balancer.report(model) for balancer in self.balancers]
            for life in list(self.lives[model]):
                if life.drained_from is None:
                    await self._serve(model, life, seen)
                else:
                    await self._drain(model, life, seen)
            if self._is_wanted_back(model, seen):
                life = self.lives[model][-1]
                life.drained_from = life.up_at = None
                life.evidence.forget()
                self.undrained += 1

    async def _serve(self, model: ModelName, life: Life, seen: Sequence[PoolReport]) -> None:
        states = [_state(report, life) for report in seen]
        for balancer, state in zip(self.balancers, states, strict=True):
            if state is None or state is ServerState.DRAINING:
                await balancer.register(model, life.endpoint)
        now = time.monotonic()
        if life.up_at is None and all(state is ServerState.UP for state in states):
            life.up_at = now
        if life.up_at is not None and now - life.up_at >= life.serves_s:
            life.drained_from = now
            self._note(model, life)
            for balancer in self.balancers:
                await balancer.drain(model, life.endpoint.id)

    async def _drain(self, model: ModelName, life: Life, seen: Sequence[PoolReport]) -> None:
        for balancer, report in zip(self.balancers, seen, strict=True):
            state = _state(report, life)
            if state is not None and state is not ServerState.DRAINING:
                await balancer.drain(model, life.endpoint.id)
        now = time.monotonic()
        life.evidence.witness(life.node, seen, life.server.in_flight, now)
        if not life.evidence.is_drained(now):
            return
        for balancer in self.balancers:
            await balancer.remove(model, life.endpoint.id)
            life.evidence.removed = True
        self.lives[model].remove(life)
        await life.server.kill()
        assert life.drained_from is not None
        self.drains_s.append(now - life.drained_from)

    def _is_wanted_back(self, model: ModelName, seen: Sequence[PoolReport]) -> bool:
        """Whether requests wait, nobody serves, and no more servers may be had: as the daemon, rather undrain.

        What an old process of a reloaded balancer holds for want of a server keeps that process there, and every drain
        waits for it.
        """
        lives = self.lives[model]
        nobody = all(life.drained_from is not None for life in lives)
        return nobody and len(lives) >= self.pace.at_once and any(one.waiting for one in seen)

    def _note(self, model: ModelName, life: Life) -> None:
        self.busy += life.server.in_flight > 0
        self.last += all(other.drained_from is not None for other in self.lives[model])
        self.most = max(self.most, self.draining)

    async def _told(self, tell: Callable[[Pool], Awaitable[None]], pool: Pool) -> None:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(BalancerUnavailable):
                    await tell(pool)
                    return
                await asyncio.sleep(0.05)


def _state(report: PoolReport, life: Life) -> ServerState | None:
    server = report.server(life.endpoint.id)
    return server.state if server is not None else None
