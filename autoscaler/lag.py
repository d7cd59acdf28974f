"""How late the event loop is: what blocks it delays every deadline, lease and drain at once."""

from __future__ import annotations

from collections import deque

from autoscaler.clock import Clock

_LOOK_S = 5.0
_KEPT = 12  # looks, so a minute


class LoopLag:
    """Measures how much later than asked a short wait ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lags_s: deque[float] = deque(maxlen=_KEPT)

    @property
    def longest_s(self) -> float:
        """The longest lag of the last minute, in seconds."""
        return max(self._lags_s, default=0.0)

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            asked_at_s = self._clock.boot_s()
            await self._clock.sleep(_LOOK_S)
            self._lags_s.append(max(0.0, self._clock.boot_s() - asked_at_s - _LOOK_S))
