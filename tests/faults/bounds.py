"""3 and 4, what limits allow: counted anew from rows and the cloud's books, by none of the daemon's own sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import BY_HAND, MAY_BILL, Node

_SOON = timedelta(hours=1)  # so long a new machine must be affordable
NOT_LAUNCHED = frozenset({"sweep", "adopted", BY_HAND})  # rows of machines that no plan asked for


@dataclass(frozen=True, slots=True)
class Bounds:
    """Every limit that holds when something is admitted; None for none.

    Attributes:
        nodes: the most of each model; `every`: of all of them together.
        unproven: the most while no delete is proven in this project.
        types: how many GPUs each VM type has.
        launches: the most of each model within `window`; `every_launch`: of all of them together.
        day_left: of the UTC day; `spent`: in it, by the cloud's books, on machines that rows name.
        drain: how long what runs bills on at least, once the day's limit is reached.
    """

    nodes: Mapping[ModelName, int]
    every: int
    usd_per_hour: Decimal
    unproven: int | None = None
    gpus: int | None = None
    types: Mapping[str, int] = field(default_factory=dict)
    launches: Mapping[ModelName, int] = field(default_factory=dict)
    every_launch: int | None = None
    window: timedelta = timedelta(minutes=10)
    usd_per_day: Decimal | None = None
    day_left: timedelta = timedelta(0)
    spent: Decimal = Decimal(0)
    drain: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Passed:
    """A limit that was passed: of what, and how far."""

    is_money: bool
    subject: str
    what: str


def passed(
    bounds: Bounds, admitted: Sequence[Node], rows: Mapping[NodeName, Node], at: datetime
) -> Iterator[Passed]:
    """Which limits does this admission pass? `at` is its own time, by its host's clock."""
    if not admitted:
        return
    billing = [row for row in rows.values() if row.state in MAY_BILL]
    models = {node.model for node in admitted}
    yield from _counts(bounds, models, billing)
    yield from _launches(bounds, models, rows, at)
    hourly = _per_hour(billing)
    if hourly > bounds.usd_per_hour:
        yield Passed(True, "$/h", f"{hourly} $/h, at most {bounds.usd_per_hour}")
    if bounds.usd_per_day is None:
        return
    # one by one: what was admitted before it is drained, should it be too much
    new = min(node.price_per_hour.usd for node in admitted)
    bound = bounds.spent + _for(hourly - new, min(bounds.day_left, bounds.drain))
    bound += _for(new, min(bounds.day_left, _SOON))
    if bound > bounds.usd_per_day:
        yield Passed(True, "$/day", f"{bound:.2f} $ today, at most {bounds.usd_per_day}")


def _counts(bounds: Bounds, models: set[ModelName], billing: Sequence[Node]) -> Iterator[Passed]:
    for model in models:
        count, most = sum(row.model == model for row in billing), bounds.nodes.get(model, 0)
        if count > most:
            yield Passed(False, model, f"{model}: {count} may bill, at most {most} may")
    for most_in_all, why in ((bounds.every, ""), (bounds.unproven, " while no delete is proven")):
        if most_in_all is not None and len(billing) > most_in_all:
            said = f"{len(billing)} may bill in all, at most {most_in_all} may{why}"
            yield Passed(False, f"all{why}", said)
    gpus = sum(bounds.types.get(row.offer.type, 0) for row in billing)
    if bounds.gpus is not None and gpus > bounds.gpus:
        yield Passed(True, "gpus", f"{gpus} GPUs may bill, at most {bounds.gpus} may")


def _launches(
    bounds: Bounds, models: set[ModelName], rows: Mapping[NodeName, Node], at: datetime
) -> Iterator[Passed]:
    recent = [
        row.model
        for row in rows.values()
        if row.decision not in NOT_LAUNCHED and at - row.created_at < bounds.window
    ]
    for model in models:
        count, most = recent.count(model), bounds.launches.get(model)
        if most is not None and count > most:
            said = f"{model}: {count} launches in {bounds.window}, at most {most}"
            yield Passed(True, f"launches {model}", said)
    if bounds.every_launch is not None and len(recent) > bounds.every_launch:
        said = f"{len(recent)} launches in {bounds.window}, at most {bounds.every_launch}"
        yield Passed(True, "launches", said)


def _per_hour(rows: Sequence[Node]) -> Decimal:
    return sum((row.price_per_hour.usd for row in rows), Decimal(0))


def _for(per_hour: Decimal, length: timedelta) -> Decimal:
    return per_hour * Decimal(length.total_seconds()) / 3600
