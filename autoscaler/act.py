"""From a plan to recorded intents: the only part that can spend money, and the last look at every limit.

Limits are judged inside the transaction that records the intents, over everything that bills or may bill, whatever its
state: a guard that counted only one state once let a group of two grow to 2,296 machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from autoscaler.config import LimitSettings
from autoscaler.domain.ids import IntentId, ModelName, NodeName, new_intent_id, node_name
from autoscaler.domain.money import ZERO, Money, total
from autoscaler.domain.node import COMING, SERVING, Node, State
from autoscaler.domain.plan import Plan
from autoscaler.policy import OnLimit, Policy
from autoscaler.store.protocol import Admission, Ledger, OpenIntent

_UNPROVEN = "while no delete is proven in this project (`autoscaler trial POLICY`), the most"
_SOON = timedelta(hours=1)  # a machine that cannot be paid for an hour is not worth renting


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit that an intent must pass.

    Attributes:
        floors_per_hour: what each model's minimum fleet costs: money that is spoken for until the period ends.
        launches_forbidden: why nothing may be launched at all (safe mode, payment), None when it may.
        unbooked: prices per hour of machines with our mark that no row knows: they bill until they are gone.
        most_nodes: how many VMs may exist while no delete is proven in this project, None once one is.
        beyond_max: nodes that a person's override allows a model for a while, though its `nodes.max` is lower.
    """

    overall: LimitSettings
    policies: Mapping[ModelName, Policy]
    floors_per_hour: Mapping[ModelName, Money] = field(default_factory=dict)
    launches_forbidden: str | None = None
    unbooked: tuple[Money, ...] = ()
    most_nodes: int | None = None
    beyond_max: Mapping[ModelName, int] = field(default_factory=dict)

    def most_of(self, model: ModelName) -> int:
        """How many nodes a model may have: its policy's most, or what a person has allowed beyond it."""
        return max(self.policies[model].nodes.max, self.beyond_max.get(model, 0))

    def admit(self, ledger: Ledger, intents: Sequence[Node]) -> Admission:
        """Let intents through one by one, each counted against the next. The store calls this in its transaction."""
        admitted: list[Node] = []
        refused: list[tuple[Node, str]] = []
        for node in intents:
            why = self.why_not(ledger, tuple(admitted), node)
            if why is None:
                admitted.append(node)
            else:
                refused.append((node, why))
        return Admission(tuple(admitted), tuple(refused))

    def why_not(self, ledger: Ledger, before: tuple[Node, ...], node: Node) -> str | None:
        """The first limit that forbids one more node, in words, or None."""
        if self.launches_forbidden is not None:
            return self.launches_forbidden
        policy = self.policies[node.model]
        billing = tuple(n for n in ledger.nodes if n.may_bill) + before
        ours = tuple(n for n in billing if n.model == node.model)
        return (
            self._count(len(ours), self.most_of(node.model), f"nodes.max of {node.model}")
            or self._count(len(billing) + len(self.unbooked), self.overall.nodes, "limits.nodes")
            or self._count(len(billing) + len(self.unbooked), self.most_nodes, _UNPROVEN)
            or self._pace(ledger, before, node, policy)
            or self._rate(ours, node, policy.hourly_limit, f"limit of {node.model}")
            or self._rate(
                billing,
                node,
                self.overall.usd_per_hour,
                "limits.usd_per_hour",
                sum(self.unbooked, ZERO),
            )
            or self._periods(ledger, billing, node, policy)
        )

    @staticmethod
    def _count(have: int, most: int | None, name: str) -> str | None:
        if most is None or have < most:
            return None
        return f"{name} is {most}: {have} nodes exist or may exist"

    def _pace(
        self, ledger: Ledger, before: tuple[Node, ...], node: Node, policy: Policy
    ) -> str | None:
        for model, most, window, name in (
            (
                node.model,
                policy.retries.launches_per_window,
                policy.retries.launch_window,
                f"retries.launches_per_window of {node.model}",
            ),
            (
                None,
                self.overall.launches_per_window,
                self.overall.launch_window,
                "limits.launches_per_window",
            ),
        ):
            recent = sum(
                1
                for launched, at in ledger.launches
                if model in (None, launched) and ledger.at - at < window
            )
            recent += sum(1 for n in before if model in (None, n.model))
            if recent >= most:
                return f"{name} is {most}: {recent} launches in the last {window}"
        return None

    @staticmethod
    def _rate(
        billing: tuple[Node, ...],
        node: Node,
        most: Money | None,
        name: str,
        unbooked: Money = ZERO,
    ) -> str | None:
        if most is None:
            return None
        rate = hourly(billing) + unbooked + node.price_per_hour
        return f"{name} is {most}/h: this would make it {rate}/h" if rate > most else None

    def _periods(
        self, ledger: Ledger, billing: tuple[Node, ...], node: Node, policy: Policy
    ) -> str | None:
        own, every = policy.limits, self.overall
        day, month = _left_of_day(ledger.at), _left_of_month(ledger.at)
        ours = tuple(n for n in billing if n.model == node.model)
        checks = (
            (own.usd_per_day, ledger.spent_today(node.model), ours, day, node.model, "day"),
            (own.usd_per_month, ledger.spent_month(node.model), ours, month, node.model, "month"),
            (every.usd_per_day, ledger.spent_today(), billing, day, None, "day"),
            (every.usd_per_month, ledger.spent_month(), billing, month, None, "month"),
        )
        for most, spent, nodes, left, model, period in checks:
            if most is None:
                continue
            bound = spent + self._committed(nodes, left, model)
            bound += node.price_per_hour.for_time(min(left, _SOON))
            if model is None:
                bound += total(self.unbooked).for_time(min(left, _SOON))
            if bound > most:
                whose = f"of {model}" if model else "of all models"
                return (
                    f"usd_per_{period} {whose} is {most}: {spent} is spent, and with what is "
                    f"running and this node it would be {bound}"
                )
        return None

    def _committed(
        self, nodes: tuple[Node, ...], left: timedelta, model: ModelName | None
    ) -> Money:
        """What will be spent whatever we refuse: the minimum fleets to the period's end, and draining the rest."""
        floors = sum(
            (cost for name, cost in self.floors_per_hour.items() if model in (None, name)), ZERO
        )
        drain = max(
            (self.policies[n.model].drain.deadline for n in nodes if n.model in self.policies),
            default=timedelta(0),
        )
        return floors.for_time(left) + hourly(nodes).for_time(min(left, drain))

    def exhausted(self, ledger: Ledger, model: ModelName) -> str | None:
        """Why this model must drain to its minimum now, None when no passed limit says so.

        Refusing creates stops no bill that already runs: with `on_limit = "drain-to-min"` a passed limit takes the
        running nodes down too.
        """
        return self._overspent(ledger, model) or self._overgrown(ledger, model)

    def _overspent(self, ledger: Ledger, model: ModelName) -> str | None:
        """The day's or month's limit that is reached once what runs has drained."""
        policy = self.policies[model]
        day, month = _left_of_day(ledger.at), _left_of_month(ledger.at)
        own, every = policy.limits, self.overall
        ours = tuple(n for n in ledger.nodes if n.may_bill and n.model == model)
        billing = tuple(n for n in ledger.nodes if n.may_bill)
        checks = (
            (own, own.usd_per_day, ledger.spent_today(model), ours, day, model, "day"),
            (own, own.usd_per_month, ledger.spent_month(model), ours, month, model, "month"),
            (every, every.usd_per_day, ledger.spent_today(), billing, day, None, "day"),
            (every, every.usd_per_month, ledger.spent_month(), billing, month, None, "month"),
        )
        for owner, most, spent, nodes, left, whose, period in checks:
            if most is None or owner.action(f"usd_per_{period}") is not OnLimit.DRAIN_TO_MIN:
                continue
            if spent + self._committed(nodes, left, whose) >= most:
                return f"usd_per_{period} {most}: {spent} is spent: draining to the minimum"
        return None

    def _overgrown(self, ledger: Ledger, model: ModelName) -> str | None:
        """The limit of $/h or nodes that is below what stands, as one that was lowered is.

        What is on its way out is not counted: it bills until it is gone, but no further drain makes that sooner.
        """
        standing = tuple(n for n in ledger.nodes if n.state in SERVING | COMING)
        ours = tuple(n for n in standing if n.model == model)
        own, every = self.policies[model], self.overall
        for owner, most, nodes, name in (
            (own.limits, own.hourly_limit, ours, f"limit of {model}"),
            (every, every.usd_per_hour, standing, "limits.usd_per_hour"),
        ):
            drains = owner.action("usd_per_hour") is OnLimit.DRAIN_TO_MIN
            if drains and most is not None and hourly(nodes) > most:
                return f"{name} is {most}/h: {hourly(nodes)}/h stand: draining to the minimum"
        if every.action("nodes") is OnLimit.DRAIN_TO_MIN and len(standing) > every.nodes:
            return f"limits.nodes is {every.nodes}: {len(standing)} stand: draining to the minimum"
        return None


