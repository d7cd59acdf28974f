"""Proof that nothing of a kind is listed any more: at least three listings, over the confirming time, without any."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

_LISTINGS = 3


@dataclass(slots=True)
class Silence:
    """Collects listings, told apart by when they were asked for, in seconds since boot."""

    confirm_over: timedelta
    _silent: list[float] = field(default_factory=list)

    def heard(self, any_listed: bool, at_s: float) -> None:
        """Take one complete listing into account, or an incomplete one that shows something."""
        if any_listed:
            self._silent.clear()
        elif not self._silent or at_s > self._silent[-1]:
            self._silent.append(at_s)
            del self._silent[1:-_LISTINGS]  # the first and the newest say it all

    @property
    def is_proven(self) -> bool:
        if len(self._silent) < _LISTINGS:
            return False
        return self._silent[-1] - self._silent[0] >= self.confirm_over.total_seconds()
