"""dstack services: requests per second over a target, at most one change per delay since the last change."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.rivals.law import Parameter, Rival, Sizing, View, clip

CODE = "dstack 0.22.5: dstack/_internal/server/services/services/autoscalers.py"
SPEC = "dstack 0.22.5: dstack/_internal/core/models/configurations.py"
PASS_S = 5.0  # pipeline_tasks/runs/__init__.py: min_processing_interval


@dataclass(frozen=True, slots=True)
class Settings:
    target_share: float
    window_s: float
    scale_up_delay_s: float
    scale_down_delay_s: float
    min_replicas: int


class Dstack:
    """`RPSAutoscaler`: a cooldown since the last scaling event, none from zero."""

    def __init__(self, settings: Settings, sizing: Sizing) -> None:
        self._set = settings
        self._target_rps = settings.target_share * sizing.requests_per_s
        self._most = sizing.max_replicas
        self._desired: int | None = None
        self._scaled_s = 0.0

    @property
    def interval_s(self) -> float:
        return PASS_S

    def want(self, view: View) -> int:
        if self._desired is None:  # the first replicas' submission is its first scaling event
            self._desired = clip(view.replicas, self._set.min_replicas, self._most)
            self._scaled_s = view.now_s
        needed = math.ceil(view.arrivals_per_s(self._set.window_s) / self._target_rps)
        needed = clip(needed, self._set.min_replicas, self._most)
        if needed == self._desired:
            return self._desired
        up = needed > self._desired
        delay_s = self._set.scale_up_delay_s if up else self._set.scale_down_delay_s
        if (up and self._desired == 0) or view.now_s - self._scaled_s >= delay_s:
            self._desired, self._scaled_s = needed, view.now_s
        return self._desired


def parameters(sizing: Sizing) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "target_share",
            1.0,
            f"{SPEC}: ScalingSpec.target has no default; the sized rate is entered",
            0.2,
            1.2,
            log=True,
        ),
        Parameter("window_s", 60.0, f"{SPEC}: DEFAULT_SCALING_WINDOW", choices=(30.0, 60.0, 300.0)),
        Parameter(
            "scale_up_delay_s",
            300.0,
            f"{SPEC}: ScalingSpec.scale_up_delay 5m",
            5.0,
            600.0,
            log=True,
        ),
        Parameter(
            "scale_down_delay_s",
            600.0,
            f"{SPEC}: ScalingSpec.scale_down_delay 10m",
            60.0,
            3600.0,
            log=True,
        ),
        Parameter(
            "min_replicas",
            1,
            "dstack docs, services: replicas defaults to 1; a range must be entered",
            choices=(0, 1, 2, 3),
        ),
    )


RIVAL = Rival(
    name="dstack",
    version="dstack 0.22.5",
    stated=f"{CODE}, RPSAutoscaler",
    signal="requests per second over 60 s",
    parameters=parameters,
    build=lambda values, sizing: Dstack(Settings(**values), sizing),
    tested="its own RPSAutoscaler, driven with random traffic (dstack.json)",
    deviations=(
        "Its gateway counts requests when they are answered (access log); here they count on arrival, "
        "which favours it.",
        "Its last scaling event is read from replicas' submission and end; here it is the last change of "
        "the wish.",
        "Requests wait at zero replicas as with every law; its gateway has an empty upstream then, which "
        "favours it.",
    ),
)
