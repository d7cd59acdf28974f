"""Wakes what runs now and then: apscheduler sets an event, and that is all it does.

A wake that comes while the last round still runs is kept, once: rounds never pile up and never run side by side.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler


class Wakes:
    """Named events, set at intervals."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self._events: dict[str, asyncio.Event] = {}

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def every(self, name: str, interval: timedelta) -> None:
        """Set the event of that name now and at every interval from now on."""
        event = self._events.setdefault(name, asyncio.Event())
        event.set()
        self._scheduler.add_job(
            event.set,
            "interval",
            seconds=interval.total_seconds(),
            id=name,
            replace_existing=True,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )

    def forget(self, name: str) -> None:
        """Set it no more."""
        if self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)
        self._events.pop(name, None)

    def now(self, name: str) -> None:
        """Set the event out of turn."""
        if name in self._events:
            self._events[name].set()

    async def wait(self, name: str) -> None:
        """Wait until the event is set, and clear it."""
        event = self._events.setdefault(name, asyncio.Event())
        await event.wait()
        event.clear()