def hourly(nodes: Sequence[Node]) -> Money:
    """What these nodes cost per hour."""
    return sum((node.price_per_hour for node in nodes), ZERO)


def intents(
    plan: Plan,
    policy: Policy,
    *,
    prefix: str,
    owner: str,
    epoch: int,
    open_intents: Sequence[OpenIntent],
    nonces: Sequence[str],
    now: datetime,
) -> tuple[Node, ...]:
    """Turn a plan's launches into rows to record, in its order.

    An intent whose last attempt was written off is taken up again under its next number, so that a late first machine
    is known surplus and not a twin.
    """
    free = list(open_intents)
    rows = []
    for draft, nonce in zip(drafts(plan, policy, now), nonces, strict=True):
        taken = free.pop(0) if free else None
        intent = taken.intent if taken else new_intent_id()
        attempt = taken.last_attempt + 1 if taken else 1
        name = node_name(prefix, owner, intent, attempt, policy.name)
        rows.append(
            replace(draft, name=name, intent=intent, attempt=attempt, epoch=epoch, nonce=nonce)
        )
    return tuple(rows)


def drafts(plan: Plan, policy: Policy, now: datetime) -> tuple[Node, ...]:
    """A plan's launches as rows without names, in its order: what limits are asked about."""
    return tuple(
        Node(
            name=NodeName(f"launch {number}"),
            model=policy.name,
            intent=IntentId(""),
            attempt=0,
            offer=launch.offer,
            price_per_hour=launch.price_per_hour,
            state=State.PLANNED,
            since=now,
            created_at=now,
            epoch=0,
            decision=plan.decision,
            reason=launch.reason,
            units=launch.units,
            replicas=launch.replicas,
            concurrency=launch.concurrency,
            tensor_parallel=launch.tensor_parallel,
            spec_hash=policy.spec_hash(),
        )
        for number, launch in enumerate(plan.launches, start=1)
    )


def _left_of_day(at: datetime) -> timedelta:
    at = at.astimezone(UTC)
    return at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1) - at


def _left_of_month(at: datetime) -> timedelta:
    at = at.astimezone(UTC)
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return following - at
