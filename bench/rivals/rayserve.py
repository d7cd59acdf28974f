"""Ray Serve: mean ongoing requests over a target per running replica, believed after a delay.

The wish is a multiple of the replicas that run now, so that replicas which still start are asked for again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.rivals.law import Average, Parameter, Rival, Sizing, View, clip

CONFIG = "ray 2.60.0: ray/serve/config.py, AutoscalingConfig"
CODE = "ray 2.60.0: ray/serve/autoscaling_policy.py"
SLACK_S = 1e-6


@dataclass(frozen=True, slots=True)
class Settings:
    target_ongoing_requests: float
    look_back_s: float
    metrics_interval_s: float
    upscale_delay_s: float
    downscale_delay_s: float
    upscaling_factor: float
    downscaling_factor: float
    min_replicas: int


class Policy:
    """The replica-queue-length policy with its factors and delays, for given ongoing requests."""

    def __init__(self, settings: Settings) -> None:
        self._set = settings
        self._rising: bool | None = None
        self._since_s = 0.0

    def decide(self, now_s: float, ongoing: float, running: int, target: int) -> int:
        """The new target; `running` replicas serve now, `target` was the last decision."""
        if running == 0:
            if ongoing > 0:  # the way out of zero knows no delay
                return max(math.ceil(self._set.upscaling_factor), target)
            wanted = target
        else:
            wanted = self._scaled(ongoing / self._set.target_ongoing_requests, running)
        if running == 0 and wanted > 0:
            return wanted
        return self._delayed(now_s, max(0, wanted), target)

    def _scaled(self, wanted: float, running: int) -> int:
        up = wanted > running
        factor = self._set.upscaling_factor if up else self._set.downscaling_factor
        scaled = math.ceil(running + factor * (wanted - running))
        stuck = math.ceil(wanted) < running and scaled == running
        return scaled - 1 if stuck else scaled

    def _delayed(self, now_s: float, wanted: int, target: int) -> int:
        if wanted == target:
            self._rising = None
            return target
        rising = wanted > target
        if self._rising is not rising:
            self._rising, self._since_s = rising, now_s
        if not rising and target > 1:
            wanted = max(1, wanted)  # zero is reached from one only
        delay_s = self._set.upscale_delay_s if rising else self._set.downscale_delay_s
        if now_s - self._since_s + SLACK_S < delay_s:
            return target
        self._rising = None
        return wanted


class RayServe:
    """The policy over this world."""

    def __init__(self, settings: Settings, sizing: Sizing) -> None:
        self._set = settings
        self._most = sizing.max_replicas
        self._policy = Policy(settings)
        self._ongoing = Average(settings.look_back_s)
        self._target: int | None = None

    @property
    def interval_s(self) -> float:
        return self._set.metrics_interval_s

    def want(self, view: View) -> int:
        if self._target is None:
            self._target = clip(view.replicas, self._set.min_replicas, self._most)
        ongoing = self._ongoing.add(view.now_s, view.in_flight)
        wanted = self._policy.decide(view.now_s, ongoing, view.ready, self._target)
        self._target = clip(wanted, self._set.min_replicas, self._most)
        return self._target


def parameters(sizing: Sizing) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "target_ongoing_requests",
            2.0,
            f"{CONFIG}: target_ongoing_requests",
            min(1.0, 0.1 * sizing.concurrency),
            1.5 * sizing.concurrency,
            log=True,
        ),
        Parameter("look_back_s", 30.0, f"{CONFIG}: look_back_period_s", 11.0, 300.0, log=True),
        Parameter("metrics_interval_s", 10.0, f"{CONFIG}: DEFAULT_METRICS_INTERVAL_S"),
        Parameter("upscale_delay_s", 30.0, f"{CONFIG}: upscale_delay_s", 0.0, 300.0),
        Parameter(
            "downscale_delay_s", 600.0, f"{CONFIG}: downscale_delay_s", 30.0, 3600.0, log=True
        ),
        Parameter("upscaling_factor", 1.0, f"{CONFIG}: upscaling_factor", 0.2, 3.0, log=True),
        Parameter("downscaling_factor", 1.0, f"{CONFIG}: downscaling_factor", 0.2, 1.0, log=True),
        Parameter("min_replicas", 1, f"{CONFIG}: min_replicas", choices=(0, 1, 2, 3)),
    )


RIVAL = Rival(
    name="rayserve",
    version="ray 2.60.0",
    stated=f"{CODE}, replica_queue_length_autoscaling_policy",
    signal="ongoing requests, mean of 30 s",
    parameters=parameters,
    build=lambda values, sizing: RayServe(Settings(**values), sizing),
    tested="its own default policy with factors and delays, driven with random load (rayserve.json)",
    deviations=(
        "Its control loop runs every 0.1 s over figures that change every 10 s; here it runs when they change.",
        "Its second autoscaler, which turns replicas into nodes, is taken to be perfect and instant.",
        "max_replicas defaults to 1; the run's common cap is entered.",
    ),
)
