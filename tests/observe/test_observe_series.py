"""Counters over restarts, gaps, vanished and new instances."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.observe.series import SeriesKey, Tracker

DONE = SeriesKey("done")


def tracker(**changes: float) -> Tracker:
    return Tracker(**{"depth_s": 1200.0, "grain_s": 5.0, "max_gap_s": 45.0} | changes)


def grown(tracked: Tracker, now_s: float, length_s: float = 60.0) -> float:
    return tracked.window(length_s, now_s).increase("done")


def test_the_first_reading_is_a_baseline_and_not_traffic() -> None:
    tracked = tracker()

    tracked.observe("a", {DONE: 9000.0}, 0.0)

    assert tracked.window(60, 0.0).trouble is not None
    assert grown(tracked, 0.0) == 0


def test_growth_of_all_instances_is_added_up() -> None:
    tracked = tracker()

    for at_s in (0.0, 15.0, 30.0, 45.0, 60.0):
        tracked.observe("a", {DONE: 100 + at_s}, at_s)
        tracked.observe("b", {DONE: 500 + 2 * at_s}, at_s)

    window = tracked.window(60, 60.0)
    assert window.trouble is None
    assert not window.is_partial
    assert window.increase("done") == 180


def test_a_counter_that_fell_began_again_at_zero() -> None:
    tracked = tracker()

    tracked.observe("a", {DONE: 100.0}, 0.0)
    tracked.observe("a", {DONE: 110.0}, 15.0)
    tracked.observe("a", {DONE: 4.0}, 30.0)

    assert grown(tracked, 30.0) == 14


def test_a_restart_that_outgrew_the_old_value_is_told_by_the_start_time() -> None:
    tracked = tracker()

    tracked.observe("a", {DONE: 100.0}, 0.0, start_mark=1.0)
    tracked.observe("a", {DONE: 130.0}, 15.0, start_mark=2.0)

    assert grown(tracked, 15.0) == 130


def test_a_label_that_appears_later_began_at_zero() -> None:
    tracked = tracker()
    stop = SeriesKey("done", labels=(("reason", "stop"),))
    length = SeriesKey("done", labels=(("reason", "length"),))

    tracked.observe("a", {stop: 50.0}, 0.0)
    tracked.observe("a", {stop: 51.0, length: 3.0}, 15.0)

    assert grown(tracked, 15.0) == 4


def test_repeated_ranks_count_once_and_parts_add_up() -> None:
    tracked = tracker()

    def page(value: float) -> dict[SeriesKey, float]:
        return {
            SeriesKey("done", labels=(("engine", str(e)),), rank=(("tp_rank", str(r)),)): value
            for e in range(2)
            for r in range(4)
        }

    tracked.observe("a", page(10.0), 0.0)
    tracked.observe("a", page(13.0), 15.0)

    assert grown(tracked, 15.0) == 6


def test_a_silence_is_not_bridged_and_makes_the_figure_missing() -> None:
    tracked = tracker()

    tracked.observe("a", {DONE: 0.0}, 0.0)
    tracked.observe("a", {DONE: 10.0}, 15.0)
    tracked.observe("a", {DONE: 5000.0}, 120.0)

    window = tracked.window(60, 120.0)
    assert window.increase("done") == 0
    assert window.trouble is not None


def test_after_a_long_outage_a_rate_is_missing_until_the_window_is_seen_again() -> None:
    tracked = tracker(depth_s=300.0)
    tracked.observe("a", {DONE: 0.0}, 0.0)
    tracked.observe("a", {DONE: 10.0}, 15.0)

    troubles = []
    for at_s in (1000.0, 1015.0, 1030.0, 1045.0, 1060.0):
        tracked.observe("a", {DONE: at_s}, at_s)
        troubles.append(tracked.window(60, at_s).trouble is not None)

    assert troubles == [True, True, True, True, False]
    assert grown(tracked, 1060.0) == 60


def test_the_same_page_twice_counts_once() -> None:
    tracked = tracker()

    for value in (100.0, 100.0, 110.0, 110.0):
        tracked.observe("a", {DONE: value}, 0.0 if value == 100 else 15.0)

    assert grown(tracked, 15.0) == 10


def test_an_answer_that_was_overtaken_changes_nothing() -> None:
    tracked = tracker()

    tracked.observe("a", {DONE: 100.0}, 0.0)
    tracked.observe("a", {DONE: 110.0}, 15.0)
    tracked.observe("a", {DONE: 109.0}, 14.0)
    tracked.observe("a", {DONE: 120.0}, 30.0)

    assert grown(tracked, 30.0) == 20


def test_an_instance_that_started_inside_the_window_began_at_zero() -> None:
    tracked = tracker()

    for at_s in (0.0, 15.0, 30.0, 45.0):
        tracked.observe("a", {DONE: 7.0}, at_s)
    tracked.observe("b", {DONE: 20.0}, 45.0, uptime_s=10.0)

    window = tracked.window(60, 45.0)
    assert window.increase("done") == pytest.approx(20)
    assert window.coverage == pytest.approx(1.0)


def test_an_old_instance_seen_for_the_first_time_gives_no_rate_of_its_own_life() -> None:
    tracked = tracker()

    for at_s in (0.0, 15.0, 30.0, 45.0):
        tracked.observe("a", {DONE: at_s}, at_s)
    tracked.observe("b", {DONE: 1e6}, 45.0, uptime_s=86400.0)

    assert tracked.window(60, 45.0).trouble is not None


def test_what_a_vanished_instance_did_stays_until_it_ages_out() -> None:
    tracked = tracker()
    for at_s in range(0, 61, 15):
        tracked.observe("a", {DONE: float(at_s)}, float(at_s))
        tracked.observe("b", {DONE: 0.0}, float(at_s))

    seen = []
    for at_s in range(75, 181, 15):
        tracked.observe("b", {DONE: 0.0}, float(at_s))
        seen.append(round(tracked.window(60, float(at_s)).increase("done")))

    # until it counts as vanished (45 s of silence) its share is scaled; then it fades, second by second
    assert seen[-1] == 0
    assert seen[0] > 40


def test_an_instance_that_was_removed_costs_no_coverage() -> None:
    tracked = tracker()
    for at_s in range(0, 61, 15):
        tracked.observe("a", {DONE: float(at_s)}, float(at_s))
        tracked.observe("b", {DONE: float(at_s)}, float(at_s))

    tracked.retire_all_but({"b"})
    tracked.observe("b", {DONE: 75.0}, 75.0)

    window = tracked.window(60, 75.0)
    assert window.coverage == pytest.approx(1.0)
    assert window.increase("done") == pytest.approx(60 + 45)


def test_a_clock_set_back_starts_afresh() -> None:
    tracked = tracker()

    tracked.observe("a", {DONE: 10.0}, 5000.0)
    tracked.observe("a", {DONE: 20.0}, 100.0)
    tracked.observe("a", {DONE: 25.0}, 115.0)

    assert grown(tracked, 115.0) == 5


def test_histograms_of_two_versions_are_added_over_the_edges_they_share() -> None:
    tracked = tracker()

    def buckets(edges: tuple[float, ...], value: float) -> dict[SeriesKey, float]:
        return {SeriesKey("ttft", edge): value for edge in edges}

    for at_s, value in ((0.0, 0.0), (15.0, 4.0)):
        tracked.observe("old", buckets((0.1, 1.0, math.inf), value), at_s)
        tracked.observe("new", buckets((0.1, 0.5, 1.0, math.inf), value), at_s)

    assert tracked.window(60, 15.0).histogram("ttft") == {0.1: 8, 1.0: 8, math.inf: 8}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.booleans()),  # requests since the last scrape, restart?
        min_size=4,
        max_size=40,
    )
)
def test_growth_is_never_negative_nor_more_than_what_happened(
    steps: list[tuple[int, bool]],
) -> None:
    tracked = tracker()
    counter, happened, boot = 1000, 0, 1
    tracked.observe("a", {DONE: float(counter)}, 0.0, start_mark=float(boot))

    for number, (came, has_restarted) in enumerate(steps, start=1):
        if has_restarted:
            counter, boot = 0, boot + 1
        counter += came
        happened += came
        tracked.observe("a", {DONE: float(counter)}, number * 15.0, start_mark=float(boot))

    now_s = len(steps) * 15.0
    assert tracked.window(1e6, now_s).increase("done") == pytest.approx(happened)
    assert 0 <= grown(tracked, now_s) <= happened + 1e-9
