"""How fast one client may call: a rate, a number in flight, and a share that only deletes use.

mkinf publishes no limits. A fleet that launches hard must still be able to give machines back, so
other calls leave one place in flight and one request per second alone, and deletes go first. Calls
that are sent once go next: they are given up when their place comes late, while looking can wait.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pace:
    """Lets calls start. Times are those of the running event loop.

    In any `window_s` at most `burst` calls start, which makes `per_s` of them a second, and at
    most `in_flight` run at once; calls other than deletes get one less of each.
    """

    def __init__(self, per_s: float, in_flight: int) -> None:
        self._burst = max(2, math.ceil(per_s))
        self._window_s = self._burst / per_s
        self._in_flight = in_flight
        self._started: deque[float] = deque(maxlen=self._burst)
        self._running = 0
        self._paused_until = 0.0
        self._deletes: deque[asyncio.Future[None]] = deque()
        self._effects: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def place(self, *, delete: bool, effect: bool = False) -> AsyncIterator[None]:
        """Hold a place while a call is made; wait for one first. `effect`: it is sent once, or never."""
        await self._enter(self._deletes if delete else self._effects if effect else self._others)
        try:
            yield
        finally:
            self._running -= 1
            self._admit()

    def pause(self, seconds: float) -> None:
        """Start nothing for so long: the cloud asked for it."""
        until = asyncio.get_running_loop().time() + seconds
        self._paused_until = max(self._paused_until, until)

    def paused_s(self) -> float:
        """Say how long nothing may start, in seconds."""
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _enter(self, queue: deque[asyncio.Future[None]]) -> None:
        waiting = asyncio.get_running_loop().create_future()
        queue.append(waiting)
        self._admit()
        try:
            await waiting
        except asyncio.CancelledError:
            if not waiting.cancelled():
                self._running -= 1  # admitted and cancelled in the same turn of the loop
            elif waiting in queue:
                queue.remove(waiting)
            self._admit()
            raise

    def _admit(self) -> None:
        loop = asyncio.get_running_loop()
        self.close()
        for queue, spare in ((self._deletes, 0), (self._effects, 1), (self._others, 1)):
            places = max(1, self._in_flight - spare)
            while queue and self._running < places:
                if queue[0].cancelled():
                    queue.popleft()
                    continue
                wait = self._wait_s(loop.time(), self._burst - spare)
                if wait > 0:
                    self._timer = self._sooner(loop, wait)
                    break
                self._start(queue.popleft(), loop.time())

    def _start(self, waiting: asyncio.Future[None], now: float) -> None:
        self._running += 1
        self._started.append(now)
        waiting.set_result(None)

    def _wait_s(self, now: float, burst: int) -> float:
        """Say how long until a call may start, when `burst` of them may start in a window."""
        wait = self._paused_until - now
        if len(self._started) >= burst:
            wait = max(wait, self._started[-burst] + self._window_s - now)
        return wait

    def _sooner(self, loop: asyncio.AbstractEventLoop, wait: float) -> asyncio.TimerHandle:
        at = loop.time() + wait
        if self._timer is not None and self._timer.when() <= at:
            return self._timer
        self.close()
        return loop.call_at(at, self._admit)
