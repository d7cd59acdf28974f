"""A small world to decide about: one policy, a market at today's prices, nodes, and signals at an instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from autoscaler.decide import LawMemory, Profiles, Work, decide
from autoscaler.decide.capacity import reference_offer
from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import DecisionId, IntentId, ModelName, NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import Fleet, Node, State
from autoscaler.domain.offer import Market, Offer, OfferKey
from autoscaler.domain.signals import Figure, FigureName, Gap, Signals
from autoscaler.policy import Policy

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
GPUS = {  # name: (USD per GPU and hour, GB, type stem)
    "a40": ("1.10", 48, "a40"),
    "l40s": ("1.25", 48, "l40s-48gb"),
    "a100-40gb-pcie": ("1.60", 40, "a100"),
    "a100-80gb-pcie": ("1.81", 80, "a100-80gb"),
    "a100-80gb-sxm": ("2.15", 80, "a100-80gb-sxm"),
}


@dataclass(repr=False)
class World:
    """One model's surroundings; a test changes what it is about and asks for a decision."""

    policy: Policy
    market: Market
    now: datetime = NOON
    nodes: tuple[Node, ...] = ()
    memory: LawMemory = field(default_factory=LawMemory)
    history: tuple[Signals, ...] = ()
    profiles: Profiles = field(default_factory=Profiles.load)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def fleet(self) -> Fleet:
        return Fleet(self.nodes)

    @property
    def rate(self) -> float:
        """Requests/s that one reference replica serves of the policy's typical request."""
        typical = Work(self.policy.typical.prompt_tokens, self.policy.typical.output_tokens)
        found = reference_offer(self.policy, self.market.offers, typical, self.profiles)
        return 1.0 if found is None else found[1].requests_per_s

    @property
    def settled(self) -> LawMemory:
        """A memory that has watched for long, with nothing asked for lately."""
        return LawMemory(started_at=self.now - timedelta(days=1), cautious_until=self.now)

    def see(self, demand: float | None, **more: Any) -> None:
        """Add signals at `now`: arrivals worth `demand` replicas and what runs of them, or gaps."""
        if demand is None:
            gaps = tuple(Gap(name, "gateway", "refused") for name in _REQUIRED)
            signals = Signals(self.now, gaps=gaps, held=more.get("held", 0))
        else:
            figures = {"arrivals_per_s": demand * self.rate, "running": demand, "waiting": 0.0}
            held = int(more.pop("held", 0))
            figures.update(more)
            signals = Signals(
                self.now,
                tuple(
                    (FigureName(name), Figure(value, self.now, "gateway"))
                    for name, value in figures.items()
                ),
                idle=demand == 0,
                held=held,
            )
        self.history = (*self.history[-100:], signals)

    def decide(self, demand: float | None, **more: Any) -> Decision:
        """One pass."""
        self.see(demand, **more)
        decision, self.memory = decide(
            self.policy,
            self.history,
            self.fleet,
            self.market,
            self.now,
            decision_id=DecisionId(f"d{len(self.decisions)}"),
            memory=self.memory,
            profiles=self.profiles,
        )
        self.decisions.append(decision)
        return decision

    def passes(self, demand: float | None, length: timedelta, **more: Any) -> Decision:
        """Passes every 15 s at the same demand for `length`; the clock stands at the last one after it."""
        end = self.now + length
        decision = self.decide(demand, **more)
        while self.now < end:
            self.now += timedelta(seconds=15)
            decision = self.decide(demand, **more)
        return decision

    def restart(self, memory: LawMemory) -> None:
        """Noon again, with nothing rented, seen or decided."""
        self.nodes, self.history, self.decisions = (), (), []
        self.now, self.memory = self.market.at, memory

    def add(self, count: int = 1, state: State = State.READY, **more: Any) -> None:
        """Nodes on the reference type, unless said otherwise."""
        self.nodes = (
            *self.nodes,
            *(node(len(self.nodes) + i, state, **more) for i in range(count)),
        )

    def change(self, **more: Any) -> None:
        """Another policy, as the same file with these keys changed."""
        self.policy = policy(
            **{**self.policy.model_dump(exclude_unset=True, by_alias=True), **more}
        )


_REQUIRED = (FigureName.ARRIVALS, FigureName.RUNNING, FigureName.WAITING)


def policy(**more: Any) -> Policy:
    """An 8B chat model with a goal of 95% of first tokens within 3 s."""
    return Policy.model_validate(
        {
            "schema": 1,
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "engine": "vllm",
            "slo": {"goal": 0.95, "ttft": "3s", "itl": "100ms"},
            "nodes": {"min": 0, "max": 20},
            **more,
        }
    )


def offer(
    gpu: str = "l40s", gpus: int = 1, location: str = "east", in_stock: bool = True, **more: Any
) -> Offer:
    """One VM type of mkinf's price list."""
    price, memory, stem = GPUS[gpu]
    is_sxm = gpu.endswith("sxm")
    values = {
        "key": OfferKey(f"{stem}.{gpus}x", location),
        "price_per_hour": Money(Decimal(price) * gpus),
        "gpu": gpu,
        "gpus": gpus,
        "gpu_memory_gb": memory,
        "vcpu": 8 * gpus,
        "ram_gb": 120 * gpus,
        "disk_gb": 128,
        "in_stock": in_stock,
        "nvlink_domain": gpus if is_sxm else 1,
        "image": "ubuntu22.04",
    }
    return Offer(**{**values, **more})


def node(index: int, state: State = State.READY, **more: Any) -> Node:
    """A node that was made an hour before noon, on the reference type unless said otherwise."""
    values: dict[str, Any] = {
        "name": NodeName(f"as1-owner000-node{index:09d}-1-llama"),
        "model": ModelName("meta-llama/Llama-3.1-8B-Instruct"),
        "intent": IntentId(f"node{index:09d}"),
        "attempt": 1,
        "offer": OfferKey("l40s-48gb.1x", "east"),
        "price_per_hour": Money.of("1.25"),
        "state": state,
        "since": NOON - timedelta(hours=1),
        "created_at": NOON - timedelta(hours=1),
        "epoch": 1,
        "decision": DecisionId("d"),
        "reason": "test",
        "units": 1.0,
        "replicas": 1,
        "concurrency": 100,
        "tensor_parallel": 1,
        "spec_hash": "x",
    }
    return Node(**{**values, **more})


@pytest.fixture
def world() -> World:
    """The 8B policy, an L40S in one location, a settled memory, no node."""
    made = World(policy(), Market((offer(),), NOON))
    made.memory = made.settled
    return made


@pytest.fixture
def make_offer() -> Callable[..., Offer]:
    return offer


@pytest.fixture
def make_node() -> Callable[..., Node]:
    return node


@pytest.fixture
def make_policy() -> Callable[..., Policy]:
    return policy


@pytest.fixture
def catalogue() -> tuple[Offer, ...]:
    """Every PCIe type of the price list in three locations, and the SXM one."""
    sizes = {"a40": 8, "l40s": 8, "a100-40gb-pcie": 8, "a100-80gb-pcie": 8}
    pcie = tuple(
        offer(gpu, gpus, location)
        for gpu, most in sizes.items()
        for gpus in (1, 2, 4, 8)
        if gpus <= most
        for location in ("east", "west")
    )
    return (*pcie, offer("a100-80gb-sxm", 8, "south"))
