"""From a plan to recorded intents: the only part that can spend money, and the last look at every limit.

Limits are judged inside the transaction that records the intents, over everything that bills or may bill, whatever its
state: a guard that counted only one state once let a group of two grow to 2,296 machines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from autoscaler.config import LimitSettings
from autoscaler.domain.ids import IntentId, ModelName, NodeName, new_intent_id, node_name
from autoscaler.domain.money import ZERO, Money, total
from autoscaler.domain.node import COMING, SERVING, Node, State
from autoscaler.domain.plan import Plan
from autoscaler.nodes.launch import common_stop, launch_stop
from autoscaler.period import Period, left_of_day, left_of_month
from autoscaler.policy import OnLimit, Policy, PolicyLimits
from autoscaler.store.protocol import Admission, Ledger, OpenIntent

_UNPROVEN = "while no delete is proven in this project (`autoscaler trial POLICY`), the most"
_SOON = timedelta(hours=1)  # a machine that cannot be paid for an hour is not worth renting
_GPUS_IN_NAME = re.compile(r"\.(\d{1,3})x$")  # mkinf names its types so: a40.4x


@dataclass(frozen=True, slots=True)
class Unbooked:
    """What carries our mark, is in no row, and bills.

    Attributes:
        machines: their prices per hour.
        gpus: theirs together.
        disks_per_hour: the price of system disks that stayed behind when their machine went.
    """

    machines: tuple[Money, ...] = ()
    gpus: int = 0
    disks_per_hour: Money = ZERO

    @property
    def per_hour(self) -> Money:
        return total(self.machines) + self.disks_per_hour


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit that an intent must pass.

    Attributes:
        floors_per_hour: what each model's minimum fleet costs: money that is spoken for until the period ends.
        launches_forbidden: why nothing may be launched at all (safe mode, payment), None when it may.
        unbooked: prices per hour of machines with our mark that no row knows: they bill until they are gone.
        most_nodes: how many VMs may exist while no delete is proven in this project, None once one is.
        beyond_max: nodes that a person's override allows a model for a while, though its `nodes.max` is lower.
        unbooked_gpus: GPUs of the machines in `unbooked`.
        disks_per_hour: what disks cost that stayed behind when their machine went.
        gpus: how many each VM type has, as far as it is known.
    """

    overall: LimitSettings
    policies: Mapping[ModelName, Policy]
    floors_per_hour: Mapping[ModelName, Money] = field(default_factory=dict)
    launches_forbidden: str | None = None
    unbooked: tuple[Money, ...] = ()
    most_nodes: int | None = None
    beyond_max: Mapping[ModelName, int] = field(default_factory=dict)
    unbooked_gpus: int = 0
    disks_per_hour: Money = ZERO
    gpus: Mapping[str, int] = field(default_factory=dict)

    def most_of(self, model: ModelName) -> int:
        """How many nodes a model may have: its policy's most, or what a person has allowed beyond it."""
        return max(self.policies[model].nodes.max, self.beyond_max.get(model, 0))

    @property
    def stray_per_hour(self) -> Money:
        """What bills and stands in no row."""
        return total(self.unbooked) + self.disks_per_hour

    def gpus_of(self, nodes: Sequence[Node]) -> int:
        """GPUs of these nodes. A type that nobody offers any more tells them by its name, or by what was served."""
        return sum(self._gpus(node) for node in nodes)

    def _gpus(self, node: Node) -> int:
        known = self.gpus.get(node.offer.type)
        if known is not None:
            return known
        named = _GPUS_IN_NAME.search(node.offer.type)
        return max(int(named[1]) if named else 0, node.replicas * node.tensor_parallel)

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
        own, every, name = policy.limits, self.overall, node.model
        return (
            self._count(len(ours), self.most_of(name), f"nodes.max of {name}")
            or self._count(len(billing) + len(self.unbooked), every.nodes, "limits.nodes")
            or self._count(len(billing) + len(self.unbooked), self.most_nodes, _UNPROVEN)
            or self._gpu_count(ours, node, own.gpus, f"limits.gpus of {name}")
            or self._gpu_count(billing, node, every.gpus, "limits.gpus", self.unbooked_gpus)
            or self.pace(ledger, before, name)
            or self.failing(ledger, name)
            or self._rate(ours, node, policy.hourly_limit, f"limit of {name}")
            or self._rate(
                billing, node, every.usd_per_hour, "limits.usd_per_hour", self.stray_per_hour
            )
            or self._periods(ledger, billing, node, policy)
        )

    @staticmethod
    def _count(have: int, most: int | None, name: str) -> str | None:
        if most is None or have < most:
            return None
        return f"{name} is {most}: {have} nodes exist or may exist"

    def _gpu_count(
        self, nodes: tuple[Node, ...], node: Node, most: int | None, name: str, more: int = 0
    ) -> str | None:
        have = 0 if most is None else self.gpus_of(nodes) + more
        if most is None or have + self._gpus(node) <= most:
            return None
        return f"{name} is {most}: {have} exist or may exist, and {node.offer.type} has {self._gpus(node)}"

    def pace(
        self, ledger: Ledger, before: Sequence[Node], model: ModelName, own_only: bool = False
    ) -> str | None:
        """Which limit on launches within a window is reached, in words."""
        own, every = self.policies[model].retries, self.overall
        checks = [
            (model, own.launches_per_window, own.launch_window, "retries", f" of {model}"),
            (None, every.launches_per_window, every.launch_window, "limits", ""),
        ]
        for whose, most, window, table, of in checks[: 1 if own_only else 2]:
            recent = sum(
                1
                for launched, at in ledger.launches
                if whose in (None, launched) and ledger.at - at < window
            )
            recent += sum(1 for n in before if whose in (None, n.model))
            if recent >= most:
                name = f"{table}.launches_per_window{of}"
                return f"{name} is {most}: {recent} launches in the last {window}"
        return None

    def failing(self, ledger: Ledger, model: ModelName) -> str | None:
        """Why launches that failed one after the other must not go on: this model's, or everybody's."""
        past = sorted((*ledger.ended, *ledger.nodes), key=lambda node: node.created_at)
        ours = tuple(node for node in past if node.model == model)
        return launch_stop(ours, self.policies[model], ledger.resumed.get(model)) or common_stop(
            past, self.overall.same_failure_limit, ledger.resumed
        )

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
        for period in self.periods(ledger, node.model, billing):
            if period.most is None:
                continue
            bound = period.committed + node.price_per_hour.for_time(min(period.left, _SOON))
            if bound > period.most:
                whose = f"of {period.model}" if period.model else "of all models"
                return (
                    f"usd_per_{period.name} {whose} is {period.most}: {period.spent} is spent, and with what is "
                    f"running and this node it would be {bound}"
                )
        return None

    def periods(
        self, ledger: Ledger, model: ModelName, billing: tuple[Node, ...]
    ) -> tuple[Period, ...]:
        """A model's day and month and everybody's, each with what is spent and spoken for whatever is refused."""
        day, month = left_of_day(ledger.at), left_of_month(ledger.at)
        own, every = self.policies[model].limits, self.overall
        ours = tuple(n for n in billing if n.model == model)
        return (
            self._period("day", model, own, own.usd_per_day, ledger.spent_today(model), day, ours),
            self._period(
                "month", model, own, own.usd_per_month, ledger.spent_month(model), month, ours
            ),
            self._period("day", None, every, every.usd_per_day, ledger.spent_today(), day, billing),
            self._period(
                "month", None, every, every.usd_per_month, ledger.spent_month(), month, billing
            ),
        )

    def _period(
        self,
        name: str,
        model: ModelName | None,
        owner: PolicyLimits,
        most: Money | None,
        spent: Money,
        left: timedelta,
        nodes: tuple[Node, ...],
    ) -> Period:
        action = owner.action(f"usd_per_{name}")
        committed = spent + self._committed(nodes, left, model)
        return Period(name, model, most, action, spent, left, committed)

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
        strays = self.stray_per_hour if model is None else ZERO
        return (
            floors.for_time(left)
            + hourly(nodes).for_time(min(left, drain))
            + strays.for_time(min(left, _SOON))
        )

    def exhausted(self, ledger: Ledger, model: ModelName) -> str | None:
        """Why this model must drain to its minimum now, None when no passed limit says so.

        Refusing creates stops no bill that already runs: with `on_limit = "drain-to-min"` a passed limit takes the
        running nodes down too.
        """
        return (
            self._overspent(ledger, model)
            or self._overgrown(ledger, model)
            or self._overworked(ledger, model)
        )

    def _overspent(self, ledger: Ledger, model: ModelName) -> str | None:
        """The day's or month's limit that is reached once what runs has drained."""
        if not self._may_drain_for_a_period(model):
            return None
        billing = tuple(n for n in ledger.nodes if n.may_bill)
        for period in self.periods(ledger, model, billing):
            if period.most is None or period.action is not OnLimit.DRAIN_TO_MIN:
                continue
            if period.committed >= period.most:
                return (
                    f"usd_per_{period.name} {period.most}: {period.spent} is spent: "
                    "draining to the minimum"
                )
        return None

    def _may_drain_for_a_period(self, model: ModelName) -> bool:
        """Whether any limit of a day or a month drains once it is reached: most passes can leave the sums alone."""
        return any(
            most is not None and limits.action(key) is OnLimit.DRAIN_TO_MIN
            for limits in (self.policies[model].limits, self.overall)
            for key, most in (
                ("usd_per_day", limits.usd_per_day),
                ("usd_per_month", limits.usd_per_month),
            )
        )

    def _overgrown(self, ledger: Ledger, model: ModelName) -> str | None:
        """The limit of $/h, nodes or GPUs that is below what stands, as one that was lowered is.

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
        for key, limits, cap, have, name in (
            ("nodes", own.limits, self.most_of(model), len(ours), f"nodes.max of {model}"),
            ("nodes", every, every.nodes, len(standing), "limits.nodes"),
            ("gpus", own.limits, own.limits.gpus, self.gpus_of(ours), f"limits.gpus of {model}"),
            ("gpus", every, every.gpus, self.gpus_of(standing), "limits.gpus"),
        ):
            if cap is not None and have > cap and limits.action(key) is OnLimit.DRAIN_TO_MIN:
                return f"{name} is {cap}: {have} stand: draining to the minimum"
        return None

    def _overworked(self, ledger: Ledger, model: ModelName) -> str | None:
        """The limit on launches or on failures that is reached, where that is to take down what runs as well."""
        own, every = self.policies[model].limits, self.overall
        drain = OnLimit.DRAIN_TO_MIN
        why = None
        if drain in (own.on_launches, every.on_launches):
            why = self.pace(ledger, (), model, own_only=every.on_launches is not drain)
        if why is None and drain in (own.on_failures, every.on_failures):
            why = self.failing(ledger, model)
        return None if why is None else f"{why}: draining to the minimum"


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
