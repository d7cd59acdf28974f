"""How much of each spend limit is used, now and after a day as it runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from autoscaler.act import Limits, hourly
from autoscaler.domain.money import ZERO, Money
from autoscaler.store.protocol import Ledger

ALL = "(all)"
_AHEAD = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One limit that is set, and the share of it that is used: 1 is all of it.

    Attributes:
        model: whose limit, `(all)` for that of all models.
        limit: its key, such as `usd_per_month`.
        ahead: the share after another day, or at the period's end if that is sooner, should everything run on.
    """

    model: str
    limit: str
    used: float
    ahead: float


def limit_uses(limits: Limits, ledger: Ledger) -> Iterator[LimitUse]:
    """Every spend limit, each once."""
    billing = tuple(node for node in ledger.nodes if node.may_bill)
    stray = limits.stray_per_hour
    yield from _rate(ALL, limits.overall.usd_per_hour, hourly(billing) + stray)
    is_told = False
    for model, policy in limits.policies.items():
        ours = tuple(node for node in billing if node.model == model)
        yield from _rate(model, policy.hourly_limit, hourly(ours))
        own = policy.limits
        if is_told and own.usd_per_day is None and own.usd_per_month is None:
            continue
        for period in limits.periods(ledger, model, billing):
            is_ours = period.model is not None
            if not period.most or (is_told and not is_ours):
                continue
            rate = hourly(ours) if is_ours else hourly(billing) + stray
            ahead = period.spent + rate.for_time(min(period.left, _AHEAD))
            yield LimitUse(
                period.model or ALL,
                f"usd_per_{period.name}",
                _share(period.committed, period.most),
                _share(max(ahead, period.committed), period.most),
            )
        is_told = True


def _rate(model: str, most: Money | None, rate: Money) -> Iterator[LimitUse]:
    if most is not None and most != ZERO:
        used = _share(rate, most)
        yield LimitUse(model, "usd_per_hour", used, used)


def _share(amount: Money, most: Money) -> float:
    return float(amount.usd / most.usd)
