"""Virtual time: an event loop that never waits, and the clocks that read it.

The loop's clock stands still while anything can run, and jumps to the next timer when nothing can. Nothing in it is
real: no sockets, no threads, no signals. What runs in an executor elsewhere runs at once here.

There are three clocks, as on a real host. The loop's own is `CLOCK_MONOTONIC`: it stops while the host sleeps. The
world's time goes on meanwhile. A host's wall clock is the world's time and whatever somebody set it wrong by.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Stuck(Exception):
    """Everything waits and no timer is set: nothing can ever happen again."""


class _NoSockets:
    """Stands where a loop keeps its selector."""

    def select(self, timeout: float | None) -> list[object]:
        return []

    def close(self) -> None:
        """Nothing to close."""


class VirtualLoop(asyncio.base_events.BaseEventLoop):
    """Runs everything that is due, then jumps to what is due next."""

    # what asyncio keeps: handles in their order, and a heap of timers
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._selector = _NoSockets()
        self._now_s = 0.0
        self.broken: list[dict[str, Any]] = []
        self.set_exception_handler(lambda loop, context: self.broken.append(context))

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        """One turn: asyncio's own without what is for sockets, since a schedule takes half a million of them."""
        ready, timers = self._ready, self._scheduled
        if not ready and not self._stopping:
            while timers and timers[0].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise Stuck
            self._now_s = max(self._now_s, timers[0].when())
        while timers and timers[0].when() <= self._now_s:
            ready.append(heapq.heappop(timers))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., T], *args: object
    ) -> asyncio.Future[T]:
        """Run it now. The caller still waits one turn of the loop, as it would for a thread."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except BaseException as exc:
            done.set_exception(exc)
        return done

    def _write_to_self(self) -> None:
        """Nobody else's thread wakes this loop."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a loop of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class WorldTime:
    """The true time, which no host's clock changes."""

    def __init__(self, origin: datetime) -> None:
        self._origin = origin
        self._loop = cast(VirtualLoop, asyncio.get_running_loop())
        self._began_s = self._loop.time()
        self.asleep_s = 0.0  # how long hosts have slept so far

    def seconds(self) -> float:
        """Since the world began."""
        return self._loop.time() - self._began_s + self.asleep_s

    def now(self) -> datetime:
        return self._origin + timedelta(seconds=self.seconds())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class HostClock:
    """The clock of the daemon's host: its wall clock may be set, its boot clock only counts."""

    def __init__(self, world: WorldTime, grain_s: float = 0.0, booted_s: float = 1000.0) -> None:
        """`grain_s`: no pause is shorter, as on a host that is busy; what is paced may be late."""
        self._world = world
        self._grain_s = grain_s
        self._booted_s = booted_s
        self.off_by = timedelta(0)

    def now(self) -> datetime:
        return self._world.now() + self.off_by

    def boot_s(self) -> float:
        return self._booted_s + self._world.seconds()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, self._grain_s))
