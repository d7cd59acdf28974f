"""How long a pass takes: 20 offers, 20 nodes, a real store; and the decision and the placement in it alone.

The pass runs as in the daemon, with its reads and its one transaction (SQLite on this machine's disk, each commit on
disk before it counts); only the signals are made up. One load keeps the fleet, one makes the placement rent. Times are
of the processor, and of the clock for the whole pass.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import structlog

from autoscaler.clock import SystemClock
from autoscaler.cloud.protocol import Cloud
from autoscaler.config import Config
from autoscaler.decide.decision import decide
from autoscaler.decide.memory import LawMemory
from autoscaler.decide.placement import PlacementLimits, place
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import observed_work
from autoscaler.domain.ids import DecisionId, IntentId, ModelName, NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import Endpoint, Fleet, Node, NodeEvent, State
from autoscaler.domain.offer import Market, Offer, OfferKey
from autoscaler.domain.signals import Figure, FigureName, Signals
from autoscaler.market import MarketFeed
from autoscaler.nodes.leases import Leases
from autoscaler.policy import Policy
from autoscaler.reconcile import Reconciler
from autoscaler.store.sqlite import SqliteStore
from bench.world import POLICY, quantile
from tests.world.files import merged

MODEL = ModelName("bench/m00")
NODES = 20
PASSES = 100
BOUND_MS = 100.0  # a pass may not spend more of the second that the demo gives it
_PRICES = {"a40": "1.10", "l40s": "1.25", "a100-40gb-pcie": "1.60", "a100-80gb-pcie": "1.81"}
_LOCATIONS = ("east", "north", "south", "west", "centre")


@dataclass(slots=True)
class _Shop:
    """A cloud as far as the market feed asks."""

    async def offers(self) -> Sequence[Offer]:
        return offers()


@dataclass(slots=True)
class _Figures:
    """Steady signals: so many requests per second, and what runs of them."""

    arrivals_per_s: float
    history: list[Signals] = field(default_factory=list)

    async def read(
        self, endpoints: Sequence[Endpoint], starting: Sequence[str], now: datetime
    ) -> Sequence[Signals]:
        values = {
            FigureName.ARRIVALS: self.arrivals_per_s,
            FigureName.RUNNING: self.arrivals_per_s,
            FigureName.WAITING: 0.0,
        }
        figures = tuple((name, Figure(value, now, "made up")) for name, value in values.items())
        self.history.append(Signals(now, figures))
        return self.history


def main(passes: int = PASSES) -> int:
    """Print the times. Non-zero when the slowest pass in a hundred takes longer than the bound."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    wall_ms, cpu_ms = asyncio.run(_passes(passes))
    decide_ms, rent_ms = _think(passes, load=4000.0)
    print(f"{len(offers())} offers, {NODES} nodes; {passes} times")
    print(f"  {'ms':26} {'p50':>7} {'p99':>7} {'max':>7}")
    lines = []
    for name, values in (
        ("one pass, by the clock", wall_ms),
        ("one pass, processor", cpu_ms),
        ("decide() alone", decide_ms),
        ("place() alone, renting", rent_ms),
    ):
        p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
        print(f"  {name:26} {p50:7.2f} {p99:7.2f} {max(values):7.2f}")
        fact = {
            "bench": "reconcile",
            "figure": name,
            "p50_ms": round(p50, 3),
            "p99_ms": round(p99, 3),
        }
        lines.append(json.dumps(fact))
    print("\n".join(lines))
    return 0 if quantile(cpu_ms, 0.99) <= BOUND_MS else 1


async def _passes(count: int) -> tuple[list[float], list[float]]:
    """Time whole passes, by the clock and by the processor."""
    clock = SystemClock()
    policy = _policy()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        store = SqliteStore.open(Path(folder) / "store.db")
        try:
            leases = Leases(store, "bench", clock)
            await leases.acquire(MODEL)
            market = MarketFeed(cast(Cloud, _Shop()), store, clock)
            await market.refresh()
            for node in _nodes(clock.now()):
                event = NodeEvent(
                    clock.now(), "node_ready", MODEL, node.name, node.state, "", "bench"
                )
                await store.insert(leases.current(MODEL), node, event)
            feed = _Figures(20.0)
            reconciler = Reconciler(
                _config(),
                store,
                market,
                leases,
                lambda _: feed,
                lambda: {MODEL: policy},
                lambda: None,
            )
            wall, cpu = [], []
            for _ in range(count):
                began, used = time.perf_counter(), time.process_time()
                await reconciler.reconcile(policy, clock.now())
                wall.append(1000 * (time.perf_counter() - began))
                cpu.append(1000 * (time.process_time() - used))
            return wall, cpu
        finally:
            await store.close()


def _think(count: int, load: float) -> tuple[list[float], list[float]]:
    """Time the two pure halves on a load that wants more than there is."""
    now = datetime.now(UTC)
    policy, fleet, profiles = _policy(), Fleet(_nodes(now)), Profiles.load()
    market = Market(offers(), now)
    history = asyncio.run(_Figures(load).read((), (), now))
    limits = PlacementLimits(
        nodes_left=60, usd_per_hour_left=None, why_none=None, drain_to_min=False
    )
    decides, places = [], []
    for _ in range(count):
        began = time.process_time()
        decision, _memory = decide(
            policy, history, fleet, market, now, decision_id=DecisionId("d"), memory=LawMemory()
        )
        between = time.process_time()
        plan = place(
            policy, decision, fleet, market, limits, now, profiles, observed_work(policy, history)
        )
        places.append(1000 * (time.process_time() - between))
        decides.append(1000 * (between - began))
        assert plan.launches, f"nothing is rented, so nothing was solved: {decision.reason}"
    return decides, places


def offers() -> tuple[Offer, ...]:
    """Four GPU types in five locations."""
    return tuple(
        Offer(
            key=OfferKey(f"{gpu}.1x", place), price_per_hour=Money.of(price), gpu=gpu, gpus=1,
            gpu_memory_gb=80 if "80" in gpu else 48, vcpu=8, ram_gb=120, disk_gb=128,
            in_stock=True, image="ubuntu22.04",
        )
        for gpu, price in _PRICES.items()
        for place in _LOCATIONS
    )  # fmt: skip


def _nodes(now: datetime) -> tuple[Node, ...]:
    since = now - timedelta(hours=1)
    return tuple(
        Node(
            name=NodeName(f"as1-benchrun-node{index:09d}-1-m00"), model=MODEL,
            intent=IntentId(f"node{index:09d}"), attempt=1, offer=offer.key,
            price_per_hour=offer.price_per_hour or Money.of("1"), state=State.READY, since=since,
            created_at=since, sent_at=since, booted_at=since, verified_at=since, ready_at=since,
            epoch=1, decision=DecisionId("d"), reason="bench", units=1.0, replicas=1,
            concurrency=100, tensor_parallel=1, spec_hash="x",
        )
        for index, offer in zip(range(NODES), offers(), strict=False)
    )  # fmt: skip


def _policy() -> Policy:
    table = merged(POLICY, {"nodes": {"max": 80}, "spread": {"survive_node": 0.2}})
    return Policy.model_validate({**table, "model": MODEL, "mode": "active"})


def _config() -> Config:
    cloud = {"url": "http://127.0.0.1:1/v0.1", "key_file": "key", "owner": "benchrun"}
    return Config.model_validate({"schema": 1, "cloud": cloud})


if __name__ == "__main__":
    sys.exit(main())
