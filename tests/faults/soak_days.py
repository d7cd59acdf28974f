"""The days of a soak: their demand, and what goes wrong on the bad ones."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter

from autoscaler.domain.ids import ModelName
from autoscaler.emulator.switches import Switches
from autoscaler.traces.generator import Traffic, generate
from tests.faults.faults import KINDS
from tests.faults.options import MODELS, ModelOptions, Options
from tests.faults.schedule import Fault
from tests.faults.shop import Demand

DAY_S = 86_400
HOUR_S = 3600
MOST_DAYS = 30  # all within one month, as the meter counts
START = datetime(2026, 6, 1, tzinfo=UTC)
BIN_S = 600.0
MEAN_PER_S = (0.15, 0.04)
BAD_DAY = 3  # the fourth of each week
BAD_HOURS = (8, 20)
FAULT_GAP_S = 1800.0
# What would change the pattern for good, and a clock that is set: it moves the meter's ends by as much.
_NOT_HERE = {"bounds change", "spec changes", "a model is added", "wall clock steps"}


@dataclass(frozen=True, slots=True)
class DailyDemand(Demand):
    """A demand of thousands of steps."""

    def at(self, at_s: float) -> float:
        return self.steps[bisect_right(self.steps, at_s, key=itemgetter(0)) - 1][1]


@dataclass(frozen=True, slots=True)
class Soak:
    """What to run.

    Attributes:
        days: how long; `faults`: what befalls it, and when.
        retention: of the store, so short that it ends within the run.
    """

    seed: int
    days: float
    retention: timedelta
    options: Options
    faults: tuple[Fault, ...]


def soak_of(
    days: float,
    seed: int = 0,
    *,
    means: Sequence[float] = MEAN_PER_S,
    faults: Sequence[Fault] | None = None,
    balancers: int = 2,
    from_hour: int = 0,
) -> Soak:
    """The soak that a seed stands for, with its bad days unless it is told what befalls it."""
    start = START + timedelta(hours=from_hour)
    options = Options(
        hours=days * 24,
        start=start,
        models=tuple(
            ModelOptions(
                ModelName(name), 0, 6, "wait", _demand(days, seed * 1000 + 500 * i, mean, from_hour)
            )
            for i, (name, mean) in enumerate(zip(MODELS, means, strict=False))
        ),
        balancers=balancers,
        switches=Switches(meter="existence"),
        nodes=10,
        usd_per_hour=30,
        usd_per_day=None,
        on_limit="hold",
        proven=True,
        is_fine=False,
    )
    told = tuple(_bad_days(days, seed)) if faults is None else tuple(faults)
    return Soak(seed, days, max(timedelta(days=1), timedelta(days=days / 4)), options, told)


def _demand(days: float, seed: int, mean_per_s: float, from_hour: int) -> DailyDemand:
    """Requests per second, a step each ten minutes, each day another one of the generator's."""
    steps: list[tuple[float, float]] = []
    for day in range(int(days + from_hour / 24) + 1):
        counts = [0] * int(DAY_S / BIN_S)
        for request in generate(Traffic(mean_per_s=mean_per_s), seed + day):
            counts[int(request.arrival_s / BIN_S)] += 1
        steps += [
            (day * DAY_S + i * BIN_S - from_hour * HOUR_S, count / BIN_S)
            for i, count in enumerate(counts)
        ]
    return DailyDemand(tuple(steps))


def _bad_days(days: float, seed: int) -> Iterator[Fault]:
    """One day a week; the catalogue is gone through, in an order of the seed's, before a fault comes again."""
    rng = random.Random(f"{seed}/soak")
    left: list[str] = []
    for day in range(BAD_DAY, int(days), 7):
        at_s = day * DAY_S + BAD_HOURS[0] * HOUR_S + rng.uniform(0, FAULT_GAP_S)
        while at_s < day * DAY_S + BAD_HOURS[1] * HOUR_S:
            left = left or rng.sample(sorted(KINDS.keys() - _NOT_HERE), len(KINDS) - len(_NOT_HERE))
            kind = KINDS[left.pop()]
            lasts = rng.uniform(*kind.lasts) if kind.lasts is not None else None
            yield Fault(at_s, kind.name, lasts, tuple(sorted(kind.draw(rng).items())))
            at_s += rng.uniform(0.5, 1.5) * FAULT_GAP_S
