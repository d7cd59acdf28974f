"""One model's passes on a real store, with demand and a market as a test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from autoscaler.config import Config
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint, Node, State
from autoscaler.domain.signals import Figure, FigureName, Gap, Signals
from autoscaler.market import MarketFeed
from autoscaler.nodes.leases import Leases
from autoscaler.policy import Policy
from autoscaler.reconcile import Outcome, Reconciler
from autoscaler.store.protocol import ModelRecord
from autoscaler.store.sqlite import SqliteStore
from autoscaler.think import Thought
from tests.nodes.life_parts import OWNER, AirCloud, HandClock, node, offer, open_store, seconds

CHAT = ModelName("meta-llama/Llama-3.1-8B-Instruct")
REQUIRED = (FigureName.ARRIVALS, FigureName.RUNNING, FigureName.WAITING)


def policy(**changes: object) -> Policy:
    table: dict[str, object] = {
        "schema": 1,
        "model": CHAT,
        "engine": "vllm",
        "mode": "active",
        "slo": "95% of first tokens within 3s",
        "nodes": {"max": 4},
        "spread": {"survive_node": 0},
    }
    return Policy.model_validate(table | changes)


@dataclass
class AirFeed:
    """Demand as a test says, None for a source that does not answer."""

    arrivals: float | None = 0.0
    held: int = 0
    history: list[Signals] = field(default_factory=list)

    async def read(
        self, endpoints: Sequence[Endpoint], starting: Sequence[str], now: datetime
    ) -> Sequence[Signals]:
        if self.arrivals is None:
            signals = Signals(now, gaps=tuple(Gap(n, "gateway", "refused") for n in REQUIRED))
        else:
            values = {FigureName.ARRIVALS: self.arrivals, FigureName.RUNNING: self.arrivals}
            values[FigureName.WAITING] = 0.0
            figures = tuple((n, Figure(v, now, "gateway")) for n, v in values.items())
            signals = Signals(now, figures, idle=self.arrivals == 0, held=self.held)
        self.history.append(signals)
        return self.history[-100:]


@dataclass
class Desk:
    """One model's passes."""

    store: SqliteStore
    clock: HandClock
    cloud: AirCloud
    market: MarketFeed
    leases: Leases
    feed: AirFeed
    config: Config
    policy: Policy
    forbidden: str | None = None

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(
            self.config,
            self.store,
            self.market,
            self.leases,
            lambda model: self.feed,
            lambda: {CHAT: self.policy},
            lambda: self.forbidden,
        )

    def remade(self, policies: dict[ModelName, Policy]) -> Reconciler:
        """Passes of several models, as after a start."""
        return Reconciler(
            self.config,
            self.store,
            self.market,
            self.leases,
            lambda model: self.feed,
            lambda: policies,
            lambda: self.forbidden,
        )

    async def once(self) -> Outcome:
        await self.leases.renew_all()
        outcome = await self.reconciler.reconcile(self.policy, self.clock.now())
        self.clock.move(15)
        return outcome

    async def think(self) -> Thought:
        """What `autoscaler plan` shows now."""
        record: ModelRecord = await self.store.record(CHAT)
        return await self.reconciler.think(self.policy, record, self.clock.now())

    async def passes(self, length: timedelta) -> list[Outcome]:
        return [await self.once() for _ in range(int(length / seconds(15)))]

    async def fleet(self) -> tuple[Node, ...]:
        return (await self.store.fleet(CHAT)).nodes

    async def be(self, state: State) -> None:
        """Every open node gets into a state, as if its life had gone on."""
        lease = self.leases.current(CHAT)
        for row in await self.fleet():
            like = node(state)
            after = replace(
                like,
                **{
                    name: getattr(row, name)
                    for name in (
                        "name",
                        "model",
                        "intent",
                        "attempt",
                        "offer",
                        "units",
                        "created_at",
                    )
                },
                endpoints=tuple(replace(e, id=row.name) for e in like.endpoints),
                since=self.clock.now(),
                concurrency=row.concurrency,
            )
            await self.store.update(lease, row, after)


async def open_desk(directory: Path) -> Desk:
    """A desk with two offers; its store is the caller's to close."""
    store, clock = open_store(directory), HandClock()
    cloud = AirCloud(clock, rentable=(offer(), offer("a40.1x", "a40", "1.10")))
    leases = Leases(store, "daemon-1", clock)
    await leases.acquire(CHAT)
    market = MarketFeed(cloud, store, clock)
    await market.refresh()
    config = Config.model_validate(
        {
            "schema": 1,
            "cloud": {"owner": OWNER, "url": "http://127.0.0.1:1", "key_file": "/k"},
            "timings": {"start_caution": "0s"},
        }
    )
    return Desk(store, clock, cloud, market, leases, AirFeed(), config, policy())
