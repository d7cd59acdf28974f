"""Whether a model's limits leave room for one VM at all: a limit below the price of the cheapest says no for ever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from decimal import ROUND_UP, Decimal

from autoscaler.config import LimitSettings
from autoscaler.decide.capacity import replica_capacity
from autoscaler.decide.eligible import why_never
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import typical_work
from autoscaler.domain.money import Money
from autoscaler.domain.offer import Offer
from autoscaler.policy import Policy

_DAY, _MONTH = timedelta(days=1), timedelta(days=30)
_CENT = Decimal("0.01")


def fitting(policy: Policy, offers: Iterable[Offer], profiles: Profiles) -> list[Offer]:
    """The offers that can serve a model whatever the stock, the cheapest first."""
    work = typical_work(policy)
    found = [
        offer
        for offer in offers
        if why_never(policy, offer, replica_capacity(policy, offer, work, profiles)) is None
    ]
    return sorted(found, key=lambda one: (_price(one), one.key))


def too_tight(
    policy: Policy, overall: LimitSettings, offers: Sequence[Offer], profiles: Profiles
) -> list[str]:
    """Every limit that lets nothing be rented for a model, each with the figures and what to change.

    Empty when one VM can be rented, or the model may have none anyway.
    """
    if policy.nodes.max == 0:
        return []
    fit = fitting(policy, offers, profiles)
    if not fit:
        return [
            f"{policy.name}: no offer can serve it: `autoscaler offers --model POLICY` says why of each"
        ]
    cheapest, price = fit[0], _price(fit[0])
    hour = "limit" if policy.limit is not None else "limits.usd_per_hour"
    own, name = policy.limits, f"of {policy.name}"
    limits = (
        (f"{hour} {name}", policy.hourly_limit, "h"),
        (f"limits.usd_per_day {name}", own.usd_per_day, "day"),
        (f"limits.usd_per_month {name}", own.usd_per_month, "month"),
        ("limits.usd_per_hour of config.toml", overall.usd_per_hour, "h"),
        ("limits.usd_per_day of config.toml", overall.usd_per_day, "day"),
        ("limits.usd_per_month of config.toml", overall.usd_per_month, "month"),
    )
    said = [
        text
        for key, most, period in limits
        if most is not None and (text := _tight(policy, key, most, period, cheapest, price))
    ]
    if overall.nodes == 0:
        said.append("limits.nodes of config.toml is 0: nothing is ever rented; set it to 1 or more")
    return said


def _tight(
    policy: Policy, key: str, most: Money, period: str, offer: Offer, price: Money
) -> str | None:
    vm = f"{offer.key.type} at {price}/h"
    change = f"aise it to at least {{}}, or allow a cheaper type for {policy.name} (hardware.types)"
    if most < price:
        short = "an hour of one VM" if period != "h" else "the price of one VM"
        return (
            f"{key} is {most}/{period}, below {short}: the cheapest that can serve {policy.name} is {vm}. "
            f"Nothing can be rented: r{change.format(f'{_up(price)}/{period}')}"
        )
    hours = {"h": 1, "day": _DAY // timedelta(hours=1), "month": _MONTH // timedelta(hours=1)}
    least = price * policy.nodes.min * hours[period]
    if most < least:
        return (
            f"{key} is {most}/{period}, below the least that {policy.name} may cost: nodes.min = "
            f"{policy.nodes.min} of {vm} are {least}/{period}. "
            f"R{change.format(f'{_up(least)}/{period}')}, or lower nodes.min"
        )
    return None


def _price(offer: Offer) -> Money:
    assert offer.price_per_hour is not None  # an offer without a price fits nobody
    return offer.price_per_hour


def _up(amount: Money) -> Money:
    """To the cent, never below: a limit of this much must suffice."""
    return Money(amount.usd.quantize(_CENT, rounding=ROUND_UP))
