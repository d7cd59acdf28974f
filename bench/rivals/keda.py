"""Kubernetes' HPA on a metric that KEDA serves: total over target per replica, with a tolerance.

KEDA itself decides between none and one; from one on it is the HPA, whose proposal passes a window that keeps the
highest of five minutes before it goes down, and then rates of change.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from bench.rivals.law import Parameter, Rival, Sizing, View, clip

HPA = "https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/"
KEDA = "https://keda.sh/docs/2.22/reference/scaledobject-spec/"
SYNC_S = 15.0


@dataclass(frozen=True, slots=True)
class Rates:
    """How far one direction may go within a period: the larger of the policies that are there."""

    pods: int = 0
    pods_period_s: float = 15.0
    percent: float = 0.0
    percent_period_s: float = 15.0


UP = Rates(pods=4, percent=100)
DOWN = Rates(percent=100)


@dataclass(slots=True)
class Events:
    """Replicas added and removed, and when."""

    added: list[tuple[float, int]] = field(default_factory=list)
    removed: list[tuple[float, int]] = field(default_factory=list)

    def net(self, now_s: float, period_s: float) -> int:
        """By how many replicas the last `period_s` made the fleet larger."""
        after = now_s - period_s
        grown = sum(n for at_s, n in self.added if at_s > after)
        return grown - sum(n for at_s, n in self.removed if at_s > after)

    def note(self, now_s: float, change: int, keep_s: float) -> None:
        """Remember a change, and forget what is older than any policy asks."""
        if change:
            (self.added if change > 0 else self.removed).append((now_s, abs(change)))
        self.added = [e for e in self.added if e[0] > now_s - keep_s]
        self.removed = [e for e in self.removed if e[0] > now_s - keep_s]


def proposal(total: float, target: float, current: int, tolerance: float) -> int:
    """The HPA's answer to an external metric with an average value per pod."""
    if abs(total / (target * current) - 1.0) <= tolerance:
        return current
    return math.ceil(total / target)


def limited(now_s: float, current: int, wanted: int, up: Rates, down: Rates, events: Events) -> int:
    """`wanted`, no further from `current` than the policies allow."""
    if wanted > current:
        most = []
        if up.pods:
            most.append(current - events.net(now_s, up.pods_period_s) + up.pods)
        if up.percent:
            start = current - events.net(now_s, up.percent_period_s)
            most.append(math.ceil(start * (1 + up.percent / 100)))
        return min(wanted, max(current, *most))
    least = []
    if down.pods:
        least.append(current - events.net(now_s, down.pods_period_s) - down.pods)
    if down.percent:
        start = current - events.net(now_s, down.percent_period_s)
        least.append(int(start * (1 - down.percent / 100)))
    return max(wanted, min(current, *least))


class Stabilization:
    """The highest wish of a window before going down, the lowest of another before going up."""

    def __init__(self, up_s: float, down_s: float) -> None:
        self._up_s, self._down_s = up_s, down_s
        self._wishes: deque[tuple[float, int]] = deque()

    def settle(self, now_s: float, current: int, wanted: int) -> int:
        """What may be done of `wanted` now."""
        self._wishes.append((now_s, wanted))
        oldest_s = now_s - max(self._up_s, self._down_s)
        while self._wishes[0][0] < oldest_s:
            self._wishes.popleft()
        rise = min(n for at_s, n in self._wishes if at_s > now_s - self._up_s or at_s == now_s)
        fall = max(n for at_s, n in self._wishes if at_s > now_s - self._down_s or at_s == now_s)
        return min(max(current, min(rise, wanted)), max(fall, wanted))


@dataclass(frozen=True, slots=True)
class Settings:
    target_share: float
    tolerance: float
    up_window_s: float
    down_window_s: float
    up_pods: int
    up_percent: float
    poll_s: float
    cooldown_s: float
    min_replicas: int


class Keda:
    """KEDA between zero and one, the HPA from one on."""

    def __init__(self, settings: Settings, sizing: Sizing) -> None:
        self._set = settings
        self._target = settings.target_share * sizing.concurrency
        self._least, self._most = settings.min_replicas, sizing.max_replicas
        self._up = Rates(pods=settings.up_pods, percent=settings.up_percent)
        self._window = Stabilization(settings.up_window_s, settings.down_window_s)
        self._events = Events()
        self._spec: int | None = None
        self._active_s = -math.inf
        self._polled_s = -math.inf

    @property
    def interval_s(self) -> float:
        return SYNC_S

    def want(self, view: View) -> int:
        if self._spec is None:
            self._spec = clip(view.replicas, self._least, self._most)
            self._window.settle(view.now_s, self._spec, self._spec)
            self._active_s = view.now_s
        if view.now_s - self._polled_s >= self._set.poll_s:
            self._polled_s = view.now_s
            self._spec = self._activated(view)
        if self._spec:  # at zero the HPA rests
            before, self._spec = self._spec, self._scaled(view, self._spec)
            self._events.note(view.now_s, self._spec - before, SYNC_S)
        return self._spec

    def _activated(self, view: View) -> int:
        assert self._spec is not None
        if view.in_flight > 0:
            self._active_s = view.now_s
            return self._spec or max(1, self._least)
        idle = view.now_s - self._active_s >= self._set.cooldown_s
        return 0 if idle and self._least == 0 else self._spec

    def _scaled(self, view: View, current: int) -> int:
        wanted = proposal(view.in_flight, self._target, current, self._set.tolerance)
        wanted = self._window.settle(view.now_s, current, wanted)
        wanted = limited(view.now_s, current, wanted, self._up, DOWN, self._events)
        return clip(wanted, max(1, self._least), self._most)


def parameters(sizing: Sizing) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "target_share",
            1.0,
            "https://keda.sh/docs/2.22/scalers/prometheus/: threshold has no default; the sized concurrency is entered",
            0.1,
            1.5,
            log=True,
        ),
        Parameter(
            "tolerance",
            0.1,
            f"{HPA}: the controller's tolerance",
            0.0,
            0.3,
        ),
        Parameter("up_window_s", 0.0, f"{HPA}: scaleUp.stabilizationWindowSeconds", 0.0, 120.0),
        Parameter(
            "down_window_s",
            300.0,
            f"{HPA}: scaleDown.stabilizationWindowSeconds",
            15.0,
            3600.0,
            log=True,
        ),
        Parameter("up_pods", 4, f"{HPA}: scaleUp 4 pods per 15 s", 1, 20, log=True, whole=True),
        Parameter("up_percent", 100.0, f"{HPA}: scaleUp 100% per 15 s", 10.0, 900.0, log=True),
        Parameter("poll_s", 30.0, f"{KEDA}: pollingInterval"),
        Parameter("cooldown_s", 300.0, f"{KEDA}: cooldownPeriod", 30.0, 3600.0, log=True),
        Parameter("min_replicas", 0, f"{KEDA}: minReplicaCount", choices=(0, 1, 2, 3)),
    )


RIVAL = Rival(
    name="keda",
    version="KEDA 2.22 over Kubernetes autoscaling/v2",
    stated=f"{HPA} and {KEDA}",
    signal="requests in flight, now",
    parameters=parameters,
    build=lambda values, sizing: Keda(Settings(**values), sizing),
    tested="the vectors of the HPA's own horizontal_test.go and replica_calculator_test.go (hpa.json)",
    deviations=(
        "The metric is the user's choice; requests in flight, the one KServe shows for vLLM, is taken.",
        "maxReplicaCount 100 is replaced by the run's common cap.",
        "What its HTTP add-on does to a held request (time-outs, cold-start header) is left out.",
    ),
)
