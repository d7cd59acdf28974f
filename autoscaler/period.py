"""A day and a month of money: where they end, and what is spent and spoken for in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import Money
from autoscaler.policy import OnLimit


@dataclass(frozen=True, slots=True)
class Period:
    """One limit on a day or a month.

    Attributes:
        model: whose, None for all models together.
        most: None where there is no limit.
        left: of the period.
        committed: what is spent, and what will be, whatever is refused from now on.
    """

    name: str
    model: ModelName | None
    most: Money | None
    action: OnLimit
    spent: Money
    left: timedelta
    committed: Money


def left_of_day(at: datetime) -> timedelta:
    """Until midnight UTC."""
    at = at.astimezone(UTC)
    return at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1) - at


def left_of_month(at: datetime) -> timedelta:
    """Until the first of the next month, UTC."""
    at = at.astimezone(UTC)
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return following - at
