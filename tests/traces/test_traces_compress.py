"""A day becomes two minutes with the shape it had: on the recorded traces in $TRACES, else on generated ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.traces.compress import compress
from autoscaler.traces.generator import Traffic, generate
from autoscaler.traces.reader import read_trace
from autoscaler.traces.request import TracedRequest

LENGTH_S, PEAK_PER_S, SLOTS = 100.0, 12.0, 20


def recorded() -> list[Path]:
    folder = os.environ.get("TRACES")
    return sorted(Path(folder).glob("*.csv*")) if folder else []


SOURCES: list[Path | int] = [*recorded()] or [1, 2, 3]


@pytest.fixture(params=SOURCES, ids=str, scope="module")
def source(request: pytest.FixtureRequest) -> list[TracedRequest]:
    if isinstance(request.param, Path):
        return read_trace(request.param)
    return list(generate(Traffic(), request.param))


def squeezed(
    source: Sequence[TracedRequest], peak_per_s: float = PEAK_PER_S
) -> list[TracedRequest]:
    return compress(
        source, LENGTH_S, peak_per_s, 1, most_prompt_tokens=4000, most_output_tokens=400
    )


def rates(requests: Sequence[TracedRequest], length_s: float) -> list[float]:
    counts = [0] * SLOTS
    for request in requests:
        counts[min(SLOTS - 1, int(request.arrival_s / length_s * SLOTS))] += 1
    return [count / (length_s / SLOTS) for count in counts]


def test_the_run_is_as_long_and_as_full_as_was_asked_for(source: list[TracedRequest]) -> None:
    found = squeezed(source)

    arrivals = [r.arrival_s for r in found]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] >= 0.0
    assert 0.8 * LENGTH_S < arrivals[-1] <= LENGTH_S
    assert 0.7 * PEAK_PER_S < max(rates(found, LENGTH_S)) < 1.4 * PEAK_PER_S


def test_the_rate_keeps_its_shape(source: list[TracedRequest]) -> None:
    start = source[0].arrival_s
    whole = rates(
        [TracedRequest(r.arrival_s - start, 1, 1) for r in source],
        source[-1].arrival_s - start,
    )

    part = rates(squeezed(source), LENGTH_S)

    # as distributions over time: half of what would have to move to make one the other
    apart = [abs(a / sum(whole) - b / sum(part)) for a, b in zip(whole, part, strict=True)]
    assert sum(apart) / 2 < 0.12


def test_sizes_are_those_of_the_trace_up_to_the_cap(source: list[TracedRequest]) -> None:
    found = squeezed(source)

    assert all(1 <= r.prompt_tokens <= 4000 and 1 <= r.output_tokens <= 400 for r in found)
    before = sum(min(r.prompt_tokens, 4000) for r in source) / len(source)
    after = sum(r.prompt_tokens for r in found) / len(found)
    assert 0.7 * before < after < 1.3 * before


def test_a_thin_trace_is_multiplied_without_bursts_of_copies() -> None:
    thin = [TracedRequest(float(n), n, n) for n in range(200)]

    found = squeezed(thin, peak_per_s=40.0)

    assert 3200 < len(found) < 4800
    assert len({r.arrival_s for r in found}) > 0.95 * len(found)


def test_the_same_seed_gives_the_same_run() -> None:
    source = list(generate(Traffic(mean_per_s=0.05), 1))

    assert squeezed(source) == squeezed(source)


@pytest.mark.parametrize("source", [[], [TracedRequest(3.0, 1, 1)], [TracedRequest(3.0, 1, 1)] * 5])
def test_a_trace_without_length_is_refused(source: list[TracedRequest]) -> None:
    with pytest.raises(ValueError, match="the trace has no"):
        squeezed(source)


@given(
    arrivals=st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=2, max_size=60),
    peak=st.floats(0.5, 50),
)
@settings(max_examples=60, deadline=None)
def test_any_trace_with_a_length_stays_within_its_bounds(
    arrivals: list[float], peak: float
) -> None:
    arrivals.sort()
    if arrivals[-1] - arrivals[0] < 1e-3:
        arrivals[-1] = arrivals[0] + 1.0

    found = squeezed([TracedRequest(at, 0, 10**6) for at in arrivals], peak)

    assert all(0.0 <= r.arrival_s <= LENGTH_S for r in found)
    assert len(found) <= peak * LENGTH_S * 1.5 + len(arrivals)


def test_a_generated_day_has_a_night_a_noon_and_bursts() -> None:
    day = list(generate(Traffic(), 1))

    hourly = [0] * 24
    for request in day:
        hourly[int(request.arrival_s // 3600)] += 1

    assert sum(hourly[0:4]) < 0.2 * sum(hourly[11:15])
    assert max(hourly) > 1.5 * sum(hourly) / 24
