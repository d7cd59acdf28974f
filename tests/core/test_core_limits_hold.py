"""Whatever laws ask for and whatever fails, no limit is passed by more than docs/limits.md says.

A world of its own keeps the books here: machines come, fail, are written off and surface after all, stay although they
were deleted; prices and laws are arbitrary. Only what is admitted is rented, and only what must drain is drained.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.act import Limits, hourly
from autoscaler.config import LimitSettings
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import ZERO, Money, total
from autoscaler.domain.node import COMING, SERVING, Node, State
from autoscaler.domain.offer import OfferKey
from autoscaler.policy import Policy, PolicyLimits
from autoscaler.store.protocol import Ledger
from autoscaler.store.rows import cost_by_day
from tests.nodes.life_parts import MODEL, NOON, intent_id, node, policy

OTHER = ModelName("mistral")
STEP, STEPS = timedelta(minutes=10), 90  # fifteen hours: over a midnight
DRAIN, GOING = timedelta(minutes=30), timedelta(minutes=10)  # a drain's deadline; a delete's proof
TYPES = {"a40.1x": ("1.10", 1), "l40s.2x": ("2.50", 2), "a40.4x": ("4.40", 4), "h.8x": ("31", 8)}
GPUS = {name: gpus for name, (_, gpus) in TYPES.items()}


@dataclass
class World:
    """All that there is and was, and what the limits are shown of it.

    Attributes:
        beyond: machines that surfaced after they were written off, or that nobody knows: no limit saw them coming.
        hidden: written off, and there all the same.
    """

    draw: Random
    limits: Limits
    at: datetime = NOON
    rows: dict[str, Node] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    beyond: set[str] = field(default_factory=set)
    launches: list[tuple[ModelName, datetime]] = field(default_factory=list)
    ended: dict[tuple[ModelName, str], Money] = field(default_factory=dict)
    overrun: dict[str, Money] = field(default_factory=dict)
    count: int = 0

    def ledger(self) -> Ledger:
        return Ledger(
            self.at,
            tuple(n for n in self.rows.values() if n.may_bill),
            {m: self.closed(m, self.at.date().isoformat()) for m in self.limits.policies},
            {m: self.closed(m, f"{NOON:%Y-%m}") for m in self.limits.policies},
            tuple(self.launches),
            tuple(n for n in self.rows.values() if not n.may_bill),
        )

    def closed(self, model: ModelName, days: str) -> Money:
        costs = self.ended.items()
        return total([c for (m, day), c in costs if m == model and day.startswith(days)])

    def of(self, model: ModelName | None, books: Ledger) -> list[Node]:
        return [n for n in books.nodes if model in (None, n.model)]

    # what laws ask for

    def ask(self, books: Ledger) -> tuple[Node, ...]:
        asked = []
        for _ in range(self.draw.choice((0, 0, 1, 2, 5, 9))):
            self.count += 1
            type_, model = self.draw.choice(tuple(TYPES)), self.draw.choice((MODEL, OTHER))
            asked.append(
                node(
                    intent=intent_id(self.count),
                    model=model,
                    offer=OfferKey(type_, "us-east1-a"),
                    price_per_hour=Money.of(TYPES[type_][0]),
                    created_at=self.at,
                    since=self.at,
                    spec_hash=self.limits.policies[model].spec_hash(),
                )
            )
        admitted = self.limits.admit(books, asked).admitted
        for row in admitted:
            self.rows[row.name] = row
            self.launches.append((row.model, self.at))
        return admitted

    # what becomes of it

    def pass_time(self) -> None:
        self.at += STEP
        for name, row in tuple(self.rows.items()):
            if row.may_bill or name in self.hidden:
                self.rows[name] = after = self.moved(name, row)
                if after.state is State.GONE:
                    for day, cost in cost_by_day(after):
                        self.ended[row.model, day] = self.ended.get((row.model, day), ZERO) + cost

    def moved(self, name: str, row: Node) -> Node:
        chance, age = self.draw.random(), self.at - row.since
        row, was = replace(row, since=self.at), row
        match row.state:
            case State.PLANNED:
                return replace(row, state=State.CREATING, sent_at=self.at)
            case State.CREATING if chance < 0.2:
                self.hidden.add(name)  # nothing was found by the settling time
                return replace(row, state=State.LOST, gone_at=self.at)
            case State.LOST if chance < 0.3:
                self.hidden.discard(name)
                self.beyond.add(name)
                return replace(row, state=State.TERMINATING, gone_at=None)
            case State.CREATING:
                return replace(row, state=State.BOOTING)
            case State.BOOTING if chance < 0.3:
                return replace(row, state=State.FAILED, failure="script: exit 1")
            case State.BOOTING:
                return replace(row, state=State.READY, ready_at=self.at)
            case State.READY if chance < 0.03:
                return replace(row, state=State.FAILED, failure="health: no answer")
            case State.FAILED:
                return replace(row, state=State.TERMINATING)
            case State.DRAINING if age >= DRAIN or chance < 0.3:
                return replace(row, state=State.TERMINATING)
            case State.TERMINATING if age >= GOING or chance < 0.5:
                return replace(row, state=State.GONE, gone_at=self.at)
            case _:
                return was

    def drain(self, model: ModelName, least: int) -> None:
        """All that a passed limit may take, as the passes of one step do."""
        standing = [
            n for n in self.rows.values() if n.model == model and n.state in SERVING | COMING
        ]
        for row in standing[least:]:
            state = State.DRAINING if row.state is State.READY else State.TERMINATING
            if row.state is State.PLANNED:
                state = State.CANCELLED
            self.rows[row.name] = replace(row, state=state, since=self.at)


money = st.none() | st.integers(1, 400)
actions = st.sampled_from(["hold", "drain-to-min"])
own_limits = st.fixed_dictionaries(
    {"on_limit": actions},
    optional={
        "usd_per_hour": money,
        "usd_per_day": money,
        "usd_per_month": money,
        "gpus": st.integers(0, 20),
        "on_launches": actions,
        "on_failures": actions,
    },
)
overall_limits = st.builds(
    lambda own, more: own | more,
    own_limits,
    st.fixed_dictionaries(
        {},
        optional={
            "nodes": st.integers(0, 12),
            "launches_per_window": st.integers(1, 20),
            "same_failure_limit": st.integers(1, 6),
        },
    ),
)


@settings(max_examples=30)
@given(
    overall=overall_limits,
    own=own_limits,
    most=st.integers(0, 8),
    least=st.integers(0, 2),
    tries=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_no_limit_is_passed_by_more_than_is_documented(
    overall: dict[str, object],
    own: dict[str, object],
    most: int,
    least: int,
    tries: int,
    seed: int,
) -> None:
    ours = policy(
        nodes={"min": min(least, most), "max": most},
        limits=own,
        retries={"same_failure_limit": tries, "launches_per_window": 7},
    )
    policies = {MODEL: ours, OTHER: policy(model=OTHER, nodes={"max": 6})}
    floors = {MODEL: Money.of("1.10") * ours.nodes.min}
    judged = Limits(LimitSettings.model_validate(overall), policies, floors, gpus=GPUS)
    world = World(Random(seed), judged)
    for _ in range(STEPS):
        books = world.ledger()
        for model, each in policies.items():
            if judged.exhausted(books, model):
                world.drain(model, each.nodes.min)
        books = world.ledger()
        admitted = world.ask(books)
        after = world.ledger()
        for whose in (None, MODEL, OTHER):
            check_counts(world, after, whose)
            if any(whose in (None, row.model) for row in admitted):
                check_money(world, after, whose)
        check_failures(world, books, admitted)
        world.pass_time()
        check_overrun(world, policies)


def said_of(world: World, model: ModelName | None) -> PolicyLimits:
    return world.limits.overall if model is None else world.limits.policies[model].limits


def check_counts(world: World, books: Ledger, model: ModelName | None) -> None:
    """$/h, nodes, GPUs and launches: to the unit, but for what surfaced after it was written off."""
    said, every = said_of(world, model), world.limits.overall
    policy_ = world.limits.policies[model] if model is not None else None
    known = [n for n in world.of(model, books) if n.name not in world.beyond]
    nodes = policy_.nodes.max if policy_ is not None else every.nodes
    hour = policy_.hourly_limit if policy_ is not None else every.usd_per_hour
    assert len(known) <= nodes
    assert hour is None or hourly(known) <= hour
    assert said.gpus is None or sum(GPUS[n.offer.type] for n in known) <= said.gpus
    pace = policy_.retries if policy_ is not None else every
    recent = [m for m, at in world.launches if books.at - at < pace.launch_window]
    assert sum(1 for m in recent if model in (None, m)) <= pace.launches_per_window


def check_money(world: World, books: Ledger, model: ModelName | None) -> None:
    """After a launch: were everything drained from now on, the day and the month would end within their limits."""
    said = said_of(world, model)
    midnight = (books.at + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    left = midnight - books.at
    nodes = world.of(model, books)
    drained = total([n.price_per_hour.for_time(min(left, DRAIN)) for n in nodes])
    floors = total([c for m, c in world.limits.floors_per_hour.items() if model in (None, m)])
    for limit, spent in (
        (said.usd_per_day, books.spent_today(model)),
        (said.usd_per_month, books.spent_month(model)),
    ):
        assert limit is None or spent + drained + floors.for_time(left) <= limit


def check_failures(world: World, books: Ledger, admitted: tuple[Node, ...]) -> None:
    """So many launches in a row that failed are the last ones."""
    ended = sorted(
        (n for n in (*books.ended, *books.nodes) if n.failure or n.ready_at),
        key=lambda n: n.created_at,
    )
    for model in {row.model for row in admitted}:
        mine = [n for n in ended if n.model == model]
        tries = world.limits.policies[model].retries.same_failure_limit
        assert len(mine) < tries or any(n.ready_at for n in mine[-tries:])
    tries = world.limits.overall.same_failure_limit
    if admitted:
        assert len(ended) < tries or any(n.ready_at for n in ended[-tries:])


def check_overrun(world: World, policies: dict[ModelName, Policy]) -> None:
    """With drain-to-min: past the limit by no more than a step and the deletes of all that ran, and what surfaced."""
    books = world.ledger()
    for model in (None, MODEL, OTHER):
        said = said_of(world, model)
        limit = said.usd_per_day
        drains = said.action("usd_per_day") == "drain-to-min"
        if limit is None or not drains:
            continue
        mine = [n for n in world.rows.values() if model in (None, n.model)]
        today = books.at.date().isoformat()
        key = f"{model} {today}"
        rate = hourly([n for n in mine if n.may_bill])
        world.overrun[key] = max(world.overrun.get(key, ZERO), rate)
        surfaced = total(
            [
                cost
                for n in mine
                if n.name in world.beyond
                for on, cost in cost_by_day(n if n.gone_at else replace(n, gone_at=books.at))
                if on == today
            ]
        )
        slack = world.overrun[key].for_time(STEP + STEP + GOING)
        least = floor_cost(world, policies, model, today)
        assert books.spent_today(model) <= limit + slack + surfaced + least


def floor_cost(
    world: World, policies: dict[ModelName, Policy], model: ModelName | None, today: str
) -> Money:
    """What minimum fleets may cost beyond what was set aside for them: they are never drained."""
    kept = Counter(
        {m: p.nodes.min for m, p in policies.items() if model in (None, m) and p.nodes.min}
    )
    dearest = max(Money.of(usd) for usd, _ in TYPES.values())
    return dearest * kept.total() * 24 if kept else ZERO
