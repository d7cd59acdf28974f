"""What a rival sees, what it answers, and how its settings are described: the one interface of this package."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Value = float | str
Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a person who sets such a tool up enters once: one replica's figures within target, and the cap."""

    requests_per_s: float
    """what one replica serves within target"""
    concurrency: float
    """requests in one replica while it does"""
    max_replicas: int
    peak_requests_per_s: float = 0.0
    """the highest rate of the traffic that was known beforehand; only the fixed fleet asks"""
    prompt_s: float = 0.0
    """replica-seconds a prompt token costs; zero with `output_s`: unknown, `requests_per_s` stands"""
    output_s: float = 0.0
    """replica-seconds an output token costs"""


@dataclass(frozen=True, slots=True)
class View:
    """An instant as a rival sees it."""

    now_s: float
    ready: int
    """replicas that take requests; draining ones are not counted anywhere"""
    booting: int
    """replicas that are rented and not ready yet"""
    arrivals_per_s: Callable[[float], float]
    """requests of the last so many seconds over so many seconds, also when less time has passed"""
    running: int = 0
    """requests that engines compute on"""
    waiting: int = 0
    """requests that wait: in engines, in the balancer, held while there is no replica"""
    kv_use: float = 0.0
    """the mean share of the ready replicas' KV cache in use, 0 to 1"""
    kv_demand: tuple[float, ...] = ()
    """for each ready replica: tokens in its cache and tokens that wait for room, over what fits; may pass 1"""
    ttft_p95_s: float | None = None
    itl_p95_s: float | None = None
    prompt_tokens_per_s: float = 0.0
    output_tokens_per_s: float = 0.0

    @property
    def in_flight(self) -> int:
        """Requests that have come and are not answered."""
        return self.running + self.waiting

    @property
    def replicas(self) -> int:
        """Replicas that exist, ready or not."""
        return self.ready + self.booting


class Law(Protocol):
    """A scaling law with its own memory. It is asked in the order of time, and by one world only."""

    @property
    def interval_s(self) -> float:
        """Seconds from this answer until it is asked again; may change from one answer to the next."""
        ...

    def want(self, view: View) -> int:
        """The replicas, ready and booting together, that should exist now."""
        ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting of a rival: its default, who says so, and what a tuner may try.

    Without a range and without choices it is never searched.
    """

    name: str
    default: Value
    source: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    """tried evenly in the logarithm"""
    whole: bool = False
    choices: tuple[Value, ...] = ()

    @property
    def searched(self) -> bool:
        """Whether a tuner may try other values."""
        return bool(self.choices) or (self.low is not None and self.high is not None)


@dataclass(frozen=True, slots=True)
class Rival:
    """One tool's law with what must be told of it."""

    name: str
    version: str
    """the release or commit whose behaviour and defaults are meant"""
    stated: str
    """where its law is read"""
    signal: str
    parameters: Callable[[Sizing], tuple[Parameter, ...]]
    build: Callable[[Mapping[str, Any], Sizing], Law]
    tested: str
    """against what: the tool's own code, its own tests' vectors, or its formula by hand"""
    deviations: tuple[str, ...]
    """where the backtest's world cannot give what the tool has, or we chose for it"""

    def defaults(self, sizing: Sizing) -> dict[str, Value]:
        """The documented settings; those that the tool makes its user enter are the sizing's."""
        return {p.name: p.default for p in self.parameters(sizing)}

    def law(self, sizing: Sizing, values: Values | None = None) -> Law:
        """A fresh law at its defaults, but for `values`.

        Raises:
            ValueError: a value has no parameter of that name.
        """
        settings = self.defaults(sizing)
        if unknown := sorted(set(values or {}) - set(settings)):
            raise ValueError(
                f"{self.name}: no parameter {', '.join(unknown)}; there are: {', '.join(settings)}"
            )
        return self.build({**settings, **(values or {})}, sizing)


class Average:
    """The plain mean of what was added within the last `window_s`, the newest included."""

    __slots__ = ("_samples", "_sum", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._samples: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, now_s: float, value: float) -> float:
        """Take a sample, and say the mean with it."""
        samples = self._samples
        samples.append((now_s, value))
        self._sum += value
        while samples[0][0] <= now_s - self.window_s and len(samples) > 1:
            self._sum -= samples.popleft()[1]
        return max(0.0, self._sum / len(samples))


def clip(wanted: float, least: int, most: int) -> int:
    """`wanted` within bounds; the lower one wins where they cross."""
    return max(least, min(most, int(wanted)))


def ceil(value: float) -> int:
    """Rounded up, but for what a float's last digits add: 3.0000000000000004 is 3."""
    return math.ceil(value - 1e-9)
