"""Wakes what runs now and then: a timer sets an event, and that is all it does.

A wake that comes while the last round still runs is kept, once: rounds never pile up and never run side by side. The
timers are the event loop's own, which know no wall clock: one that is set back by an hour delays no round.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta


class Wakes:
    """Named events, set at intervals."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def stop(self) -> None:
        """Set nothing at intervals any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def every(self, name: str, interval: timedelta) -> None:
        """Set the event of that name now and at every interval from now on."""
        self._cancel(name)
        self._ring(name, interval.total_seconds(), asyncio.get_running_loop().time())

    def once(self, name: str, after: timedelta) -> None:
        """Set the event out of turn too, in so long; the last call for a name is the one that holds."""
        self._cancel(_once(name))
        loop = asyncio.get_running_loop()
        self._timers[_once(name)] = loop.call_later(after.total_seconds(), self.now, name)

    def forget(self, name: str) -> None:
        """Set it no more."""
        self._cancel(name)
        self._cancel(_once(name))
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

    def _ring(self, name: str, interval_s: float, due: float) -> None:
        self._events.setdefault(name, asyncio.Event()).set()
        loop = asyncio.get_running_loop()
        due += interval_s
        if due <= loop.time():  # the loop was held up for longer: what was missed is one wake
            due = loop.time() + interval_s
        self._timers[name] = loop.call_at(due, self._ring, name, interval_s, due)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def _once(name: str) -> str:
    return f"{name}, once"
