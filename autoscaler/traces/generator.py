"""A seeded generator of traffic with a daily curve and bursts, for where there is no trace.

Poisson arrivals at rate = day curve × bursts (minutes to rise, up to an hour to hold), log-normal sizes: the
shape of what is published of real services, made of nothing but a seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from autoscaler.traces.request import TracedRequest

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What to generate: one day.

    Attributes:
        mean_per_s: mean arrivals per second over the day.
        bursts: how many bursts in the day.
        prompt_tokens, output_tokens: medians of the log-normal sizes.
    """

    mean_per_s: float = 0.5
    bursts: int = 12
    prompt_tokens: int = 600
    output_tokens: int = 120
    spread: float = 0.7


@dataclass(frozen=True, slots=True)
class _Burst:
    start_s: float
    rise_s: float
    hold_s: float
    factor: float

    def at(self, t: float) -> float:
        age = t - self.start_s
        if age < 0 or age > 2 * self.rise_s + self.hold_s:
            return 1.0
        ramp = min(1.0, age / self.rise_s, (2 * self.rise_s + self.hold_s - age) / self.rise_s)
        return 1.0 + (self.factor - 1.0) * ramp


def generate(traffic: Traffic, seed: int) -> Iterator[TracedRequest]:
    """One day's requests, sorted by arrival. The same seed gives the same day."""
    rng = random.Random(seed)
    bursts = [
        _Burst(
            start_s=rng.uniform(0.25, 0.8) * _DAY_S,
            rise_s=rng.uniform(300, 1800),
            hold_s=rng.uniform(600, 3600),
            factor=rng.uniform(1.2, 1.6),
        )
        for _ in range(traffic.bursts)
    ]

    def rate(t: float) -> float:
        boost = 1.0
        for burst in bursts:
            boost = max(boost, burst.at(t))
        return traffic.mean_per_s * _day_curve(t) * boost

    ceiling = traffic.mean_per_s * 2.2 * 1.6
    t = 0.0
    while (t := t + rng.expovariate(ceiling)) < _DAY_S:
        # thinning: keep a candidate with the share that the rate has of its ceiling
        if rng.random() * ceiling <= rate(t):
            yield TracedRequest(
                arrival_s=t,
                prompt_tokens=_size(rng, traffic.prompt_tokens, traffic.spread),
                output_tokens=_size(rng, traffic.output_tokens, traffic.spread),
            )


def _day_curve(t: float) -> float:
    """Quiet at night, a hill through the working day; its mean over the day is about one."""
    hour = t / 3600.0
    return 0.05 + 2.1 * math.exp(-(((hour - 13.5) / 4.6) ** 2))


def _size(rng: random.Random, median: int, spread: float) -> int:
    return max(1, min(round(median * math.exp(rng.gauss(0.0, spread))), 16 * median))
