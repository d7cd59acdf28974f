"""AIBrix's APA: a pod metric's mean over a target, acted on outside a tolerance, by at most a factor.

Replicas that still start dampen it. What the tool calls a cooldown takes the lowest wish of its window on the way
down, as its code does, and so never holds a replica back.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from bench.rivals.law import Average, Parameter, Rival, Sizing, View, clip

APA = "vllm-project/aibrix@4148b7a1: pkg/controller/podautoscaler/algorithm/apa.go"
CONTEXT = "vllm-project/aibrix@2576b186: pkg/controller/podautoscaler/context/context.go"
CONTROLLER = (
    "vllm-project/aibrix@015a2e5f: pkg/controller/podautoscaler/podautoscaler_controller.go"
)
SAMPLE = "vllm-project/aibrix@41c6ff3a: samples/autoscaling/apa.yaml"
METRICS = "vllm-project/aibrix: pkg/controller/podautoscaler/metrics/client.go"
RESYNC_S = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    metric: str
    target_share: float
    window_s: float
    up_tolerance: float
    down_tolerance: float
    max_scale_up_rate: float
    max_scale_down_rate: float
    up_cooldown_s: float
    down_cooldown_s: float
    min_replicas: int


def proposal(settings: Settings, ratio: float, current: int) -> int:
    """The APA's answer for the metric's mean over its target."""
    if ratio > 1 + settings.up_tolerance:
        return min(math.ceil(current * ratio), math.ceil(settings.max_scale_up_rate * current))
    if ratio < 1 - settings.down_tolerance:
        return max(math.ceil(current * ratio), math.floor(current / settings.max_scale_down_rate))
    return current


def guarded(wanted: int, ratio: float, current: int, ready: int) -> int:
    """`wanted` with the replicas that still start taken for idle on the way up, for on target on the way down."""
    ready = min(max(ready, 0), current)
    pending = current - ready
    if pending == 0 or wanted == current or current <= 0:
        return wanted
    if wanted > current:
        return min(wanted, max(current, math.ceil(ratio * ready)))
    return max(wanted, min(current, math.ceil(ratio * ready + pending)))


class Cooldown:
    """Wishes of late: up takes the highest of its window, down the lowest of its own."""

    def __init__(self, up_s: float, down_s: float) -> None:
        self._up_s, self._down_s = up_s, down_s
        self._wishes: deque[tuple[float, int]] = deque()

    def settle(self, now_s: float, current: int, wanted: int) -> int:
        """What is done of `wanted`."""
        self._wishes.append((now_s, wanted))
        while self._wishes and self._wishes[0][0] <= now_s - max(self._up_s, self._down_s):
            self._wishes.popleft()
        if wanted == current:
            return current
        after = now_s - (self._up_s if wanted > current else self._down_s)
        recent = [n for at_s, n in self._wishes if at_s > after] or [wanted]
        return max(recent) if wanted > current else min(recent)


class Aibrix:
    """The APA over this world, with its guard, its cooldown and its bounds."""

    def __init__(self, settings: Settings, sizing: Sizing) -> None:
        self._set = settings
        self._most = sizing.max_replicas
        unit = 1.0 if settings.metric == "kv" else sizing.concurrency
        self._target = settings.target_share * unit
        self._mean = Average(settings.window_s)
        self._cooldown = Cooldown(settings.up_cooldown_s, settings.down_cooldown_s)
        self._spec: int | None = None

    @property
    def interval_s(self) -> float:
        return RESYNC_S

    def want(self, view: View) -> int:
        if self._spec is None:
            self._spec = clip(view.replicas, self._set.min_replicas, self._most)
        if view.ready == 0:  # no pod, no metric: nothing is done
            return self._spec
        value = view.kv_use if self._set.metric == "kv" else view.in_flight / view.ready
        ratio = self._mean.add(view.now_s, value) / self._target
        wanted = proposal(self._set, ratio, self._spec)
        wanted = guarded(wanted, ratio, self._spec, view.ready)
        wanted = self._cooldown.settle(view.now_s, self._spec, wanted)
        self._spec = clip(wanted, self._set.min_replicas, self._most)
        return self._spec


def parameters(sizing: Sizing) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "metric",
            "kv",
            f"{SAMPLE}: targetMetric kv_cache_usage_perc; one must be entered",
            choices=("kv", "in_flight"),
        ),
        Parameter("target_share", 0.5, f"{SAMPLE}: targetValue 0.5", 0.02, 1.2, log=True),
        Parameter(
            "window_s", 180.0, f"{METRICS}: DefaultStableWindowDuration", 10.0, 600.0, log=True
        ),
        Parameter("up_tolerance", 0.1, f"{CONTEXT}: UpFluctuationTolerance", 0.0, 0.5),
        Parameter("down_tolerance", 0.1, f"{CONTEXT}: DownFluctuationTolerance", 0.0, 0.7),
        Parameter("max_scale_up_rate", 2.0, f"{CONTEXT}: MaxScaleUpRate", 1.1, 10.0, log=True),
        Parameter("max_scale_down_rate", 2.0, f"{CONTEXT}: MaxScaleDownRate", 1.05, 10.0, log=True),
        Parameter("up_cooldown_s", 0.0, f"{CONTEXT}: ScaleUpCooldownWindow", 0.0, 300.0),
        Parameter("down_cooldown_s", 300.0, f"{CONTEXT}: ScaleDownCooldownWindow", 0.0, 1800.0),
        Parameter(
            "min_replicas", 1, f"{SAMPLE}: minReplicas 1; scale to zero is off", choices=(1, 2, 3)
        ),
    )


RIVAL = Rival(
    name="aibrix",
    version="vllm-project/aibrix, 2026",
    stated=f"{APA}; cooldown: {CONTROLLER}",
    signal="KV cache use, mean of 180 s",
    parameters=parameters,
    build=lambda values, sizing: Aibrix(Settings(**values), sizing),
    tested="the vectors of its own apa_test.go (aibrix.json); guard and cooldown by hand",
    deviations=(
        "Its APA is taken; its KPA is Knative's law, and its GPU optimizer needs profiles measured offline.",
        "The sample lowers two settings by annotation (window 30 s, down tolerance 0.2); the defaults stand.",
        "Down, its cooldown takes the lowest wish of 300 s, not the highest: its code does, its name says not.",
        "Requests that wait in the balancer count as in flight, which a pod's metric would not show: "
        "it favours the metric in_flight.",
        "At zero replicas it has no metric and does not wake; its least is therefore one.",
    ),
)
