"""A reading while it is being written: every figure that a source can give ends as a figure or as a gap."""

from __future__ import annotations

from datetime import datetime

from autoscaler.domain.signals import Figure, FigureName, Gap, Partiality
from autoscaler.observe.protocol import Reading
from autoscaler.observe.ranges import absurdity


class Draft:
    """Collects one source's figures at one instant."""

    def __init__(self, source: str, gives: frozenset[FigureName], at: datetime) -> None:
        self._source = source
        self._gives = gives
        self._at = at
        self._figures: dict[FigureName, Figure] = {}
        self._reasons: dict[FigureName, str] = {}

    def give(
        self,
        name: FigureName,
        value: float,
        *,
        at: datetime | None = None,
        is_partial: bool = False,
    ) -> None:
        """Write a figure down, or its gap when the value is impossible."""
        wrong = absurdity(name, value)
        if wrong is not None:
            self.miss(name, wrong)
            return
        partiality = Partiality.PARTIAL if is_partial else Partiality.FULL
        self._figures[name] = Figure(value, at or self._at, self._source, partiality)

    def miss(self, name: FigureName, reason: str) -> None:
        """Write down why a figure is missing. The first reason stays."""
        self._reasons.setdefault(name, reason)

    def finish(self, *, idle: bool = False, held: int = 0, otherwise: str = "not given") -> Reading:
        """Close the draft: what was neither given nor missed is a gap with the reason `otherwise`."""
        gaps = tuple(
            Gap(name, self._source, self._reasons.get(name, otherwise))
            for name in sorted(self._gives)
            if name not in self._figures
        )
        figures = tuple(sorted(self._figures.items()))
        return Reading(self._source, self._at, figures, gaps, idle, held)
