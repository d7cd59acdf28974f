"""A fleet that is rented for the known peak and never changes."""

from __future__ import annotations

from dataclasses import dataclass

from bench.rivals.law import Parameter, Rival, Sizing, View, ceil, clip


@dataclass(frozen=True, slots=True)
class Settings:
    peak_share: float


class Fixed:
    """As many replicas as the highest rate that was known beforehand needs."""

    def __init__(self, settings: Settings, sizing: Sizing) -> None:
        needed = ceil(settings.peak_share * sizing.peak_requests_per_s / sizing.requests_per_s)
        self._replicas = clip(needed, 1, sizing.max_replicas)

    @property
    def interval_s(self) -> float:
        return 3600.0

    def want(self, view: View) -> int:
        return self._replicas


def parameters(sizing: Sizing) -> tuple[Parameter, ...]:
    return (Parameter("peak_share", 1.0, "the peak itself", 0.05, 2.0, log=True),)


RIVAL = Rival(
    name="fixed",
    version="none",
    stated="no tool's",
    signal="none",
    parameters=parameters,
    build=lambda values, sizing: Fixed(Settings(**values), sizing),
    tested="its formula by hand",
    deviations=(
        "The peak is that of the traffic it is sized on, not of the traffic it is judged on.",
    ),
)
