"""What the cloud has yet to do, by when.

Nothing here waits. Whoever holds the agenda runs what is due, with the instant at which it was due,
so that the books are the same however seldom they are looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import datetime

Action = Callable[[datetime], None]


class Agenda:
    """Actions in order of their time; equal times keep the order in which they were entered."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called when something is entered that is due before all else."""
        self._wake = wake
        self._entries: list[tuple[datetime, int, Action]] = []
        self._count = 0

    def at(self, when: datetime, action: Action) -> None:
        """Enter `action`; it is called with `when`."""
        self._count += 1
        heapq.heappush(self._entries, (when, self._count, action))
        if self._entries[0][1] == self._count:
            self._wake()

    def next_due(self) -> datetime | None:
        return self._entries[0][0] if self._entries else None

    def run_due(self, now: datetime) -> None:
        """Run everything due by `now`, including what it enters on the way."""
        while self._entries and self._entries[0][0] <= now:
            when, _, action = heapq.heappop(self._entries)
            action(when)
