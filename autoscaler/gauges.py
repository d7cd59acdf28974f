"""Every limit, how much of it is used, and when it will bite: from then on nothing more is rented under it. Pure.

`autoscaler cost` and the metrics behind the alerts show the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from autoscaler.act import Limits, hourly
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import Node
from autoscaler.nodes.launch import failed_alike, failed_in_a_row
from autoscaler.period import Period
from autoscaler.policy import OnLimit
from autoscaler.store.protocol import Ledger

_HOUR = timedelta(hours=1)  # what a new machine must be paid for
_AHEAD = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Gauge:
    """One limit.

    Attributes:
        model: whose, None for all models together.
        key: as in `[limits]`; `nodes`, `launches` and `failures` also for a policy's own.
        used, most: in USD where the key says so, else a count.
        committed: `used`, and of a day or a month also what is spoken for, whatever is refused from now on.
        ahead: the same after another day, or at the period's end if that is sooner, should everything run on.
        bites_at: from when it lets nothing more be rented should everything run on as it did; None when it will not.
        reached_at: when so much is really spent, for a limit of a day or a month.
        why: why it bites now, in the words of the refusal.
    """

    model: ModelName | None
    key: str
    used: Decimal
    most: Decimal
    committed: Decimal
    ahead: Decimal
    action: OnLimit
    bites_at: datetime | None = None
    reached_at: datetime | None = None
    why: str | None = None

    @property
    def is_money(self) -> bool:
        return self.key.startswith("usd")


@dataclass(frozen=True, slots=True)
class Outlook:
    """What forecasts are made of.

    Attributes:
        rate: USD per hour that a model, or all of them (None), will go on to cost.
        cheapest: price per hour of the cheapest VM that could be rented next.
    """

    rate: Callable[[ModelName | None], Money]
    cheapest: Money = ZERO


def as_it_runs(limits: Limits, ledger: Ledger) -> Outlook:
    """The outlook that what bills now goes on to do so, and nothing else."""
    billing = tuple(node for node in ledger.nodes if node.may_bill)

    def rate(model: ModelName | None) -> Money:
        if model is None:
            return hourly(billing) + limits.stray_per_hour
        return hourly(tuple(node for node in billing if node.model == model))

    return Outlook(rate)


def gauges(limits: Limits, ledger: Ledger, outlook: Outlook) -> Iterator[Gauge]:
    """Every limit that is set, those of all models first."""
    billing = tuple(node for node in ledger.nodes if node.may_bill)
    every = limits.overall
    now, stray = ledger.at, limits.stray_per_hour
    if every.usd_per_hour is not None:
        rate = hourly(billing) + stray
        yield _hour(None, rate, every.usd_per_hour, every.action("usd_per_hour"), outlook, now)
    periods = _periods(limits, ledger, billing, outlook)
    yield from (each for each in periods if each.model is None)
    exist = len(billing) + len(limits.unbooked)
    yield _count(None, "nodes", exist, every.nodes, every.action("nodes"), now)
    if every.gpus is not None:
        have = limits.gpus_of(billing) + limits.unbooked_gpus
        yield _count(None, "gpus", have, every.gpus, every.action("gpus"), now)
    recent = _recent(ledger, every.launch_window, None)
    yield _count(None, "launches", recent, every.launches_per_window, every.on_launches, now)
    past = _past(ledger)
    failed = len(failed_in_a_row(past, ledger.resumed))
    yield _count(None, "failures", failed, every.same_failure_limit, every.on_failures, now)
    for model, policy in limits.policies.items():
        own, ours = policy.limits, tuple(node for node in billing if node.model == model)
        if policy.hourly_limit is not None:
            most, action = policy.hourly_limit, own.action("usd_per_hour")
            yield _hour(model, hourly(ours), most, action, outlook, now)
        yield from (each for each in periods if each.model == model)
        most_nodes = limits.most_of(model)
        yield _count(model, "nodes", len(ours), most_nodes, own.action("nodes"), now)
        if own.gpus is not None:
            yield _count(model, "gpus", limits.gpus_of(ours), own.gpus, own.action("gpus"), now)
        tries = policy.retries
        recent = _recent(ledger, tries.launch_window, model)
        yield _count(model, "launches", recent, tries.launches_per_window, own.on_launches, now)
        mine = [node for node in past if node.model == model]
        alike = len(failed_alike(mine, policy, ledger.resumed.get(model)))
        yield _count(model, "failures", alike, tries.same_failure_limit, own.on_failures, now)


def _hour(
    model: ModelName | None,
    rate: Money,
    most: Money,
    action: OnLimit,
    outlook: Outlook,
    now: datetime,
) -> Gauge:
    full = rate + outlook.cheapest > most
    why = f"{rate}/h of {most}/h leave no room for another VM" if full else None
    at = now if full else None
    used = rate.usd
    return Gauge(model, "usd_per_hour", used, most.usd, used, used, action, at, None, why)


def _count(
    model: ModelName | None, key: str, used: int, most: int, action: OnLimit, now: datetime
) -> Gauge:
    full = used >= most
    why = f"{used} of {most}" if full else None
    at = now if full else None
    count = Decimal(used)
    return Gauge(model, key, count, Decimal(most), count, count, action, at, None, why)


def _recent(ledger: Ledger, window: timedelta, model: ModelName | None) -> int:
    launches = ((m, at) for m, at in ledger.launches if ledger.at - at < window)
    return sum(1 for launched, _ in launches if model in (None, launched))


def _past(ledger: Ledger) -> list[Node]:
    return sorted((*ledger.ended, *ledger.nodes), key=lambda node: node.created_at)


def _periods(
    limits: Limits, ledger: Ledger, billing: tuple[Node, ...], outlook: Outlook
) -> list[Gauge]:
    """The limits of days and months, each once."""
    found: dict[tuple[ModelName | None, str], Gauge] = {}
    for model in limits.policies:
        for period in limits.periods(ledger, model, billing):
            if period.most is not None:
                gauge = _period(limits, ledger, billing, period, period.most, outlook)
                found[period.model, period.name] = gauge
    return list(found.values())


def _period(
    limits: Limits,
    ledger: Ledger,
    billing: tuple[Node, ...],
    period: Period,
    most: Money,
    outlook: Outlook,
) -> Gauge:
    """Where spending as it goes meets the limit.

    What is refused is a machine that could not be paid for an hour beside what is spoken for. That sum grows with what
    is spent and falls with the minimum fleets' shorter rest; near the period's end it only falls.
    """
    rate = outlook.rate(period.model)
    floors = sum(
        (each for m, each in limits.floors_per_hour.items() if period.model in (None, m)), ZERO
    )
    bound = period.committed + outlook.cheapest.for_time(min(period.left, _HOUR))
    drains = [
        limits.policies[n.model].drain.deadline for n in billing if n.model in limits.policies
    ]
    still = max(timedelta(0), period.left - max((_HOUR, *drains)))
    at = _meets(bound, most, rate - floors, still, ledger.at)
    ahead = period.spent + rate.for_time(min(period.left, _AHEAD))
    gauge = Gauge(
        model=period.model,
        key=f"usd_per_{period.name}",
        used=period.spent.usd,
        most=most.usd,
        committed=period.committed.usd,
        ahead=max(ahead, period.committed).usd,
        action=period.action,
        bites_at=at,
        reached_at=_meets(period.spent, most, rate, period.left, ledger.at),
    )
    if at != ledger.at:
        return gauge
    why = f"{period.spent} is spent, and {bound} is spoken for with what runs and one more VM"
    return replace(gauge, why=why)


def _meets(
    amount: Money, most: Money, rate: Money, within: timedelta, now: datetime
) -> datetime | None:
    """When an amount that grows at this rate per hour passes a limit, None if not within the time."""
    if amount > most:
        return now
    if rate <= ZERO:
        return None
    hours = (most - amount).usd / rate.usd
    if hours > Decimal(within.total_seconds()) / 3600:
        return None
    return now + timedelta(seconds=float(hours * 3600))
