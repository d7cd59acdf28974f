"""What a store must offer.

Every method may raise `StoreUnavailable`: nothing was recorded, no effect may follow. Every write of a model's rows is
conditional on its lease's epoch and raises `LeaseLost` when another daemon has taken it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import IntentId, MachineId, ModelName, NodeName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import Fleet, Node, NodeEvent
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.domain.override import Override
from autoscaler.domain.plan import Plan

LAUNCH_MEMORY = timedelta(days=1)  # the longest window in which launches are counted
RESUMED = "resumed:"  # how the fact begins that says when a person let a model go on


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on a model, and its number.

    Attributes:
        good_until_boot_s: on this host's boot-time clock; the holder stops there whatever the store says.
    """

    model: ModelName
    holder: str
    epoch: int
    good_until_boot_s: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """What limits are checked against: everything that bills or may bill, and what was spent.

    Attributes:
        nodes: every model's nodes that may bill, whatever their state.
        closed_today, closed_month: cost per model of nodes that ended, within the UTC day and month of `at`.
        launches: when each launch of the last day was recorded, per model.
        ended: nodes that were closed within the last day: what launches came to.
        resumed: when a person last let a model go on; failures before do not count.
    """

    at: datetime
    nodes: tuple[Node, ...]
    closed_today: Mapping[ModelName, Money] = field(default_factory=dict)
    closed_month: Mapping[ModelName, Money] = field(default_factory=dict)
    launches: tuple[tuple[ModelName, datetime], ...] = ()
    ended: tuple[Node, ...] = ()
    resumed: Mapping[ModelName, datetime] = field(default_factory=dict)

    def spent_today(self, model: ModelName | None = None) -> Money:
        """Spent since midnight UTC, by one model or by all, running nodes included."""
        midnight = self.at.replace(hour=0, minute=0, second=0, microsecond=0)
        return self._spent(self.closed_today, midnight, model)

    def spent_month(self, model: ModelName | None = None) -> Money:
        """Spent since the first of the month UTC, by one model or by all, running nodes included."""
        first = self.at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return self._spent(self.closed_month, first, model)

    def _spent(
        self, closed: Mapping[ModelName, Money], start: datetime, model: ModelName | None
    ) -> Money:
        amount = ZERO
        for name, cost in closed.items():
            if model in (None, name):
                amount += cost
        for node in self.nodes:
            if model in (None, node.model) and node.sent_at is not None:
                # a clock that was set back must not earn money
                length = max(self.at - max(node.sent_at, start), timedelta(0))
                amount += node.price_per_hour.for_time(length)
        return amount


@dataclass(frozen=True, slots=True)
class Admission:
    """Which intents the limits let through, judged inside the transaction that records them."""

    admitted: tuple[Node, ...]
    refused: tuple[tuple[Node, str], ...] = ()


Admit = Callable[[Ledger, Sequence[Node]], Admission]


