"""Simulated balancers: they place requests, restart and forget, go away, lie, and remember what is long gone.

What one knows outlives the daemon, as its process does. A daemon reaches it through a `BalancerHandle` of its life.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from autoscaler.balance.protocol import Pool, PoolReport, ServerReport, ServerState
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable
from tests.faults.hosts import Machines
from tests.faults.lives import Life
from tests.faults.virtual import WorldTime

CHECK_S = 2.0  # between two health checks of a server


@dataclass(slots=True)
class Entry:
    """A server as one balancer has it."""

    endpoint: Endpoint
    since_s: float
    draining: bool = False


Told = Callable[[Life, "SimBalancer", str, ModelName, str], None]


@dataclass(eq=False)
class SimBalancer:
    """One balancer's process.

    Attributes:
        in_flight: how many requests run on an endpoint through its present process.
        old: how many processes that a reload left behind still stream.
        cut: told to end the requests that run on an endpoint.
        away: it answers no control call, though it may go on serving.
        back_s: when it last came back from that.
        lies: writes are answered OK and do nothing.
    """

    name: str
    machines: Machines
    time: WorldTime
    in_flight: Callable[[SimBalancer, str], int]
    old: Callable[[SimBalancer], int]
    waiting: Callable[[ModelName], int]
    cut: Callable[[SimBalancer, str], None]
    pools: dict[ModelName, Pool] = field(default_factory=dict)
    entries: dict[ModelName, dict[str, Entry]] = field(default_factory=dict)
    incarnation: int = 1
    away: bool = False
    back_s: float = float("-inf")
    dead: bool = False
    lies: bool = False
    slow_s: float = 0.0

    def state(self, entry: Entry) -> ServerState:
        if entry.draining:
            return ServerState.DRAINING
        return ServerState.UP if self.checks(entry) else ServerState.DOWN

    def checks(self, entry: Entry) -> bool:
        """Whether its own health check passes."""
        now_s = self.time.seconds()
        host = self.machines.at(address_of(entry.endpoint.url))
        return now_s - entry.since_s >= CHECK_S and host is not None and host.is_up(now_s)

    def takers(self, model: ModelName) -> list[Entry]:
        """The servers that take new requests now."""
        return [e for e in self.entries.get(model, {}).values() if self.state(e) is ServerState.UP]

    def restart(self, *, forget: bool) -> None:
        """Begin anew: its counts are zero, and what it was told at run time may be gone."""
        self.incarnation += 1
        if forget:
            self.entries.clear()
            self.pools.clear()
        else:
            for entries in self.entries.values():
                for entry in entries.values():
                    entry.draining = False

    def report(self, model: ModelName) -> PoolReport:
        servers = tuple(
            ServerReport(
                endpoint_id=key,
                url=entry.endpoint.url,
                state=self.state(entry),
                in_flight=self.in_flight(self, key),
                weight=entry.endpoint.weight,
                check_fails=not self.checks(entry),
            )
            for key, entry in self.entries.get(model, {}).items()
        )
        return PoolReport(
            model=model,
            servers=servers,
            incarnation=f"{self.name}/{self.incarnation}",
            waiting=self.waiting(model),
            at=self.time.now(),
            old_processes=self.old(self),
        )


def address_of(url: str) -> str:
    return url.partition("://")[2].rpartition(":")[0]


class BalancerHandle:
    """One life's way to a balancer. Satisfies `Balancer`."""

    def __init__(self, life: Life, balancer: SimBalancer, rng: random.Random, told: Told) -> None:
        self._life = life
        self._balancer = balancer
        self._rng = rng
        self._told = told

    @property
    def name(self) -> str:
        return self._balancer.name

    @property
    def settle_time(self) -> timedelta:
        return timedelta(seconds=1)

    async def report(self, model: ModelName) -> PoolReport:
        await self._enter("report", model)
        return self._balancer.report(model)

    async def ensure_pool(self, pool: Pool) -> None:
        await self._enter("ensure", pool.model)
        if not self._balancer.lies:
            self._balancer.pools[pool.model] = pool
            self._balancer.entries.setdefault(pool.model, {})

    async def register(self, model: ModelName, endpoint: Endpoint) -> None:
        thaws = self._life.thaws
        await self._enter("register", model, endpoint.id)
        if thaws == self._life.thaws:  # else it was on its way when its process was frozen
            self._told(self._life, self._balancer, "register", model, endpoint.id)
        if self._balancer.lies:
            return
        entries = self._balancer.entries.setdefault(model, {})
        entry = entries.get(endpoint.id)
        if entry is None or entry.endpoint.url != endpoint.url:
            entries[endpoint.id] = Entry(endpoint, self._balancer.time.seconds())
        else:
            entry.draining, entry.endpoint = False, endpoint
        await self._leave("register", endpoint.id)

    async def drain(self, model: ModelName, endpoint_id: str) -> None:
        await self._enter("drain", model, endpoint_id)
        self._told(self._life, self._balancer, "drain", model, endpoint_id)
        entry = self._balancer.entries.get(model, {}).get(endpoint_id)
        if entry is not None and not self._balancer.lies:
            entry.draining = True
        await self._leave("drain", endpoint_id)

    async def remove(self, model: ModelName, endpoint_id: str, *, force: bool = False) -> None:
        await self._enter("remove", model, endpoint_id)
        balancer = self._balancer
        entries = balancer.entries.get(model, {})
        if endpoint_id not in entries:
            return
        self._told(self._life, balancer, "cut" if force else "remove", model, endpoint_id)
        if balancer.in_flight(balancer, endpoint_id):
            if not force:
                raise BalancerUnavailable(f"{self.name}: requests are in flight on {endpoint_id}")
            balancer.cut(balancer, endpoint_id)
        if not balancer.lies:
            del entries[endpoint_id]
        await self._leave("remove", endpoint_id)

    async def drop_pool(self, model: ModelName) -> None:
        await self._enter("drop", model)
        self._balancer.entries.pop(model, None)
        self._balancer.pools.pop(model, None)

    async def close(self) -> None:
        """Nothing is open."""

    async def _enter(self, kind: str, model: str, endpoint: str = "") -> None:
        await self._life.cross("balancer", f"{self.name} {kind} {endpoint or model}")
        if self._balancer.slow_s:
            await asyncio.sleep(self._rng.uniform(0, self._balancer.slow_s))
        if self._balancer.away or self._balancer.dead:
            await asyncio.sleep(1.0)
            raise BalancerUnavailable(f"{self.name}: no answer")

    async def _leave(self, kind: str, endpoint: str) -> None:
        await self._life.cross("balancer answered", f"{self.name} {kind} {endpoint}")
