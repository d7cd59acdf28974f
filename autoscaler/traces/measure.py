"""The figures of a trace: how many, how long, how fast, how large. Counted while reading, so any length will do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoscaler.traces.request import TracedRequest

_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of a trace.

    Attributes:
        span_s: from the first request to the last.
        peak_per_s: of the fullest minute.
        p99_per_s: of the minute that 99% of all minutes do not exceed.
    """

    requests: int
    span_s: float
    mean_per_s: float
    p99_per_s: float
    peak_per_s: float
    prompt_mean: float
    prompt_p95: int
    output_mean: float
    output_p95: int
    models: tuple[str, ...]


def measure(requests: Iterable[TracedRequest]) -> Measured:
    """Count a trace.

    Raises:
        ValueError: it has no requests.
    """
    minutes: Counter[int] = Counter()
    prompts: Counter[int] = Counter()
    outputs: Counter[int] = Counter()
    models: set[str] = set()
    first = last = None
    for request in requests:
        first = request.arrival_s if first is None else first
        last = request.arrival_s
        minutes[int((last - first) / _MINUTE_S)] += 1
        prompts[request.prompt_tokens] += 1
        outputs[request.output_tokens] += 1
        if request.model is not None:
            models.add(request.model)
    if first is None or last is None:
        raise ValueError("the trace has no requests")
    span, total = last - first, minutes.total()
    # a trace of less than a minute has one minute, which is shorter
    per_minute = min(_MINUTE_S, span) or _MINUTE_S
    return Measured(
        requests=total,
        span_s=span,
        mean_per_s=total / span if span else 0.0,
        p99_per_s=_p99(minutes, int(span / _MINUTE_S) + 1) / per_minute,
        peak_per_s=max(minutes.values()) / per_minute,
        prompt_mean=_mean(prompts),
        prompt_p95=_p95(prompts),
        output_mean=_mean(outputs),
        output_p95=_p95(outputs),
        models=tuple(sorted(models)),
    )


def _mean(sizes: Mapping[int, int]) -> float:
    return sum(size * count for size, count in sizes.items()) / sum(sizes.values())


def _p95(sizes: Mapping[int, int]) -> int:
    below, wanted = 0, 0.95 * sum(sizes.values())
    for size in sorted(sizes):
        below += sizes[size]
        if below >= wanted:
            return size
    return max(sizes)


def _p99(minutes: Mapping[int, int], all_minutes: int) -> int:
    """Silent minutes count too, without being kept."""
    ordered = sorted(minutes.values())
    rank = int(0.99 * all_minutes) - (all_minutes - len(ordered))
    return ordered[min(rank, len(ordered) - 1)] if rank >= 0 else 0
