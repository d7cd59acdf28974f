"""Which values a figure can have at all. What lies outside is a fault of its source, never a demand."""

from __future__ import annotations

import math

from autoscaler.domain.signals import FigureName

_REQUESTS = 1e6
_SECONDS = 86_400.0

# name → (least, most); the most is far above any fleet of this daemon, so that only nonsense is dropped
RANGES: dict[FigureName, tuple[float, float]] = {
    FigureName.WAITING: (0.0, _REQUESTS),
    FigureName.RUNNING: (0.0, _REQUESTS),
    FigureName.ARRIVALS: (0.0, _REQUESTS),
    FigureName.PROMPT_TOKENS: (0.0, 1e9),
    FigureName.OUTPUT_TOKENS: (0.0, 1e9),
    FigureName.OLDEST_WAIT: (0.0, _SECONDS),
    FigureName.TTFT_P50: (0.0, _SECONDS),
    FigureName.TTFT_P95: (0.0, _SECONDS),
    FigureName.TTFT_ATTAINED: (0.0, 1.0),
    FigureName.ITL_P50: (0.0, _SECONDS),
    FigureName.ITL_P95: (0.0, _SECONDS),
    FigureName.ITL_ATTAINED: (0.0, 1.0),
    FigureName.QUEUE_P95: (0.0, _SECONDS),
    # engines round up to whole blocks: slightly above 1 is full, 95 is a percentage and wrong
    FigureName.KV_USE: (0.0, 1.05),
}

# Figures that add up over replicas: what a part of them reports can be scaled to all.
ADDITIVE = frozenset(
    {
        FigureName.WAITING,
        FigureName.RUNNING,
        FigureName.ARRIVALS,
        FigureName.PROMPT_TOKENS,
        FigureName.OUTPUT_TOKENS,
    }
)
LATENCIES = frozenset(
    {
        FigureName.TTFT_P50,
        FigureName.TTFT_P95,
        FigureName.TTFT_ATTAINED,
        FigureName.ITL_P50,
        FigureName.ITL_P95,
        FigureName.ITL_ATTAINED,
        FigureName.QUEUE_P95,
    }
)
# What a decision cannot do without.
REQUIRED = (FigureName.ARRIVALS, FigureName.WAITING, FigureName.RUNNING)


def absurdity(name: FigureName, value: float) -> str | None:
    """Say what is wrong with the value, or None when it is possible."""
    if math.isnan(value):
        return "not a number"
    least, most = RANGES[name]
    if not least <= value <= most:
        return f"{value:g} is outside {least:g} to {most:g}"
    return None
