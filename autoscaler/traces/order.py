"""Puts requests in order that are nearly in order already, with memory for a few seconds of them only."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count

from autoscaler.errors import ConfigError
from autoscaler.traces.request import TracedRequest


def in_order(
    requests: Iterable[tuple[str, TracedRequest]], slack_s: float
) -> Iterator[TracedRequest]:
    """Sort requests, each with its place in its file, of which none is more than `slack_s` late.

    The first becomes second 0.

    Raises:
        ConfigError: one is later than that; the message has its place.
    """
    waiting: list[tuple[float, int, TracedRequest]] = []
    numbers = count()
    latest = float("-inf")
    origin: float | None = None
    for place, request in requests:
        if request.arrival_s < latest - slack_s:
            late_s = latest - request.arrival_s
            raise ConfigError(
                f"{place}: {late_s:.1f} s before a line above it: sort the file by its time first"
            )
        latest = max(latest, request.arrival_s)
        heapq.heappush(waiting, (request.arrival_s, next(numbers), request))
        while waiting and waiting[0][0] < latest - slack_s:
            at, _, ready = heapq.heappop(waiting)
            origin = at if origin is None else origin
            yield replace(ready, arrival_s=at - origin)
    while waiting:
        at, _, ready = heapq.heappop(waiting)
        origin = at if origin is None else origin
        yield replace(ready, arrival_s=at - origin)
