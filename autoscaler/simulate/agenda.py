"""The calendar of a backtest: what happens when, in the order of time; of equals, in the order they were put down."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappush
from itertools import count

from autoscaler.simulate.balancer import Server

# when, in which turn of equals, and who: a server that has something to do, or what is to be called
Entry = tuple[float, int, Server | None, Callable[[float], None] | None]


class Agenda:
    """Entries by time.

    Attributes:
        entries: a heap. An entry of a server for another time than the server's own is void.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._turns = count()

    def at(self, at_s: float, what: Callable[[float], None]) -> None:
        """Call this then, with that second."""
        heappush(self.entries, (at_s, next(self._turns), None, what))

    def follow(self, server: Server) -> None:
        """Come to this server when it has something to do next."""
        due_s = server.replica.next_s
        if due_s != server.due_s:
            server.due_s = due_s
            if due_s < math.inf:
                heappush(self.entries, (due_s, next(self._turns), server, None))
