"""The rented machines of a backtest: rows as the store has them, and what each of them cost, to the second.

Rows change by the product's own functions where it has them; this keeps them, as the store does, and says what limits
and decisions are to see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from autoscaler.decide.forecast import BOOTS_KEPT
from autoscaler.domain.ids import IntentId, NodeName, OperationId
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import CLOSED, Fleet, Node, State
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.domain.plan import Plan
from autoscaler.nodes.facts import closed, endpoints_of
from autoscaler.nodes.launch import back_off
from autoscaler.policy import Policy
from autoscaler.reconcile import released_rows
from autoscaler.store.protocol import LAUNCH_MEMORY, Ledger
from autoscaler.store.rows import cost_by_day

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday: where a trace's second 0 is put


def instant(at_s: float) -> datetime:
    """The time of a second of the trace."""
    return START + timedelta(seconds=at_s)


def second(at: datetime) -> float:
    """The second of the trace at which it was so late."""
    return (at - START).total_seconds()


@dataclass(frozen=True, slots=True)
class Rental:
    """One machine from its order to its end.

    Attributes:
        ready_s, left_s: when it began to serve and when no balancer had it any more; None where it never came to that.
        released_s: when it was given back, drained or cancelled; None when it stood to the end.
        gone_s: until when it billed.
        why_ended: the reason of its last change.
    """

    node: NodeName
    offer: OfferKey
    gpus: int
    ordered_s: float
    ready_s: float | None
    released_s: float | None
    left_s: float | None
    gone_s: float
    cost: Money
    why_ended: str


class Books:
    """One model's rows."""

    def __init__(self, policy: Policy) -> None:
        self.rows: dict[NodeName, Node] = {}
        self.boots_s: dict[OfferKey, tuple[float, ...]] = {}
        self.rentals: list[Rental] = []
        self.launches = 0
        self.refused = 0
        self._policy = policy
        self._backoffs: dict[OfferKey, BackOff] = {}
        self._launched: deque[datetime] = deque()
        self._ended: deque[tuple[datetime, Node]] = deque()
        self._spent: dict[str, Money] = {}
        self._released: dict[NodeName, datetime] = {}
        self._closed_usd = 0.0
        self._fleet: Fleet | None = None

    @property
    def fleet(self) -> Fleet:
        """The rows that are not closed, in the order of their names."""
        if self._fleet is None:
            self._fleet = Fleet(tuple(self.rows.values()))
        return self._fleet

    @property
    def backoffs(self) -> tuple[BackOff, ...]:
        return tuple(self._backoffs[key] for key in sorted(self._backoffs))

    def ledger(self, now: datetime) -> Ledger:
        """What limits are judged by."""
        while self._launched and now - self._launched[0] >= LAUNCH_MEMORY:
            self._launched.popleft()
        while self._ended and now - self._ended[0][0] >= LAUNCH_MEMORY:
            self._ended.popleft()
        day, name = now.date().isoformat(), self._policy.name
        month = [cost for on, cost in self._spent.items() if on[:7] == day[:7]]
        return Ledger(
            at=now,
            nodes=self.fleet.billing,
            closed_today={name: self._spent.get(day, ZERO)},
            closed_month={name: sum(month, ZERO)},
            launches=tuple((name, at) for at in self._launched),
            ended=tuple(node for _, node in self._ended),
        )

    def order(self, draft: Node, now: datetime) -> Node:
        """Record a launch as it stands once its create call is answered: the machine bills and boots."""
        self.launches += 1
        self._launched.append(now)
        name = f"node-{self.launches:06}"
        node = replace(
            draft,
            name=NodeName(name),
            intent=IntentId(name),
            attempt=1,
            state=State.BOOTING,
            since=now,
            created_at=now,
            sent_at=now,
            booted_at=now,
            operation_id=OperationId(name),
        )
        self._put(node)
        return node

    def refuse(self, draft: Node, now: datetime) -> None:
        """Record a launch that found its offer sold out: it cost nothing, and the offer is left alone for a while."""
        self.refused += 1
        self._launched.append(now)
        failure = "stock: sold out since the market was read"
        node = replace(draft, state=State.CANCELLED, since=now, failure=failure)
        self._ended.append((now, node))
        before = self._backoffs.get(draft.offer)
        self._backoffs[draft.offer] = back_off(draft.offer, before, failure, self._policy, now)

    def make_ready(self, name: NodeName, now: datetime) -> Node:
        """A boot has ended: the node serves."""
        node = self.rows[name]
        first = node.ready_at is None
        urls = [f"http://{name}:{8000 + i}" for i in range(node.replicas)]
        node = replace(
            node,
            state=State.READY,
            since=now,
            verified_at=node.verified_at or now,
            ready_at=node.ready_at or now,
            endpoints=node.endpoints or endpoints_of(node, urls),
        )
        self._put(node)
        if first:
            boot_s = (now - node.created_at).total_seconds()
            known = self.boots_s.get(node.offer, ())
            self.boots_s[node.offer] = (*known, boot_s)[-BOOTS_KEPT:]
            self._backoffs.pop(node.offer, None)
        return node

    def carry_out(self, plan: Plan, now: datetime) -> Sequence[tuple[Node, Node]]:
        """Record a plan's releases and undrains; what each row was, and what it is now."""
        changed = []
        for before, after, _ in released_rows(self.fleet, plan, now):
            if after.state in (State.DRAINING, State.TERMINATING):
                self._released[before.name] = now
            else:
                self._released.pop(before.name, None)
            self._put(after)
            changed.append((before, after))
        return changed

    def leave(self, name: NodeName, now: datetime) -> None:
        """The last request of a drained node has ended: no balancer has it, and its delete is sent."""
        node = replace(self.rows[name], state=State.TERMINATING, since=now, unregistered_at=now)
        self._put(node)

    def end(self, name: NodeName, now: datetime, gpus: int) -> Rental:
        """A node is gone: the meter stands."""
        node = closed(replace(self.rows.pop(name), state=State.GONE, since=now), now)
        self._fleet = None
        self._ended.append((now, node))
        for day, cost in cost_by_day(node):
            self._spent[day] = self._spent.get(day, ZERO) + cost
        self._closed_usd += float(node.cost.usd)
        rental = self._rental(node, now, gpus)
        self.rentals.append(rental)
        return rental

    def settle(self, now: datetime, gpus: dict[str, int]) -> None:
        """Bill what still stands, up to now."""
        for name in tuple(self.rows):
            self.end(name, now, gpus.get(self.rows[name].offer.type, 0))

    def usd(self, now: datetime) -> float:
        """What was spent so far: a figure to draw, not to bill by."""
        running = (
            float(node.price_per_hour.usd) * (now - node.created_at).total_seconds() / 3600
            for node in self.rows.values()
        )
        return self._closed_usd + sum(running)

    def _put(self, node: Node) -> None:
        if node.state in CLOSED:
            self.rows.pop(node.name, None)
        else:
            self.rows[node.name] = node
        self._fleet = None

    def _rental(self, node: Node, now: datetime, gpus: int) -> Rental:
        released = self._released.pop(node.name, None)
        assert node.sent_at is not None
        return Rental(
            node=node.name,
            offer=node.offer,
            gpus=gpus,
            ordered_s=second(node.sent_at),
            ready_s=None if node.ready_at is None else second(node.ready_at),
            released_s=None if released is None else second(released),
            left_s=None if node.unregistered_at is None else second(node.unregistered_at),
            gone_s=second(now),
            cost=node.cost,
            why_ended=node.reason,
        )
