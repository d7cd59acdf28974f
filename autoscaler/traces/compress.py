"""A day in two minutes: arrivals moved together, and thinned or multiplied to the load that a machine can carry."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from autoscaler.traces.request import TracedRequest

_SLOTS = 24  # the peak is the fullest of so many parts of the compressed trace
_JITTER_S = 1.0


def compress(
    requests: Sequence[TracedRequest],
    length_s: float,
    peak_per_s: float,
    seed: int,
    *,
    most_prompt_tokens: int,
    most_output_tokens: int,
) -> list[TracedRequest]:
    """Squeeze a trace into `length_s` seconds with about `peak_per_s` arrivals per second at its fullest.

    The shape of the rate is kept: every request is kept with one probability, or repeated as often (further copies are
    moved by a second or so, and take a neighbour's sizes, so that they make no bursts of their own). Sizes are capped.

    Raises:
        ValueError: the trace is empty or has no length.
    """
    if not requests:
        raise ValueError("the trace has no requests")
    start = requests[0].arrival_s
    span = requests[-1].arrival_s - start
    if span <= 0:
        raise ValueError("the trace has no length: all requests arrive at one instant")
    rng = random.Random(seed)
    scale = length_s / span
    squeezed = [replace(r, arrival_s=(r.arrival_s - start) * scale) for r in requests]
    factor = peak_per_s / _peak(squeezed, length_s)
    kept: list[TracedRequest] = []
    for index, request in enumerate(squeezed):
        copies = int(factor) + (rng.random() < factor - int(factor))
        for copy in range(copies):
            sizes, at = request, request.arrival_s
            if copy:
                neighbour = min(len(squeezed) - 1, max(0, index + rng.randint(-50, 50)))
                sizes, at = squeezed[neighbour], at + rng.gauss(0.0, _JITTER_S)
            kept.append(
                replace(
                    request,
                    arrival_s=min(max(at, 0.0), length_s),
                    prompt_tokens=min(max(sizes.prompt_tokens, 1), most_prompt_tokens),
                    output_tokens=min(max(sizes.output_tokens, 1), most_output_tokens),
                )
            )
    return sorted(kept, key=lambda r: r.arrival_s)


def _peak(requests: Sequence[TracedRequest], length_s: float) -> float:
    slots = [0] * _SLOTS
    for request in requests:
        slots[min(_SLOTS - 1, int(request.arrival_s / length_s * _SLOTS))] += 1
    return max(slots) / (length_s / _SLOTS)
