"""Take one VM through its whole life: rent, prove, load, give back, prove absent; and keep what that showed.

The daemon's own parts do it, with their intents, limits and names. This only watches, asks for load, says when it is
enough, and waits for the end, which comes whatever went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from autoscaler.brakes.facts import Fact, Status
from autoscaler.brakes.load import Ask, Capacity, Load
from autoscaler.brakes.ours import OS_DISK
from autoscaler.brakes.recording import RecordingCloud, Seen
from autoscaler.brakes.shown import Bar, of_calls, of_proof, waterfall
from autoscaler.clock import Clock
from autoscaler.domain.ids import NodeName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import CLOSED, Node, NodeEvent, State
from autoscaler.errors import AutoscalerError
from autoscaler.policy import Engine, Policy
from autoscaler.store.protocol import Store

_LOOK_S = 0.5


class House(Protocol):
    """The daemon's parts that a trial needs."""

    async def give_back(self) -> None:
        """Rent nothing more for the model, and end what it has; may be called again and again."""

    def thought(self) -> str:
        """Why the model stands where it stands, in one line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried.

    Attributes:
        url: where the model is asked: the trial's own gateway.
        patience: how long nothing may be rented before the trial gives up.
        over_ssh: model servers are reached through SSH: the firewall is not tried.
    """

    policy: Policy
    url: str
    max_cost: Money
    load: timedelta
    settling: timedelta
    gone_after: timedelta
    patience: timedelta
    concurrency: int | None = None
    over_ssh: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a trial came to.

    Attributes:
        ended: why it ended before its time, empty when it did not.
    """

    node: Node | None
    cost: Money
    bars: tuple[Bar, ...]
    capacity: Capacity | None
    receipt: str
    facts: tuple[Fact, ...]
    ended: str = ""


@dataclass(slots=True)
class Trial:
    """One trial.

    Attributes:
        told: is told each new thing that there is to say.
        stop_why: set from outside (Ctrl-C) to end the trial early.
    """

    plan: Plan
    store: Store
    cloud: RecordingCloud
    house: House
    clock: Clock
    told: Callable[[str], None]
    stop_why: str = ""
    _began: datetime = field(init=False)
    _rows: tuple[Node, ...] = ()
    _said: dict[NodeName, str] = field(default_factory=dict)
    _capacity: Capacity | None = None
    _trouble: str = ""

    def __post_init__(self) -> None:
        self._began = self.clock.now()

    async def run(self) -> Report:
        """Run it to its end: when this returns, every VM of the trial is proven absent."""
        try:
            ended = await self._until_ready()
            node = self._of(State.READY)
            if node is not None and not ended:
                ended = await self._load(node)
        except Exception as exc:  # whatever broke, a VM may stand, and bills until it is gone
            ended = f"it broke off: {type(exc).__name__}: {exc}"
            self.told(ended)
            await self._look_again()
        self.told("giving it back" if self._open else "nothing was rented")
        await self._until_closed()
        return await self._report(ended)

    @property
    def _open(self) -> tuple[Node, ...]:
        return tuple(node for node in self._rows if node.state not in CLOSED)

    @property
    def left(self) -> tuple[Node, ...]:
        """What is not proven absent, as last seen."""
        return self._open

    def cost(self) -> Money:
        """What its VMs cost until now."""
        now = self.clock.now()
        running = (
            node.price_per_hour.for_time(now - node.sent_at)
            for node in self._open
            if node.sent_at is not None
        )
        closed = (node.cost for node in self._rows if node.state in CLOSED)
        return sum((*running, *closed), ZERO)

    async def _until_ready(self) -> str:
        """Why it ended before a node was ready, or nothing."""
        began_s = self.clock.boot_s()
        while True:
            await self._look()
            if self._of(State.READY) is not None:
                return ""
            failed = next((n for n in self._rows if n.failure and n.booted_at is not None), None)
            if failed is not None:
                return f"the VM never served: {failed.failure}"
            if why := self._must_stop():
                return why
            waited_s = self.clock.boot_s() - began_s
            if not self._open and waited_s > self.plan.patience.total_seconds():
                return f"nothing was rented within {waited_s:.0f} s: {self.house.thought()}"
            if self._open:
                began_s = self.clock.boot_s()
            await self.clock.sleep(_LOOK_S)

    async def _load(self, node: Node) -> str:
        """Load it; why that ended early, or nothing."""
        policy, plan = self.plan.policy, self.plan
        concurrency = plan.concurrency or max(1, node.concurrency) * node.replicas
        self.told(f"{concurrency} clients ask for {plan.load.total_seconds():g} s")
        load = Load(
            Ask(
                plan.url,
                policy.model,
                policy.typical.prompt_tokens,
                policy.typical.output_tokens,
                concurrency,
                embeddings=policy.engine is Engine.EMBEDDING,
            )
        )
        capacity = await load.run(plan.load.total_seconds(), lambda: bool(self._must_stop()))
        self._capacity = capacity
        if why := self._must_stop():
            return why
        if not capacity.done:
            return f"no request was answered: {capacity.why or 'none ended in time'}"
        return ""

    def _must_stop(self) -> str:
        if self.stop_why:
            return self.stop_why
        rate = sum((node.price_per_hour for node in self._open), ZERO)
        bound = self.cost() + rate.for_time(self.plan.gone_after)
        if bound >= self.plan.max_cost:
            return (
                f"--max-cost {self.plan.max_cost} is reached: {self.cost()} is spent, and proving "
                "the VM absent costs the rest"
            )
        return ""

    async def _until_closed(self) -> None:
        """No deadline: a VM that will not go still bills, and the daemon's parts go on asking."""
        while True:
            if await self._look_again() and not self._open:
                return
            await self.clock.sleep(_LOOK_S)

    async def _look_again(self) -> bool:
        """Have all given back and look; whether that could be done."""
        try:
            await self.house.give_back()
            await self._look()
        except AutoscalerError as exc:
            if str(exc) != self._trouble:
                self._trouble = str(exc)
                self.told(f"it cannot be given back now, and is tried again: {exc}")
            return False
        return True

    async def _look(self) -> None:
        rows = await self.store.nodes(closed_since=self._began)
        self._rows = tuple(
            node
            for node in rows
            if node.model == self.plan.policy.name
            and (node.created_at >= self._began or node.state not in CLOSED)
        )
        for node in self._rows:
            stage = f" ({node.stage})" if node.stage and node.state in _COMING_UP else ""
            line = f"{node.state}{stage}: {node.reason}"
            if self._said.get(node.name) != line:
                self._said[node.name] = line
                self.told(f"{node.offer} {line}")

    def _of(self, state: State) -> Node | None:
        return next((node for node in self._rows if node.state is state), None)

    async def _report(self, ended: str) -> Report:
        rented = [node for node in self._rows if node.booted_at is not None]
        node = rented[-1] if rented else None
        events: Sequence[NodeEvent] = ()
        if node is not None:
            events = sorted(
                await self.store.events(node=node.name, model=None, limit=1000), key=lambda e: e.at
            )
        return Report(
            node=node,
            cost=self.cost(),
            bars=waterfall(node, events) if node is not None else (),
            capacity=self._capacity,
            receipt=events[-1].detail if events else "",
            facts=await self._facts(node, events),
            ended=ended,
        )

    async def _facts(self, node: Node | None, events: Sequence[NodeEvent]) -> tuple[Fact, ...]:
        if node is None:
            return ()
        seen = self.cloud.seen.get(node.name, Seen())
        found = {
            **of_calls(node, seen, self.plan.settling),
            **of_proof(node, events, over_ssh=self.plan.over_ssh),
            "disks": await self._disks(node),
        }
        at = self.clock.now().isoformat(timespec="seconds")
        return tuple(
            Fact(name, status, shown, at, str(node.offer))
            for name, (status, shown) in found.items()
        )

    async def _disks(self, node: Node) -> tuple[Status, str]:
        if node.state is not State.GONE or node.machine_id is None:
            return Status.UNPROVEN, "the VM was never proven absent"
        try:
            disks = await self.cloud.disks()
        except AutoscalerError as exc:
            return Status.UNPROVEN, f"disks cannot be listed: {exc}"
        left = [disk.id for disk in disks if disk.name == f"{OS_DISK}{node.machine_id}"]
        if left or self.cloud.deleted_disks & set(node.disk_ids):
            return Status.REFUTED, "its system disk was still there; the sweep deletes it"
        return Status.CONFIRMED, "none is left"


_COMING_UP = frozenset({State.BOOTING, State.VERIFYING})
