"""Copies of the store, one a day, so that a lost disk page or a slip of the hand costs a day of stories at most.

apscheduler keeps the calendar, for days are a matter of the wall clock, which the loop's own timers (`wakes.py`) do
not know. As there, all that it does is set an event. A restored copy knows nothing of younger nodes: the sweep finds
them and holds, and `autoscaler adopt` takes them up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from autoscaler.clock import Clock
from autoscaler.errors import StoreUnavailable
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)

_DAY = timedelta(days=1)
_NAMED = "autoscaler-%Y%m%dT%H%M%SZ.db"
_GLOB = "autoscaler-????????T??????Z.db"

Calendar = Callable[[str, Callable[[], None]], Coroutine[None, None, None]]


async def every_day(at: str, wake: Callable[[], None]) -> None:
    """Call `wake` each day at a time of day, UTC. Runs until cancelled.

    Args:
        at: hours and minutes, "03:17".
    """
    hour, minute = at.split(":")
    scheduler = AsyncIOScheduler(timezone=UTC)
    # a suspended host does the day's work late rather than not at all
    trigger = CronTrigger(hour=int(hour), minute=int(minute), timezone=UTC)
    scheduler.add_job(wake, trigger, coalesce=True, misfire_grace_time=None)
    scheduler.start()
    try:
        await asyncio.Event().wait()
    finally:
        scheduler.shutdown(wait=False)


class Backups:
    """The store's copies in one folder.

    Attributes:
        last: when the newest copy was made, None where there is none.
    """

    def __init__(self, store: Store, clock: Clock, folder: Path, keep: int) -> None:
        """`folder` is made when it is missing; `keep` is how many copies stay, 0 for none made."""
        self._store, self._clock, self._folder, self._keep = store, clock, folder, keep
        self.last = _made(self._copies()[-1:])

    async def run(self, at: str, calendar: Calendar = every_day) -> None:
        """Copy each day at a time of day, and at once where the newest copy is older than a day."""
        if not self._keep:
            return
        due = asyncio.Event()
        if self.last is None or self._clock.now() - self.last > _DAY:
            due.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(calendar(at, due.set))
            while True:
                await due.wait()
                due.clear()
                await self.copy()

    async def copy(self) -> None:
        """Make one copy now, then let go of the oldest beyond those kept. Never raises for a full disk."""
        now = self._clock.now()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._store.back_up(self._folder / now.strftime(_NAMED))
            for old in self._copies()[: -self._keep]:
                old.unlink(missing_ok=True)
        except (StoreUnavailable, OSError) as exc:
            log.error("store_not_copied", why=str(exc), last=str(self.last), todo="make room")
            return
        self.last = now
        log.info("store_copied", folder=str(self._folder))

    def _copies(self) -> list[Path]:
        """The oldest first: their names sort as their times do. What is not ours is left alone."""
        return sorted(self._folder.glob(_GLOB))


def _made(newest: list[Path]) -> datetime | None:
    for path in newest:
        try:
            return datetime.strptime(path.name, _NAMED).replace(tzinfo=UTC)
        except ValueError:
            log.debug("name_not_ours", path=str(path))
    return None
