"""The price meter: who billed from when to when, per second, and what it comes to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

_HOUR = Decimal(3600)


@dataclass(slots=True)
class Span:
    """From `start` to `end`; None while it lasts."""

    start: datetime
    end: datetime | None = None

    def seconds(self, now: datetime) -> int:
        """Whole seconds, those begun counted."""
        end = self.end or now
        return max(0, math.ceil((end - self.start).total_seconds()))

    def seconds_within(self, start: datetime, end: datetime, now: datetime) -> float:
        overlap = min(self.end or now, end) - max(self.start, start)
        return max(0.0, overlap.total_seconds())


@dataclass(slots=True)
class Account:
    """One thing that bills: a VM or a disk. `units` are GPUs (1 for CPU types) or GiB."""

    kind: str
    id: str
    name: str
    project_id: str
    type: str
    location: str
    usd_per_hour: Decimal
    units: int
    exists: list[Span] = field(default_factory=list)
    runs: list[Span] = field(default_factory=list)

    def billed(self, rule: str) -> list[Span]:
        """What counts: a disk bills while it exists, a VM by the `meter` switch."""
        return self.runs if self.kind == "vm" and rule == "running" else self.exists

    def seconds(self, rule: str, now: datetime) -> int:
        return sum(span.seconds(now) for span in self.billed(rule))

    def usd(self, rule: str, now: datetime) -> Decimal:
        return self.usd_per_hour * self.seconds(rule, now) / _HOUR

    def is_billing(self, rule: str) -> bool:
        spans = self.billed(rule)
        return bool(spans) and spans[-1].end is None


class Meter:
    """Accounts of all that ever billed."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def open(self, account: Account, at: datetime) -> None:
        """Begin with a thing that now exists."""
        account.exists.append(Span(at))
        self._accounts[account.id] = account

    def set_running(self, vm_id: str, running: bool, at: datetime) -> None:
        """Say whether the VM is RUNNING from now on."""
        spans = self._accounts[vm_id].runs
        is_open = bool(spans) and spans[-1].end is None
        if running and not is_open:
            spans.append(Span(at))
        elif not running and is_open:
            spans[-1].end = at

    def set_price(self, resource_id: str, usd_per_hour: Decimal, units: int, at: datetime) -> None:
        """A disk has grown: from now on it bills as its new size."""
        past = self._accounts[resource_id]
        self.close(resource_id, at)
        self._accounts[f"{resource_id}@{at.isoformat()}"] = past
        grown = replace(past, usd_per_hour=usd_per_hour, units=units, exists=[], runs=[])
        self.open(grown, at)

    def close(self, resource_id: str, at: datetime) -> None:
        """The thing is gone."""
        account = self._accounts[resource_id]
        for spans in (account.exists, account.runs):
            if spans and spans[-1].end is None:
                spans[-1].end = at

    def accounts(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def total_usd(self, rule: str, now: datetime) -> Decimal:
        return sum((account.usd(rule, now) for account in self.accounts()), Decimal(0))


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """What one type used in one region on one UTC day."""

    day: date
    project_id: str
    region: str
    type: str
    kind: str
    hours: float
    unit_hours: float


def usage(meter: Meter, rule: str, first: date, last: date, now: datetime) -> Iterator[DayOfUse]:
    """Whole days of `first`..`last` that ended before `now`, oldest first."""
    day = first
    while day <= last and day < now.astimezone(UTC).date():
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        end = start + timedelta(days=1)
        totals: dict[tuple[str, str, str, str], list[float]] = {}
        for account in meter.accounts():
            spans = account.billed(rule)
            hours = sum(span.seconds_within(start, end, now) for span in spans) / 3600
            if hours:
                region = account.location.rpartition("-")[0] or account.location
                key = (account.project_id, region, account.type, account.kind)
                total = totals.setdefault(key, [0.0, 0.0])
                total[0] += hours
                total[1] += hours * account.units
        for (project_id, region, type_name, kind), (hours, unit_hours) in totals.items():
            yield DayOfUse(day, project_id, region, type_name, kind, hours, unit_hours)
        day += timedelta(days=1)
