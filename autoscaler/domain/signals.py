"""What was measured of a model's demand, each figure with its age and its source.

A missing figure is a value (`None`, with a `Gap` that says why), never a zero: no data is not no load.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class FigureName(StrEnum):
    """The figures that sources may give. All but the quantiles add up over replicas."""

    WAITING = "waiting"  # requests that no engine computes on: held, queued, waiting
    RUNNING = "running"  # requests that an engine computes on
    ARRIVALS = "arrivals_per_s"  # requests/s that came, served or not
    PROMPT_TOKENS = "prompt_tokens_per_s"
    OUTPUT_TOKENS = "output_tokens_per_s"
    OLDEST_WAIT = "oldest_wait_s"
    TTFT_P50 = "ttft_p50_s"
    TTFT_P95 = "ttft_p95_s"
    TTFT_ATTAINED = "ttft_attained"  # share of requests within the policy's TTFT target, 0..1
    ITL_P50 = "itl_p50_s"
    ITL_P95 = "itl_p95_s"
    ITL_ATTAINED = "itl_attained"
    QUEUE_P95 = "queue_p95_s"
    KV_USE = "kv_use"  # the fullest replica's share of KV-cache blocks in use, 0..1


class Partiality(StrEnum):
    """How much of what should have answered did."""

    FULL = "full"
    PARTIAL = "partial"  # at least 80 % of the sources, scaled up


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        at: when it was true (not when it was read).
        source: which source gave it, for people.
    """

    value: float
    at: datetime
    source: str
    partiality: Partiality = Partiality.FULL

    def age(self, now: datetime) -> timedelta:
        """How old the figure is at `now`."""
        return now - self.at


@dataclass(frozen=True, slots=True)
class Gap:
    """Why a figure is missing."""

    figure: FigureName
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Signals:
    """All that is known of one model's demand at one instant.

    Attributes:
        figures: name → figure, only those that are fresh and in range.
        gaps: why the others are missing, one for each source that failed to give one.
        idle: True when the sources are up and say that nothing came in their window: latency figures are then "not
            applicable" rather than missing.
        held: requests held by the activator right now, known at once, for waking from zero.
    """

    at: datetime
    figures: tuple[tuple[FigureName, Figure], ...] = ()
    gaps: tuple[Gap, ...] = ()
    idle: bool = False
    held: int = 0

    def get(self, name: FigureName) -> Figure | None:
        """The figure of that name, or None when it is missing."""
        for key, figure in self.figures:
            if key is name:
                return figure
        return None

    def value(self, name: FigureName) -> float | None:
        """The figure's value, or None when it is missing."""
        figure = self.get(name)
        return None if figure is None else figure.value
