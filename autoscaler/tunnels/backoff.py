"""Pauses between attempts: each about twice the one before, up to a bound, and never all nodes' at the same moment."""

from __future__ import annotations

import random
from dataclasses import dataclass

_FIRST_S = 0.2


@dataclass(slots=True)
class Backoff:
    """The pauses of one thing that is tried again and again, for ever: a node that is wanted is wanted still."""

    most_s: float
    _next_s: float = _FIRST_S

    def pause_s(self) -> float:
        """How long to wait now: half of the step to the whole of it, evenly spread."""
        step_s, self._next_s = self._next_s, min(self._next_s * 2, self.most_s)
        return step_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next_s = _FIRST_S
