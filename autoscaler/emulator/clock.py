"""Emulated time: where the cloud's hours come from.

All of the emulator's durations are emulated seconds. The clock alone knows how long one takes in
reality, so a test or a simulation may bring its own.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells and passes emulated time."""

    def now(self) -> datetime:
        """The emulated instant, timezone-aware, never going back."""

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of emulated time."""


class ScaledClock:
    """Runs `time_factor` times as fast as the wall clock, from the wall clock's time at its start."""

    def __init__(self, time_factor: float) -> None:
        self._time_factor = time_factor
        self._origin = datetime.now(UTC)
        self._started_s = time.monotonic()

    def now(self) -> datetime:
        real_s = time.monotonic() - self._started_s
        return self._origin + timedelta(seconds=real_s * self._time_factor)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._time_factor)
