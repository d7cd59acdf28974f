"""More of the same traffic: a trace multiplied, or thinned, to a load of another size.

Each request stays in its place; every further copy of it is moved by half a minute or so and takes the sizes of a
random neighbour. Copies that were not moved and re-sized would turn every request into a burst.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from autoscaler.traces.request import TracedRequest

_MOVED_S = 30.0
_NEIGHBOURS = 50


def multiplied(requests: Sequence[TracedRequest], times: float, seed: int) -> list[TracedRequest]:
    """A trace with so many times as many requests, sorted; a part of one is a chance of one more copy.

    Raises:
        ValueError: `times` is not positive.
    """
    if times <= 0:
        raise ValueError(f"a trace can be multiplied by more than 0, not by {times:g}")
    if times == 1 or not requests:
        return list(requests)
    rng = random.Random(f"multiply/{seed}")
    whole, part = int(times), times - int(times)
    last_s = requests[-1].arrival_s
    made: list[TracedRequest] = []
    for index, request in enumerate(requests):
        for copy in range(whole + (rng.random() < part)):
            if copy == 0:
                made.append(request)
                continue
            near = min(len(requests) - 1, max(0, index + rng.randint(-_NEIGHBOURS, _NEIGHBOURS)))
            at_s = request.arrival_s + rng.gauss(0.0, _MOVED_S)
            made.append(replace(requests[near], arrival_s=min(max(at_s, 0.0), last_s)))
    made.sort(key=lambda request: request.arrival_s)
    return made
