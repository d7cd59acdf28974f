"""What a source of signals must offer: figures with their age, or the reasons why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.domain.signals import Figure, FigureName, Gap


@dataclass(frozen=True, slots=True)
class Target:
    """What a source is asked about.

    Attributes:
        endpoints: the ready replicas; coverage is judged against them.
        starting: endpoints ready for less than two minutes: scraped, left out of averages.
        window: the length over which rates and quantiles are taken.
        ttft_target_s, itl_target_s: the policy's latency goals, None when it states none.
    """

    model: ModelName
    endpoints: tuple[Endpoint, ...]
    window: timedelta
    starting: tuple[str, ...] = ()
    ttft_target_s: float | None = None
    itl_target_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One source's answer.

    Attributes:
        figures: fresh and in range; a figure that could not be had is in `gaps` with its reason.
        idle: the source is up and says that nothing came in the window.
        held: requests that wait at the activator now.
    """

    source: str
    at: datetime
    figures: tuple[tuple[FigureName, Figure], ...] = ()
    gaps: tuple[Gap, ...] = ()
    idle: bool = False
    held: int = 0


class Source(Protocol):
    """Measures one model's demand."""

    @property
    def name(self) -> str:
        """Unique within a policy, for messages and for `signals` chains."""

    @property
    def gives(self) -> frozenset[FigureName]:
        """Which figures this kind of source can give at all."""

    async def read(self, target: Target, now: datetime) -> Reading:
        """Measure now. Never raises for a source that is down: that is a `Gap` for each figure it gives."""

    async def close(self) -> None:
        """Close connections."""
