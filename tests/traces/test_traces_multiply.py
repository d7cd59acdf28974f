"""More of the same traffic, without bursts of its own making."""

from __future__ import annotations

import pytest

from autoscaler.traces.multiply import multiplied
from autoscaler.traces.request import TracedRequest

TRACE = [TracedRequest(10.0 * i, 100 + i, i) for i in range(500)]


def test_copies_are_moved_and_take_a_neighbours_sizes_and_the_originals_stay() -> None:
    more = multiplied(TRACE, 3.5, seed=1)

    assert len(more) == pytest.approx(3.5 * len(TRACE), rel=0.05)
    assert [r.arrival_s for r in more] == sorted(r.arrival_s for r in more)
    assert set(TRACE) <= set(more)
    copies = [r for r in more if r.arrival_s % 10 and 1000 < r.arrival_s < 4000]
    assert all(abs((r.prompt_tokens - 100) * 10 - r.arrival_s) < 50 * 10 + 200 for r in copies)
    assert len({r.arrival_s for r in copies}) == len(copies)


def test_the_same_seed_gives_the_same_trace_and_one_time_is_the_trace_itself() -> None:
    assert multiplied(TRACE, 2.5, seed=4) == multiplied(TRACE, 2.5, seed=4)
    assert multiplied(TRACE, 2.5, seed=4) != multiplied(TRACE, 2.5, seed=5)
    assert multiplied(TRACE, 1, seed=4) == TRACE


def test_a_part_of_one_thins_it() -> None:
    thinned = multiplied(TRACE, 0.3, seed=1)

    assert len(thinned) == pytest.approx(150, rel=0.2)
    assert set(thinned) <= set(TRACE)


@pytest.mark.parametrize("times", [0.0, -1.0])
def test_it_cannot_be_multiplied_by_nothing(times: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        multiplied(TRACE, times, seed=1)
