"""SkyServe: the request rate of a minute over a target per replica, believed after so many same answers in a row.

Its autoscaler counts decisions, not seconds: an answer the other way, or none, starts the count anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.rivals.law import Parameter, Rival, Sizing, View, clip

CODE = "skypilot 0.14.1: sky/serve/autoscalers.py"
CONSTANTS = "skypilot 0.14.1: sky/serve/constants.py"
WINDOW_S = 60.0
DECISION_S = 20.0
DECISION_AT_ZERO_S = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    target_share: float
    upscale_delay_s: float
    downscale_delay_s: float
    min_replicas: int


class SkyServe:
    """`RequestRateAutoscaler`: what it answers, in our words."""

    def __init__(self, settings: Settings, sizing: Sizing) -> None:
        self._target_rps = settings.target_share * sizing.requests_per_s
        self._least, self._most = settings.min_replicas, sizing.max_replicas
        self._up_after = int(settings.upscale_delay_s / DECISION_S)
        self._down_after = int(settings.downscale_delay_s / DECISION_S)
        self._up = self._down = 0
        self._target = settings.min_replicas

    @property
    def interval_s(self) -> float:
        return DECISION_S if self._target else DECISION_AT_ZERO_S

    def want(self, view: View) -> int:
        needed = math.ceil(view.arrivals_per_s(WINDOW_S) / self._target_rps)
        needed = clip(needed, self._least, self._most)
        if self._target == 0:  # the counts stand still here, as in the original
            self._target = needed
        elif needed > self._target:
            self._up, self._down = self._up + 1, 0
            if self._up >= self._up_after:
                self._up, self._target = 0, needed
        elif needed < self._target:
            self._up, self._down = 0, self._down + 1
            if self._down >= self._down_after:
                self._down, self._target = 0, needed
        else:
            self._up = self._down = 0
        return self._target


def parameters(sizing: Sizing) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "target_share",
            1.0,
            f"{CODE}: target_qps_per_replica has no default; the sized rate is entered",
            0.2,
            1.2,
            log=True,
        ),
        Parameter(
            "upscale_delay_s",
            300.0,
            f"{CONSTANTS}: AUTOSCALER_DEFAULT_UPSCALE_DELAY_SECONDS",
            20.0,
            600.0,
            log=True,
        ),
        Parameter(
            "downscale_delay_s",
            1200.0,
            f"{CONSTANTS}: AUTOSCALER_DEFAULT_DOWNSCALE_DELAY_SECONDS",
            60.0,
            3600.0,
            log=True,
        ),
        Parameter("min_replicas", 1, f"{CONSTANTS}: DEFAULT_MIN_REPLICAS", choices=(0, 1, 2, 3)),
    )


RIVAL = Rival(
    name="skyserve",
    version="skypilot 0.14.1",
    stated=f"{CODE}, RequestRateAutoscaler",
    signal="requests per second over 60 s",
    parameters=parameters,
    build=lambda values, sizing: SkyServe(Settings(**values), sizing),
    tested="its own RequestRateAutoscaler, driven with random traffic (skyserve.json)",
    deviations=(
        "Its load balancer reports arrivals every 20 s; here the rate is never old, which favours it.",
        "max_replicas defaults to min_replicas, that is to no scaling; the run's common cap is entered.",
        "num_overprovision, spot replicas and rolling updates have no counterpart here.",
        "Requests wait at zero replicas as with every law; its balancer may turn them away, which favours it.",
    ),
)
