"""The one reader of the clock.

Everything else gets time as an argument or through a `Clock`, so that a backtest and the tests can choose it.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> datetime:
        """The wall clock, timezone-aware, UTC."""

    def boot_s(self) -> float:
        """Seconds since boot, suspended time included: for rates and deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait. Consistency is never bought with this; pacing is."""


class SystemClock:
    """The machine's clock. `CLOCK_BOOTTIME` goes on in suspend, where the monotonic clock stops."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def boot_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
