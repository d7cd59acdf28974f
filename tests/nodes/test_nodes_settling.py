"""How long an unanswered create is waited for: learned from launches that were answered, kept over restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import State
from autoscaler.errors import HeldBack, OutcomeUnknown
from autoscaler.nodes.settling import LagWatch, settling_time
from autoscaler.store.protocol import ListingLags
from autoscaler.timings import Timings
from tests.nodes.life_parts import (
    NOON,
    TIMINGS,
    Life,
    intent_id,
    life,
    listing,
    machine,
    node,
    open_store,
    seconds,
)

NAME = node().name
CALL = seconds(12)
LISTED = listing(machine(NAME))
EMPTY = listing()


@pytest.fixture
async def alive(tmp_path: Path) -> AsyncIterator[Life]:
    store = open_store(tmp_path)
    yield await life(store)
    await store.close()


async def measured(alive: Life, launches: int, largest_s: float) -> None:
    """What earlier launches taught."""
    for number in range(launches):
        await alive.store.add_listing_lag(NodeName(f"old-{number}"), largest_s, NOON)


@pytest.mark.parametrize(
    ("launches", "largest_s", "expected_s"),
    [
        (0, 0.0, 600),
        (49, 200.0, 600),
        (50, 2.0, 120),  # 12 + 3 × 2 = 18, and the least is 120
        (50, 36.0, 120),
        (50, 40.0, 132),
        (5000, 100.0, 312),
        (50, 296.0, 900),
        (50, 300.0, 900),
        (50, 1e12, 900),
    ],
)
def test_fifty_launches_replace_the_configured_time_by_three_largest_lags_and_the_call(
    launches: int, largest_s: float, expected_s: int
) -> None:
    assert settling_time(ListingLags(launches, largest_s), TIMINGS, CALL) == seconds(expected_s)


@given(
    lags=st.lists(st.floats(0, 1e6), min_size=2, max_size=2).map(sorted),
    launches=st.integers(50, 10**6),
)
def test_what_is_learned_grows_with_the_lag_and_stays_within_its_bounds(
    lags: list[float], launches: int
) -> None:
    shorter, longer = (settling_time(ListingLags(launches, lag), TIMINGS, CALL) for lag in lags)

    assert seconds(120) <= shorter <= longer <= seconds(900)


def test_bounds_in_the_wrong_order_are_refused_with_both_figures() -> None:
    with pytest.raises(ValidationError, match=r"settling_time_min: found 20m.*the most is 15m"):
        Timings.model_validate({"settling_time_min": "20m"})


def watch() -> LagWatch:
    made = LagWatch(seconds(120))
    made.sent(NAME, 1000.0)
    return made


def test_a_lag_runs_from_the_create_call_to_the_first_complete_listing_that_has_the_machine() -> (
    None
):
    seen = watch()
    partial = listing(machine(NAME), complete=False, why="a page is missing")

    assert seen.witness(EMPTY, 1010.0) == {}
    assert seen.witness(partial, 1020.0) == {}
    assert seen.witness(LISTED, 1030.0) == {NAME: 30.0}
    assert seen.witness(LISTED, 1032.0) == {}


def test_a_machine_in_a_listing_asked_for_before_its_create_call_took_no_time() -> None:
    assert watch().witness(LISTED, 999.0) == {NAME: 0.0}


def test_a_listing_is_taken_into_account_once() -> None:
    seen = watch()
    seen.witness(EMPTY, 1010.0)

    assert seen.witness(LISTED, 1010.0) == {}


def test_an_outage_of_the_cloud_is_no_lag() -> None:
    """What could not be read for ten minutes may have been listed at any moment of them."""
    seen = watch()
    seen.witness(EMPTY, 1010.0)

    assert seen.witness(LISTED, 1610.0) == {}
    assert seen.witness(LISTED, 1612.0) == {}


def test_a_launch_that_this_process_did_not_make_measures_nothing() -> None:
    assert LagWatch(seconds(120)).witness(LISTED, 1010.0) == {}


def test_what_is_not_listed_within_an_hour_is_watched_no_more() -> None:
    seen = watch()
    for minute in range(62):
        seen.witness(EMPTY, 1000.0 + 60 * minute)

    assert seen.witness(LISTED, 4722.0) == {}


async def test_each_launch_is_measured_once_and_remembered(alive: Life) -> None:
    alive.cloud.hidden = True  # its operation and a GET say that it exists, no listing does
    await alive.add(node())
    booting = await alive.steps(NAME, 10)
    alive.cloud.hidden = False
    await alive.until(NAME, State.READY)
    await alive.steps(NAME, 5)

    lags = await alive.store.listing_lags()

    assert booting.state is not State.CREATING
    assert lags.launches == 1
    assert lags.largest_s == 20.0


async def test_a_create_that_was_held_back_is_measured_from_the_call_that_was_made(
    alive: Life,
) -> None:
    alive.cloud.create_raises = [HeldBack("our own rate limit")]
    await alive.add(node())
    await alive.step(NAME)
    alive.cloud.add("another")
    alive.clock.move(90)
    await alive.leases.renew_all()

    await alive.until(NAME, State.READY)

    assert (await alive.store.listing_lags()).largest_s == 2.0


async def test_after_fifty_launches_an_unanswered_create_is_given_up_by_what_they_taught(
    alive: Life,
) -> None:
    await measured(alive, 49, largest_s=40.0)
    await alive.add(node())
    await alive.until(NAME, State.READY)
    alive.cloud.create_raises = [OutcomeUnknown("timeout")]
    alive.pause_s = 5
    sent = alive.clock.now()
    lost = await alive.add(node(intent=intent_id(1), since=sent, created_at=sent))

    lost = await alive.until(lost.name, State.LOST)

    assert alive.settling == [TIMINGS.settling_time, seconds(132)]
    assert seconds(132) <= lost.since - sent <= seconds(160)


async def test_a_restart_loses_nothing_of_what_was_learned(alive: Life) -> None:
    await measured(alive, 50, largest_s=100.0)
    await alive.add(node(State.CREATING, first_look_at=NOON))
    alive.clock.move(400)
    heir = await alive.heir()

    await heir.until(NAME, State.LOST)

    assert heir.settling == [seconds(312)]
    assert heir.cloud.sent("create") == []


async def test_a_machine_that_surfaces_after_it_was_written_off_lengthens_the_time(
    alive: Life,
) -> None:
    await measured(alive, 50, largest_s=2.0)
    alive.cloud.create_raises = [OutcomeUnknown("timeout")]
    alive.pause_s = 10
    await alive.add(node())
    await alive.until(NAME, State.LOST)
    written_off = alive.clock.now() - NOON
    alive.cloud.add(NAME)
    await alive.inventory.latest(timedelta(0))  # the sweep's

    await alive.runner.learn()

    assert alive.settling[0] == seconds(120)
    assert alive.settling[-1] == CALL + 3 * written_off
