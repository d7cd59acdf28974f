"""NVIDIA Dynamo's planner, one pool of aggregated engines: one replica up or down by thresholds every few seconds.

Out of the box it looks at each engine's KV cache with what waits for it. Asked for latencies (`sla`) it sizes for the
rate it predicts every three minutes, and may step by one in between. It adds nothing while replicas still start, and
takes them back when the rest suffices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.rivals.law import Parameter, Rival, Sizing, View, clip

LOAD = "ai-dynamo 1.6.1: dynamo/planner/core/load_scaling.py"
DEFAULTS = "ai-dynamo 1.6.1: dynamo/planner/config/defaults.py"
CONFIG = "ai-dynamo 1.6.1: dynamo/planner/config/planner_config.py"
THRESHOLDS = {"throughput": (1.0, 0.6), "latency": (0.4, 0.1)}


@dataclass(frozen=True, slots=True)
class Settings:
    objective: str
    up_kv: float
    down_kv_share: float
    load_interval_s: float
    throughput_interval_s: float
    predictor: str
    load_steps: str
    ttft_s: float
    itl_s: float
    sensitivity: float
    max_step: int
    min_replicas: int


def stepped(settings: Settings, demands: Sequence[float], ready: int, pending: int) -> int | None:
    """The replicas that the KV thresholds ask for; None leaves all as it is."""
    up, down = THRESHOLDS.get(
        settings.objective, (settings.up_kv, settings.up_kv * settings.down_kv_share)
    )
    own = (
        settings.objective not in THRESHOLDS
    )  # thresholds of the user's own count when they are met
    if not demands:
        return None
    if any(d >= up if own else d > up for d in demands):
        return None if pending else max(ready + 1, settings.min_replicas)
    if (ready > 1 or pending) and all(d <= down if own else d < down for d in demands):
        fewer = max(ready - 1, settings.min_replicas)
        if 0 < fewer < ready and max(demands) * ready / fewer >= up:
            fewer = ready  # what is left would ask for it back at once
        return fewer
    return None


def floor(settings: Settings, demand: float, ready: int) -> int:
    """Replicas for the predicted work, no more than a step from those that are ready."""
    wanted = max(math.ceil(demand), settings.min_replicas)
    wanted = min(max(wanted, max(0, ready - settings.max_step)), ready + settings.max_step)
    return max(wanted, settings.min_replicas)


class Kalman:
    """Level and trend of a series, filtered; says the next value."""

    def __init__(self, level: float = 1.0, trend: float = 0.1, noise: float = 10.0) -> None:
        self._q, self._r = (level, trend), noise
        self._x = (0.0, 0.0)
        self._p = (1000.0, 0.0, 0.0, 1000.0)
        self._points = 0
        self._last = 0.0
        self._ahead: float | None = None

    def add(self, value: float) -> None:
        """Take the next point; idle points before the first traffic are skipped."""
        if value == 0 and self._points == 0:
            return
        self._points += 1
        self._last = value
        if self._points == 1:
            self._x = (value, 0.0)
        else:
            if self._ahead is None:
                self._step()
            self._correct(value)
        self._ahead = None

    def next(self) -> float:
        """The value expected at the next point; the last one before there are five."""
        if self._points < 5:
            return self._last
        if self._ahead is None:
            self._step()
            self._ahead = self._x[0]
        return max(0.0, self._ahead)

    def _step(self) -> None:
        a, b, c, d = self._p
        self._x = (self._x[0] + self._x[1], self._x[1])
        self._p = (a + b + c + d + self._q[0], b + d, c + d, d + self._q[1])

    def _correct(self, value: float) -> None:
        a, b, c, d = self._p
        gain, slope = a / (a + self._r), c / (a + self._r)
        error = value - self._x[0]
        self._x = (self._x[0] + gain * error, self._x[1] + slope * error)
        self._p = ((1 - gain) * a, (1 - gain) * b, c - slope * a, d - slope * b)


class Last:
    """The last point again."""

    def __init__(self) -> None:
        self._last = 0.0

    def add(self, value: float) -> None:
        self._last = value

    def next(self) -> float:
        return self._last


PREDICTORS: dict[str, Callable[[], Kalman | Last]] = {"kalman": Kalman, "constant": Last}


class Dynamo:
    """The planner over this world."""

    def __init__(self, settings: Settings, sizing: Sizing) -> None:
        self._set, self._sizing = settings, sizing
        self._spec: int | None = None
        self._floor = settings.min_replicas
        self._predicted_s = -math.inf
        make = PREDICTORS[settings.predictor]
        self._rate, self._prompt, self._output = make(), make(), make()

    @property
    def interval_s(self) -> float:
        if self._set.objective == "sla" and self._set.load_steps == "off":
            return self._set.throughput_interval_s
        return self._set.load_interval_s

    def want(self, view: View) -> int:
        if self._spec is None:
            self._spec = clip(view.replicas, self._set.min_replicas, self._sizing.max_replicas)
        pending = max(0, self._spec - view.ready)
        if self._set.objective == "sla":
            wanted = self._for_latency(view, pending)
        else:
            wanted = stepped(self._set, view.kv_demand, view.ready, pending)
        if wanted is not None:
            self._spec = clip(wanted, self._set.min_replicas, self._sizing.max_replicas)
        return self._spec

    def _for_latency(self, view: View, pending: int) -> int | None:
        due = view.now_s - self._predicted_s >= self._set.throughput_interval_s
        if due:
            self._predicted_s = view.now_s
            self._floor = floor(self._set, self._demand(view), view.ready)
        if self._set.load_steps == "off":
            if not due or (pending and self._floor > view.ready):
                return None
            return self._floor
        step = self._step(view, pending)
        wanted = max(view.ready if step is None else step, self._floor)
        if pending and (step is None or wanted > view.ready):
            return None
        return wanted

    def _demand(self, view: View) -> float:
        """Predicted work in replicas: rate and lengths are predicted apart, as the planner does."""
        rate = view.arrivals_per_s(self._set.throughput_interval_s)
        self._rate.add(rate * self._set.throughput_interval_s)
        self._prompt.add(view.prompt_tokens_per_s / rate if rate else 0.0)
        self._output.add(view.output_tokens_per_s / rate if rate else 0.0)
        rate = self._rate.next() / self._set.throughput_interval_s
        work_s = self._prompt.next() * self._sizing.prompt_s
        work_s += self._output.next() * self._sizing.output_s
        return rate * work_s if work_s else rate / self._sizing.requests_per_s

    def _step(self, view: View, pending: int) -> int | None:
        """One up when a latency is missed, one down when both would hold on one replica less."""
        goals = ((view.ttft_p95_s, self._set.ttft_s), (view.itl_p95_s, self._set.itl_s))
        if view.ready == 0 or any(seen is None for seen, _ in goals):
            return None
        known = [(seen or 0.0, goal) for seen, goal in goals]
        if any(seen > goal for seen, goal in known):
            return None if pending else view.ready + 1
        if view.ready == 1 and not pending:
            return None
        tighter = view.ready / (view.ready - 1) if view.ready > 1 else 1.0
        if all(seen * tighter < goal * self._set.sensitivity for seen, goal in known):
            return max(view.ready - 1, self._set.min_replicas)
        return None


def parameters(sizing: Sizing) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "objective",
            "throughput",
            f"{CONFIG}: optimization_target",
            choices=("throughput", "latency", "load", "sla"),
        ),
        Parameter(
            "up_kv",
            1.0,
            f"{LOAD}: threshold of `throughput`; the user's own for `load`",
            0.02,
            1.0,
            log=True,
        ),
        Parameter("down_kv_share", 0.6, f"{LOAD}: threshold of `throughput`", 0.1, 0.95),
        Parameter("load_interval_s", 5.0, f"{DEFAULTS}: load_adjustment_interval_seconds"),
        Parameter(
            "throughput_interval_s",
            180.0,
            f"{DEFAULTS}: throughput_adjustment_interval_seconds",
            30.0,
            600.0,
            log=True,
        ),
        Parameter(
            "predictor",
            "constant",
            f"{DEFAULTS}: load_predictor is arima (see the deviations)",
            choices=("constant", "kalman"),
        ),
        Parameter("load_steps", "off", f"{DEFAULTS}: enable_load_scaling", choices=("off", "on")),
        Parameter("ttft_s", 0.5, f"{DEFAULTS}: ttft_ms 500", 0.2, 4.0, log=True),
        Parameter("itl_s", 0.05, f"{DEFAULTS}: itl_ms 50", 0.02, 0.5, log=True),
        Parameter("sensitivity", 0.8, f"{DEFAULTS}: load_scaling_down_sensitivity 80", 0.3, 1.0),
        Parameter("max_step", 8, f"{DEFAULTS}: max_throughput_scaling_replicas"),
        Parameter("min_replicas", 1, f"{DEFAULTS}: min_endpoint", choices=(1, 2, 3)),
    )


RIVAL = Rival(
    name="dynamo",
    version="ai-dynamo 1.6.1",
    stated=f"{LOAD}, throughput_scaling.py, load/predictors.py",
    signal="each engine's KV cache with what waits for it, now",
    parameters=parameters,
    build=lambda values, sizing: Dynamo(Settings(**values), sizing),
    tested="its own PlannerScalingState (thresholds, floor) and KalmanPredictor, driven at random (dynamo.json)",
    deviations=(
        "One pool (mode agg); prefill and decode apart need machines that this market does not join.",
        "`sla` predicts by the last value or its Kalman filter; ARIMA and Prophet are left out.",
        "`sla` takes a replica's rate from the sizing, scaled by the predicted lengths, not from its engine model.",
        "`sla` steps on the measured p95 of the fleet, not on its model's forecast for each engine.",
        "max_gpu_budget 8 is replaced by the run's common cap.",
        "What waits in the balancer is shared out over the ready engines; Dynamo's router sends it there at once.",
    ),
)