@dataclass(frozen=True, slots=True)
class OpenIntent:
    """An intent whose last attempt was never answered and was written off: a launch may go on with it."""

    intent: IntentId
    last_attempt: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """A person's word that a model may rent.

    Attributes:
        spec: a hash of the policy and the limits that were shown.
        mode: what the policy's file said of its mode then; "" for nothing.
    """

    by: str
    at: datetime
    spec: str = ""
    mode: str = ""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What the store keeps of a model beside its nodes.

    Attributes:
        memory: the law's memory as JSON, "" when there is none.
        paused_by: who paused it, None when it is not paused.
        retired_by: who retired it; its nodes drain to zero whatever the policy says.
        promotion: who let it rent; None while it is in shadow, or its file says that it is active.
        override: how many nodes a person wants for a while; it may have ended.
        shadow: what it would have rented, as JSON, "" when it is not in shadow.
    """

    model: ModelName
    memory: str = ""
    paused_by: str | None = None
    paused_at: datetime | None = None
    retired_by: str | None = None
    promotion: Promotion | None = None
    override: Override | None = None
    shadow: str = ""


@dataclass(frozen=True, slots=True)
class ListingLags:
    """How long machines took from their create call to a complete listing, over the launches measured."""

    launches: int = 0
    largest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Orphan:
    """A machine with our mark that no row knows, and when it was first seen."""

    machine_id: MachineId
    name: str
    first_seen: datetime


class Store(Protocol):
    """Durable state of all models."""

    async def acquire(self, model: ModelName, holder: str, boot_s: float) -> Lease | None:
        """Take the model's lease under a new epoch; None while another living holder has it."""

    async def renew(self, lease: Lease, boot_s: float) -> Lease:
        """Renew the lease. Raises `LeaseLost`."""

    async def fleet(self, model: ModelName) -> Fleet:
        """The model's nodes that are not closed."""

    async def nodes(self, *, closed_since: datetime | None = None) -> tuple[Node, ...]:
        """Every model's nodes that are not closed, and those closed since an instant."""

    async def node(self, name: NodeName) -> Node | None:
        """One node, closed or not."""

    async def ledger(self, now: datetime) -> Ledger:
        """Everything that bills or may bill."""

    async def commit_plan(
        self,
        lease: Lease,
        decision: Decision,
        plan: Plan,
        intents: Sequence[Node],
        releases: Sequence[tuple[Node, Node, NodeEvent]],
        memory: str,
        admit: Admit,
        shadow: str | None = None,
    ) -> Admission:
        """Record one pass in one transaction: decision, memory, releases, and the intents that `admit` lets through.

        `shadow` is what the model would have rented, as JSON; None leaves it as it is.
        """

    async def advance(self, lease: Lease, before: Node, after: Node, event: NodeEvent) -> None:
        """Move a node on: one durable write of its row and its event, if the row still equals `before`."""

    async def update(self, lease: Lease, before: Node, after: Node) -> None:
        """Change a node's facts without changing its state; no event."""

    async def insert(self, lease: Lease, node: Node, event: NodeEvent) -> None:
        """Record a node found in the world (an orphan or a twin), to be terminated."""

    async def open_intents(self, model: ModelName) -> tuple[OpenIntent, ...]:
        """Intents whose last attempt is lost, newest first."""

    async def last_attempt(self, intent: IntentId) -> int:
        """The highest attempt ever recorded for an intent, 0 for an unknown one."""

    async def add_event(self, event: NodeEvent) -> None:
        """Record an event of a model or of the daemon."""

    async def events(
        self, *, node: NodeName | None = None, model: ModelName | None = None, limit: int = 200
    ) -> tuple[NodeEvent, ...]:
        """The newest events, oldest first."""

    async def last_decision(self, model: ModelName) -> tuple[str, str] | None:
        """The newest decision and plan as JSON text, or None."""

    async def decisions(self, model: ModelName, limit: int) -> tuple[str, ...]:
        """The newest decisions as JSON text, oldest first."""

    async def record(self, model: ModelName) -> ModelRecord:
        """The model's record, an empty one when there is none."""

    async def set_paused(
        self, model: ModelName, actor: str | None, now: datetime, event: NodeEvent | None = None
    ) -> None:
        """Pause (by an actor) or resume (None) a model, and record the event with it.

        From then on none of its planned nodes becomes `creating`: `advance` refuses that.
        """

    async def set_retired(
        self, model: ModelName, actor: str | None, now: datetime, event: NodeEvent | None = None
    ) -> None:
        """Retire a model (by an actor) or take it back (None), and record the event with it. Else as `set_paused`."""

    async def set_resumed(self, model: ModelName, event: NodeEvent) -> None:
        """Take back a pause, a retirement, and the stop after failures up to the event's instant, all at once."""

    async def set_promotion(
        self, model: ModelName, promotion: Promotion | None, event: NodeEvent
    ) -> None:
        """Let a model rent, or put it back into shadow (None); the event is recorded with it."""

    async def promotions(self) -> Mapping[ModelName, Promotion]:
        """Every model that was promoted."""

    async def set_override(
        self, model: ModelName, override: Override | None, event: NodeEvent
    ) -> None:
        """Set or end (None) a model's override; the event is recorded with it."""

    async def backoffs(self) -> tuple[BackOff, ...]:
        """Every offer's back-off, also those that ended lately: they carry the count of failures."""

    async def set_backoff(self, backoff: BackOff) -> None:
        """Leave an offer alone for a while."""

    async def clear_backoff(self, key: OfferKey) -> None:
        """An offer launched well: forget its failures."""

    async def add_boot(
        self, model: ModelName, key: OfferKey, seconds: float, now: datetime
    ) -> None:
        """Remember a measured boot, create to ready."""

    async def boots(self, model: ModelName) -> Mapping[OfferKey, tuple[float, ...]]:
        """Measured boots per offer, oldest first, the newest 50."""

    async def add_listing_lag(self, node: NodeName, seconds: float, now: datetime) -> None:
        """Remember how long a machine took to be listed; only the first word on a node counts."""

    async def listing_lags(self) -> ListingLags:
        """Of all launches measured; the largest is never forgotten."""

    async def orphans(self) -> tuple[Orphan, ...]:
        """Orphans in their grace time."""

    async def set_orphans(self, orphans: Sequence[Orphan]) -> None:
        """Replace the list of orphans."""

    async def add_start(self, now: datetime) -> tuple[datetime, ...]:
        """Remember that a daemon started, and return the recent starts, this one included."""

    async def meta(self, key: str) -> str | None:
        """A remembered fact of the deployment, such as the project's id."""

    async def set_meta(self, key: str, value: str) -> None:
        """Remember a fact of the deployment."""

    async def prune(self, before: datetime) -> int:
        """Forget closed nodes, their events, decisions and money older than the retention; returns rows removed.

        What was spent in the month of `before` or later stays, and the counters of attempts stay for ever.
        """

    async def back_up(self, to: Path) -> None:
        """Copy the store whole into a file, mode 0600, while it is in use.

        Raises:
            StoreUnavailable: it could not be copied; no half copy is left.
        """

    async def close(self) -> None:
        """Close the file."""
