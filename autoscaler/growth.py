"""A policy that may spend far more than the one before waits for a person: `max = 500` is a typo more often than not.

What a policy may spend is the least of its limits and of `nodes.max` VMs of the dearest type that it allows. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from autoscaler.affordable import fitting
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.offer import Offer
from autoscaler.policy import Policy

USUAL = 2.0  # times what was possible before: as much is taken up without a word

_HOURS = {"day": Decimal(24), "month": Decimal(720)}


@dataclass(frozen=True, slots=True)
class Growth:
    """A policy against the one before it.

    Attributes:
        before, after: the most that each may spend, in USD per hour.
        changes: what of money and size differs, in words.
        spec: a hash of the later one: a person confirms what was shown, and nothing else.
    """

    model: ModelName
    before: Money
    after: Money
    changes: tuple[str, ...]
    spec: str

    @property
    def words(self) -> str:
        """The price of it."""
        what = ", ".join(self.changes) or "what it may rent"
        return f"{what}: it may spend {self.after}/h at most, {self.before}/h before"

    @property
    def held(self) -> str:
        """Why it is not in force, and what to do."""
        return (
            f"{self.model}: its new policy is held, the one before stays in force: {self.words}. "
            f"`autoscaler confirm {self.model}` puts it in force; else mend the file"
        )


@dataclass(frozen=True, slots=True)
class GrowthGuard:
    """How much more a policy may spend than the one before it, unasked.

    Attributes:
        factor: None for what is usual: `USUAL`, and any growth with an emulator.
        dearest: the price per hour of the dearest VM that may serve a policy; None when none may.
    """

    dearest: Callable[[Policy], Money | None]
    factor: float | None = None

    def growth(self, before: Policy, after: Policy) -> Growth | None:
        """The difference in what may be spent, None when there is none."""
        least, most = self._possible(before), self._possible(after)
        if least == most:
            return None
        return Growth(after.name, least, most, _changes(before, after), spec_of(after))

    def is_too_much(self, growth: Growth, *, emulated: bool) -> bool:
        """Whether a person must say yes to it."""
        factor = self.factor or (None if emulated else USUAL)
        return factor is not None and growth.after > growth.before * Decimal(str(factor))

    def _possible(self, policy: Policy) -> Money:
        """The most that a policy may spend per hour, on the mean."""
        dearest = self.dearest(policy)
        bounds = [
            dearest * policy.nodes.max if dearest is not None else ZERO,
            policy.hourly_limit,
            _per_hour(policy.limits.usd_per_day, "day"),
            _per_hour(policy.limits.usd_per_month, "month"),
        ]
        return min(bound for bound in bounds if bound is not None)


def dearest_of(offers: Sequence[Offer]) -> Callable[[Policy], Money | None]:
    """Price policies by a list of offers."""
    profiles = Profiles.load()

    def dearest(policy: Policy) -> Money | None:
        fit = fitting(policy, offers, profiles)
        return fit[-1].price_per_hour if fit else None

    return dearest


def spec_of(policy: Policy) -> str:
    """A hash of a whole policy."""
    return hashlib.sha256(policy.model_dump_json().encode()).hexdigest()[:12]


def _per_hour(most: Money | None, period: str) -> Money | None:
    return None if most is None else Money(most.usd / _HOURS[period])


def _changes(before: Policy, after: Policy) -> tuple[str, ...]:
    pairs = (
        ("nodes.max", before.nodes.max, after.nodes.max),
        ("limit", before.hourly_limit, after.hourly_limit),
        ("limits.usd_per_day", before.limits.usd_per_day, after.limits.usd_per_day),
        ("limits.usd_per_month", before.limits.usd_per_month, after.limits.usd_per_month),
        ("hardware.types", before.hardware.types, after.hardware.types),
        ("hardware.exclude_types", before.hardware.exclude_types, after.hardware.exclude_types),
    )
    return tuple(f"{key} {_said(a)} -> {_said(b)}" for key, a, b in pairs if a != b)


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "all"
    return "none" if value is None else str(value)
