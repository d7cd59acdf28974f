"""Knative's KPA: mean requests in flight over a target, with a short window that panics.

While the panic window asks for twice what is ready, and for one stable window after, nothing goes down.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from bench.rivals.law import Average, Parameter, Rival, Sizing, View, clip

CODE = "knative/serving@00a4a55c: pkg/autoscaler/scaling/autoscaler.go"
CONFIG = "knative/serving@0d68a7be: config/core/configmaps/autoscaler.yaml"


@dataclass(frozen=True, slots=True)
class Settings:
    target: float
    utilization: float
    stable_window_s: float
    panic_window_share: float
    panic_threshold: float
    max_scale_up_rate: float
    max_scale_down_rate: float
    scale_down_delay_s: float
    zero_grace_s: float
    tick_s: float
    min_replicas: int


class Decider:
    """One decision of the KPA from its two means: the part that its own tests pin down."""

    def __init__(
        self,
        target: float,
        *,
        panic_threshold: float,
        stable_window_s: float,
        max_up: float,
        max_down: float,
        delay_s: float = 0.0,
        tick_s: float = 2.0,
        ready: int = 0,
        now_s: float = 0.0,
    ) -> None:
        self._target = target
        self._threshold = panic_threshold
        self._stable_window_s = stable_window_s
        self._max_up, self._max_down = max_up, max_down
        self._delay = _Highest(delay_s, tick_s) if delay_s > 0 else None
        # a restart with replicas begins in panic, so that an empty history removes none of them
        self.panic_since: float | None = now_s if ready > 1 else None
        self.panic_peak = ready

    def scale(self, now_s: float, stable: float, panic: float, ready: int) -> int:
        """Replicas wanted for the mean load of the stable and of the panic window."""
        base = max(1, ready)
        most, least = math.ceil(self._max_up * base), math.floor(base / self._max_down)
        for_stable, for_panic = math.ceil(stable / self._target), math.ceil(panic / self._target)
        wanted = min(max(for_stable, least), most)
        self._panic(now_s, for_panic / base >= self._threshold)
        if self.panic_since is not None:
            wanted = max(wanted, min(max(for_panic, least), most), self.panic_peak)
            self.panic_peak = wanted
        return self._delay.add(now_s, wanted) if self._delay else wanted

    def _panic(self, now_s: float, over: bool) -> None:
        if over:
            self.panic_since = now_s
        elif self.panic_since is not None and self.panic_since + self._stable_window_s < now_s:
            self.panic_since, self.panic_peak = None, 0


class _Highest:
    """The highest wish of a window, in buckets of one tick."""

    def __init__(self, window_s: float, tick_s: float) -> None:
        self._buckets = math.ceil(window_s / tick_s)
        self._tick_s = tick_s
        self._held: deque[tuple[int, int]] = deque()

    def add(self, now_s: float, value: int) -> int:
        tick = int(now_s // self._tick_s)
        while self._held and self._held[-1][1] <= value:
            self._held.pop()
        self._held.append((tick, value))
        while self._held[0][0] <= tick - self._buckets:
            self._held.popleft()
        return self._held[0][1]


class Knative:
    """The KPA over this world: its windows, its bounds, and the grace before the last replica goes."""

    def __init__(self, settings: Settings, sizing: Sizing) -> None:
        self._set = settings
        self._most = sizing.max_replicas
        self._stable = Average(settings.stable_window_s)
        panic_s = round(settings.stable_window_s * settings.panic_window_share)
        self._panic = Average(max(settings.tick_s, panic_s))
        self._decider: Decider | None = None
        self._idle_since: float | None = None

    @property
    def interval_s(self) -> float:
        return self._set.tick_s

    def want(self, view: View) -> int:
        if self._decider is None:
            self._decider = self._new_decider(view)
        stable = self._stable.add(view.now_s, view.in_flight)
        panic = self._panic.add(view.now_s, view.in_flight)
        wanted = self._decider.scale(view.now_s, stable, panic, view.ready)
        wanted = clip(wanted, self._set.min_replicas, self._most)
        if wanted:
            self._idle_since = None
            return wanted
        return self._last(view)

    def _last(self, view: View) -> int:
        """Zero, or one while the grace of the last replica runs."""
        if view.replicas == 0:
            self._idle_since = None
            return 0
        if self._idle_since is None:
            self._idle_since = view.now_s
        return 1 if view.now_s - self._idle_since < self._set.zero_grace_s else 0

    def _new_decider(self, view: View) -> Decider:
        return Decider(
            self._set.target * self._set.utilization,
            panic_threshold=self._set.panic_threshold,
            stable_window_s=self._set.stable_window_s,
            max_up=self._set.max_scale_up_rate,
            max_down=self._set.max_scale_down_rate,
            delay_s=self._set.scale_down_delay_s,
            tick_s=self._set.tick_s,
            ready=view.ready,
            now_s=view.now_s,
        )


def parameters(sizing: Sizing) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "target",
            100.0,
            f"{CONFIG}: container-concurrency-target-default",
            0.1 * sizing.concurrency,
            2.0 * sizing.concurrency,
            log=True,
        ),
        Parameter("utilization", 0.7, f"{CONFIG}: container-concurrency-target-percentage 70"),
        Parameter("stable_window_s", 60.0, f"{CONFIG}: stable-window", 6.0, 600.0, log=True),
        Parameter("panic_window_share", 0.1, f"{CONFIG}: panic-window-percentage 10", 0.05, 0.5),
        Parameter("panic_threshold", 2.0, f"{CONFIG}: panic-threshold-percentage 200", 1.1, 10.0),
        Parameter("max_scale_up_rate", 1000.0, f"{CONFIG}: max-scale-up-rate"),
        Parameter(
            "max_scale_down_rate", 2.0, f"{CONFIG}: max-scale-down-rate", 1.1, 10.0, log=True
        ),
        Parameter(
            "scale_down_delay_s",
            0.0,
            "knative docs, scale bounds: scale-down-delay 0s, at most 1h",
            0.0,
            3600.0,
        ),
        Parameter("zero_grace_s", 30.0, f"{CONFIG}: scale-to-zero-grace-period"),
        Parameter("tick_s", 2.0, f"{CONFIG}: tick-interval"),
        Parameter(
            "min_replicas",
            0,
            f"{CONFIG}: enable-scale-to-zero, and no min-scale",
            choices=(0, 1, 2, 3),
        ),
    )


RIVAL = Rival(
    name="knative",
    version="knative/serving, its defaults unchanged up to 98e5ef90 (August 2026)",
    stated=CODE,
    signal="requests in flight, mean of 60 s and of 6 s",
    parameters=parameters,
    build=lambda values, sizing: Knative(Settings(**values), sizing),
    tested="the vectors of its own autoscaler_test.go (knative.json)",
    deviations=(
        "Its queue-proxies average each second; here one sample a tick stands for the tick.",
        "The activator's share in the concurrency is the balancer's queue and what is held.",
        "Before its config is touched a replica's target is 100 requests, whatever the model can carry.",
        "max-scale is unlimited; the run's common cap is entered.",
    ),
)
