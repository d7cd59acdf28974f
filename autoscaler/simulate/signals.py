"""What the sources would tell of a simulated model: the gateway's counts and histograms, the engines' cache.

The figures, windows and edges are those of `observe/`; only the reading over sockets is left out. A figure that
production would not have (quantiles of too few requests) is missing here too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoscaler.domain.signals import Figure, FigureName, Signals
from autoscaler.gateway.figures import EDGES_S, Histogram
from autoscaler.observe.histogram import attained, quantile
from autoscaler.observe.latency import WIDENINGS
from autoscaler.policy import Policy

_EDGES = (*EDGES_S, math.inf)
_SOURCE = "simulated"


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is true at the instant of a pass.

    Attributes:
        waiting: in the balancer and in engines.
        running: what engines compute on.
        kv_use: of the fullest replica that is no newcomer; None without one.
        serves: whether any endpoint takes requests: what waits is held otherwise.
    """

    waiting: int
    running: int
    oldest_wait_s: float
    kv_use: float | None
    serves: bool


@dataclass(frozen=True, slots=True)
class _Mark:
    """All counters at one pass."""

    at_s: float
    arrivals: int
    prompt_tokens: int
    output_tokens: int
    ttft: tuple[int, ...]
    itl: tuple[int, ...]


class Meter:
    """Counts what happens, and makes Signals of it at each pass.

    Attributes:
        history: the signals that a decision may look at, oldest first.
    """

    def __init__(self, policy: Policy) -> None:
        self.arrivals = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.ttft = Histogram()
        self.itl = Histogram()
        self.history: deque[Signals] = deque()
        self._policy = policy
        self._window_s = policy.signals.window.total_seconds()
        self._lengths_s = [policy.signals.quantile_window.total_seconds() * w for w in WIDENINGS]
        self._kept = max(policy.scaling.work_window, policy.scaling.demand_window) + timedelta(
            minutes=1
        )
        # nothing came before the trace: the gateway has run for long
        self._marks = deque([self._mark(-self._lengths_s[-1]), self._mark(0.0)])

    def read(self, now_s: float, now: datetime, gauges: Gauges) -> Sequence[Signals]:
        """The history with the signals of this instant at its end."""
        if self._marks[-1].at_s < now_s:
            self._marks.append(self._mark(now_s))
        while len(self._marks) > 2 and self._marks[1].at_s <= now_s - self._lengths_s[-1]:
            self._marks.popleft()
        values = self._rates(now_s)
        is_idle = not (values[FigureName.ARRIVALS] or gauges.waiting or gauges.running)
        values[FigureName.WAITING] = float(gauges.waiting)
        values[FigureName.RUNNING] = float(gauges.running)
        values[FigureName.OLDEST_WAIT] = gauges.oldest_wait_s
        if gauges.kv_use is not None:
            values[FigureName.KV_USE] = gauges.kv_use
        self._latencies(now_s, values)
        figures = tuple((name, Figure(value, now, _SOURCE)) for name, value in values.items())
        held = 0 if gauges.serves else gauges.waiting
        self.history.append(Signals(now, figures, idle=is_idle, held=held))
        while now - self.history[0].at > self._kept:
            self.history.popleft()
        return tuple(self.history)

    def _mark(self, at_s: float) -> _Mark:
        return _Mark(
            at_s,
            self.arrivals,
            self.prompt_tokens,
            self.output_tokens,
            tuple(self.ttft.counts),
            tuple(self.itl.counts),
        )

    def _since(self, at_s: float) -> _Mark:
        """The counters at the last pass at or before an instant."""
        for mark in reversed(self._marks):
            if mark.at_s <= at_s + 1e-6:
                return mark
        return self._marks[0]

    def _rates(self, now_s: float) -> dict[FigureName, float]:
        last, first = self._marks[-1], self._since(now_s - self._window_s)
        span_s = max(now_s - first.at_s, 1e-9)
        return {
            FigureName.ARRIVALS: (last.arrivals - first.arrivals) / span_s,
            FigureName.PROMPT_TOKENS: (last.prompt_tokens - first.prompt_tokens) / span_s,
            FigureName.OUTPUT_TOKENS: (last.output_tokens - first.output_tokens) / span_s,
        }

    def _latencies(self, now_s: float, values: dict[FigureName, float]) -> None:
        slo, last = self._policy.slo, self._marks[-1]
        marks = [self._since(now_s - length_s) for length_s in self._lengths_s]
        ttft = self._enough(last.ttft, [mark.ttft for mark in marks])
        if ttft is not None:
            _give(values, ttft, slo.ttft, _TTFT)
        itl = self._enough(last.itl, [mark.itl for mark in marks])
        if itl is not None:
            _give(values, itl, slo.itl, _ITL)

    def _enough(
        self, last: tuple[int, ...], firsts: Sequence[tuple[int, ...]]
    ) -> dict[float, float] | None:
        """What was observed in the shortest window with enough in it, as cumulative counts by edge."""
        for first in firsts:
            if sum(last) - sum(first) < self._policy.signals.min_observations:
                continue
            running, cumulative = 0, {}
            for edge, now, then in zip(_EDGES, last, first, strict=True):
                running += now - then
                cumulative[edge] = float(running)
            return cumulative
        return None


_TTFT = (FigureName.TTFT_P50, FigureName.TTFT_P95, FigureName.TTFT_ATTAINED)
_ITL = (FigureName.ITL_P50, FigureName.ITL_P95, FigureName.ITL_ATTAINED)


def _give(
    values: dict[FigureName, float],
    cumulative: dict[float, float],
    goal: timedelta | None,
    names: tuple[FigureName, FigureName, FigureName],
) -> None:
    for name, share in ((names[0], 0.5), (names[1], 0.95)):
        value = quantile(cumulative, share)
        if value is not None:
            values[name] = value
    part = None if goal is None else attained(cumulative, goal.total_seconds())
    if part is not None:
        values[names[2]] = part
