"""The clairvoyant bounds, against a search through all plans and against each other."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.simulate.bound import SLOT_S, Start, demand, relaxed, strict

HOUR = 3600 / SLOT_S  # slots
DEMANDS = st.lists(st.floats(0, 3).map(lambda x: round(x, 3)), min_size=1, max_size=12)
STARTS = st.floats(0, 6).map(Start)


def by_search(demanded: list[float], start: Start) -> float:
    """The cheapest whole plan in replica-hours, by trying all."""
    most = int(max(demanded)) + 1

    @cache
    def cheapest(slot: int, stood: int) -> float:
        if slot == len(demanded):
            return 0.0
        return min(
            n + start.slots * max(0, n - stood) + cheapest(slot + 1, n)
            for n in range(most + 1)
            if n >= demanded[slot]
        )

    return cheapest(0, 0) / HOUR


@settings(max_examples=60, deadline=None)
@given(DEMANDS, STARTS)
def test_whole_replicas_cost_what_the_best_of_all_plans_costs(
    demanded: list[float], start: Start
) -> None:
    assert strict(demanded, start, whole=True) == pytest.approx(by_search(demanded, start))


@settings(max_examples=40, deadline=None)
@given(DEMANDS, STARTS)
def test_parts_of_replicas_cost_what_the_linear_program_says_and_never_more(
    demanded: list[float], start: Start
) -> None:
    exact = relaxed(demanded, start, late_slots=0)

    found = strict(demanded, start)

    level = 0.02 * (len(demanded) + start.slots) / HOUR  # one level all the way
    assert exact - level - 1e-6 <= found <= exact + 1e-6
    assert found <= strict(demanded, start, whole=True) + 1e-6


@settings(max_examples=25, deadline=None)
@given(DEMANDS, STARTS)
def test_a_bound_falls_when_less_must_be_in_time_or_later_counts(
    demanded: list[float], start: Start
) -> None:
    all_at_once = relaxed(demanded, start, late_slots=0)
    all_later = relaxed(demanded, start, late_slots=2)
    most_later = relaxed(demanded, start, attained=0.9, late_slots=2)

    assert most_later <= all_later + 1e-6 <= all_at_once + 2e-6


def test_a_gap_is_bridged_where_that_is_cheaper_than_a_start() -> None:
    short, long = [1.0, 0.0, 0.0, 1.0], [1.0, *[0.0] * 9, 1.0]

    assert strict(short, Start(3), whole=True) * HOUR == pytest.approx(4 + 3)
    assert strict(long, Start(3), whole=True) * HOUR == pytest.approx(2 + 3 + 3)


def test_work_counts_in_the_slot_that_it_arrives_in() -> None:
    found = demand([(0.0, 30.0), (59.9, 30.0), (60.0, 6.0), (500.0, 6.0)], 180)

    assert found == pytest.approx([1.0, 0.1, 0.1])


def test_no_demand_costs_nothing() -> None:
    assert strict([0.0, 0.0], Start(3)) == strict([], Start(3)) == 0
    assert relaxed([0.0, 0.0], Start(3)) == relaxed([], Start(3)) == 0
