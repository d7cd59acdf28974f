"""Money in US dollars, exact: decimal, never float."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import total_ordering

_HOUR_S = Decimal(3600)


@total_ordering
@dataclass(frozen=True, slots=True)
class Money:
    """An amount in USD. A price per hour is a Money in a field that says `per_hour`."""

    usd: Decimal

    @classmethod
    def of(cls, usd: str | int | Decimal) -> Money:
        """Make an amount from text, a whole number or a decimal."""
        return cls(Decimal(usd))

    def __add__(self, other: Money) -> Money:
        return Money(self.usd + other.usd)

    def __sub__(self, other: Money) -> Money:
        return Money(self.usd - other.usd)

    def __mul__(self, factor: int | Decimal) -> Money:
        return Money(self.usd * factor)

    __rmul__ = __mul__

    def __lt__(self, other: Money) -> bool:
        return self.usd < other.usd

    def __bool__(self) -> bool:
        return self.usd != 0

    def for_time(self, length: timedelta) -> Money:
        """Read this as a price per hour: what `length` costs."""
        seconds = Decimal(length.days * 86400 + length.seconds) + Decimal(
            length.microseconds
        ) / Decimal(1_000_000)
        return Money(self.usd * seconds / _HOUR_S)

    def __str__(self) -> str:
        cents = self.usd.quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)
        if self.usd and abs(self.usd) < Decimal("0.01"):
            return f"${self.usd.normalize():f}"[:9]
        return f"-${-cents}" if cents < 0 else f"${cents}"


ZERO = Money(Decimal(0))


def total(amounts: list[Money] | tuple[Money, ...]) -> Money:
    """Add amounts up; nothing adds up to zero dollars."""
    return sum(amounts, ZERO)
