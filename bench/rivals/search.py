"""The one search that tunes every law, rivals' and ours: so many draws at random, then so many near the best."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.rivals.law import Parameter, Value

RANDOM = 64
LOCAL = 16
NEAR = 0.12
"""how far a local draw goes, in shares of a parameter's range"""
SWITCH = 0.15
"""how often a local draw takes another of a parameter's choices"""


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that were tried, and what they scored: less is better."""

    values: dict[str, Value]
    score: float


def tune(
    parameters: Sequence[Parameter],
    score: Callable[[dict[str, Value]], float],
    *,
    seed: int = 0,
    draws: int = RANDOM,
    local: int = LOCAL,
) -> tuple[Trial, ...]:
    """Try the defaults and `draws - 1` settings at random, then `local` near the best; the best first.

    A law with few parameters gets the same number of tries as one with many.
    """
    rng = random.Random(seed)

    def attempt(values: dict[str, Value]) -> Trial:
        return Trial(values, score(values))

    tried = [attempt({p.name: p.default for p in parameters})]
    tried += [attempt({p.name: drawn(p, rng) for p in parameters}) for _ in range(draws - 1)]
    for _ in range(local):
        best = min(tried, key=lambda t: t.score).values
        tried.append(attempt({p.name: moved(p, best[p.name], rng) for p in parameters}))
    return tuple(sorted(tried, key=lambda t: t.score))


def drawn(parameter: Parameter, rng: random.Random) -> Value:
    """A value from anywhere in the range; the default where there is none."""
    if parameter.choices:
        return rng.choice(parameter.choices)
    return _at(parameter, rng.random()) if parameter.searched else parameter.default


def moved(parameter: Parameter, value: Value, rng: random.Random) -> Value:
    """A value near `value`, within the range."""
    if parameter.choices:
        return rng.choice(parameter.choices) if rng.random() < SWITCH else value
    if not parameter.searched:
        return value
    return _at(parameter, _share(parameter, float(value)) + rng.gauss(0, NEAR))


def _at(parameter: Parameter, share: float) -> Value:
    low, high = _ends(parameter)
    value = low + min(1.0, max(0.0, share)) * (high - low)
    value = math.exp(value) if parameter.log else value
    return round(value) if parameter.whole else value


def _share(parameter: Parameter, value: float) -> float:
    low, high = _ends(parameter)
    return ((math.log(value) if parameter.log else value) - low) / (high - low)


def _ends(parameter: Parameter) -> tuple[float, float]:
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.log:
        return math.log(parameter.low), math.log(parameter.high)
    return parameter.low, parameter.high
