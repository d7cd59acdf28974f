"""Latency figures from growing histograms, over longer windows while there is too little in the shortest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from autoscaler.domain.signals import FigureName
from autoscaler.observe import dialect as d
from autoscaler.observe.draft import Draft
from autoscaler.observe.histogram import attained, count, quantile
from autoscaler.observe.protocol import Target
from autoscaler.observe.series import Window

# 5 minutes by default, then 10, then 20
WIDENINGS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class LatencySettings:
    """Over how long quantiles are taken, and from how many observations on they are acted on."""

    window: timedelta = timedelta(minutes=5)
    min_observations: int = 30

    @property
    def depth_s(self) -> float:
        """How far back the longest window reaches."""
        return self.window.total_seconds() * max(WIDENINGS)


def draw_latencies(
    draft: Draft,
    target: Target,
    settings: LatencySettings,
    window_of: Callable[[float], Window],
) -> None:
    """Write TTFT, ITL and queue-time figures, each over the shortest window with enough observations.

    Args:
        window_of: length in seconds → what grew in it.
    """
    windows = [window_of(settings.window.total_seconds() * times) for times in WIDENINGS]
    for what, goal_s, p50, p95, share in (
        (d.TTFT, target.ttft_target_s, *_TTFT),
        (d.ITL, target.itl_target_s, *_ITL),
        (d.QUEUE, None, None, FigureName.QUEUE_P95, None),
    ):
        _draw(draft, [w.histogram(what) for w in windows], goal_s, settings, (p50, p95, share))


_TTFT = (FigureName.TTFT_P50, FigureName.TTFT_P95, FigureName.TTFT_ATTAINED)
_ITL = (FigureName.ITL_P50, FigureName.ITL_P95, FigureName.ITL_ATTAINED)


def _draw(
    draft: Draft,
    widening: list[dict[float, float]],
    goal_s: float | None,
    settings: LatencySettings,
    names: tuple[FigureName | None, FigureName | None, FigureName | None],
) -> None:
    enough = next((h for h in widening if count(h) >= settings.min_observations), None)
    if enough is None:
        seen = max((count(h) for h in widening), default=0.0)
        for name in filter(None, names):
            draft.miss(
                name,
                f"{seen:.0f} observations, fewer than {settings.min_observations}"
                if widening[-1]
                else "no such histogram",
            )
        return
    p50, p95, share = names
    for quantile_name, q in ((p50, 0.5), (p95, 0.95)):
        value = quantile(enough, q)
        if quantile_name is not None and value is not None:
            draft.give(quantile_name, value)
    if share is None:
        return
    if goal_s is None:
        draft.miss(share, "the policy states no such goal")
        return
    part = attained(enough, goal_s)
    if part is None:
        draft.miss(share, f"the goal of {goal_s:g} s lies below the first edge")
    else:
        draft.give(share, part)
