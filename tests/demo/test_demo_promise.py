"""A run that does not show what its knobs promise is a failure, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoscaler.demo.load import Seen
from autoscaler.demo.promise import Kept, hold_against_promise
from autoscaler.demo.settings import DemoSettings
from autoscaler.demo.story import death_due_s
from autoscaler.traces.request import TracedRequest

FIRST, SECOND = "as1-demodemo-aaaa-1-demo", "as1-demodemo-bbbb-1-demo"
DIED_AT = 150.0
FULL = DemoSettings()


def node(name: str, offer_type: str, failure: str | None = None) -> dict[str, Any]:
    ready_at = None if failure else "2026-11-23T19:24:57+00:00"
    return {"name": name, "type": offer_type, "failure": failure, "ready_at": ready_at}


NODES = [
    node(FIRST, "l40s-48gb.1x"),
    node(SECOND, "a40.1x"),
    node("as1-demodemo-cccc-1-demo", "a100.1x", "stock: sold out"),
]


def request(name: str, sent_at: float, ended_at: float | None, **facts: Any) -> Seen:
    return Seen(sent_at, 1, 1, 200, name, sent_at, ended_at, complete=True, **facts)


SEEN = [request(SECOND, 145.0, 150.5), request(FIRST, 160.0, 161.0)]


def held(settings: DemoSettings = FULL, **facts: Any) -> Kept:
    given: dict[str, Any] = {"seen": SEEN, "nodes": NODES, "killed": {SECOND: DIED_AT}}
    return hold_against_promise(
        settings, **{**given, "cpu_share": 0.1, "wall_s": 130.0, **facts}
    )  # fmt: skip


def test_a_run_that_showed_the_whole_story_kept_its_promise() -> None:
    assert held() == Kept((), ())


def test_a_run_without_a_death_is_a_failure() -> None:
    (said,) = held(killed={}).broken

    assert "one machine that dies under load (0 were killed)" in said


def test_a_second_death_is_a_failure() -> None:
    seen = [*SEEN, request(FIRST, 149.0, 151.0)]

    (said,) = held(seen=seen, killed={SECOND: DIED_AT, FIRST: DIED_AT}).broken

    assert "(2 were killed)" in said


@pytest.mark.parametrize(
    "there",
    [
        pytest.param(request(SECOND, 140.0, 149.9), id="ended before"),
        pytest.param(request(SECOND, 150.1, 151.0), id="sent after"),
        pytest.param(request(FIRST, 145.0, 151.0), id="on another machine"),
    ],
)
def test_a_machine_that_died_idle_is_a_failure(there: Seen) -> None:
    (said,) = held(seen=[there, SEEN[1]]).broken

    assert "died without a request in flight" in said


def test_a_request_on_a_replica_of_the_dead_machine_was_on_it() -> None:
    assert held(seen=[request(f"{SECOND}.1", 145.0, 150.5), SEEN[1]]) == Kept((), ())


def test_a_fleet_that_answered_nobody_after_the_death_is_a_failure() -> None:
    (said,) = held(seen=SEEN[:1]).broken

    assert "a request answered after" in said


def test_a_run_without_a_stock_out_is_a_failure() -> None:
    (said,) = held(nodes=NODES[:2]).broken

    assert "an order that sold out" in said


def test_a_run_on_one_offer_type_is_a_failure_and_a_type_that_never_served_is_none() -> None:
    nodes = [node(FIRST, "a40.1x"), node(SECOND, "a40.1x"), NODES[2]]

    (said,) = held(nodes=nodes).broken

    assert said == "not shown: two offer types at work (served: a40.1x)"


SMALLER = [
    pytest.param(replace(FULL, traffic_s=30.0), id="shorter traffic"),
    pytest.param(replace(FULL, peak_per_s=6.0), id="a lower peak"),
    pytest.param(replace(FULL, time_factor=10.0), id="a slower cloud"),
    pytest.param(replace(FULL, trace=Path("my.csv")), id="a trace of one's own"),
]


@pytest.mark.parametrize("settings", SMALLER)
def test_a_run_that_promises_less_is_warned_of_what_is_missing(settings: DemoSettings) -> None:
    kept = held(settings, seen=[], nodes=[], killed={})

    assert kept.broken == ()
    assert len(kept.warnings) == 3


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(replace(FULL, faults=False), id="no faults"),
        pytest.param(replace(FULL, engine="llama.cpp"), id="a real engine"),
    ],
)
def test_a_run_that_has_no_story_is_asked_for_none(settings: DemoSettings) -> None:
    assert held(settings, seen=[], nodes=[], killed={}) == Kept((), ())


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(replace(FULL, traffic_s=300.0), id="longer traffic"),
        pytest.param(replace(FULL, peak_per_s=20.0), id="a higher peak"),
        pytest.param(replace(FULL, seed=7), id="another seed"),
    ],
)
def test_a_run_of_more_than_the_default_size_promises_the_story(settings: DemoSettings) -> None:
    assert len(held(settings, seen=[], nodes=[], killed={}).broken) == 3


def test_a_busy_host_is_a_warning_and_no_failure() -> None:
    kept = held(cpu_share=0.71)

    assert kept.broken == ()
    assert "71% of two cores" in kept.warnings[0]
    assert held(cpu_share=0.7).warnings == ()


def test_a_slow_host_is_a_warning_where_the_run_was_not_made_longer() -> None:
    assert "181 s" in held(wall_s=181.0).warnings[0]
    assert held(replace(FULL, traffic_s=300.0), wall_s=400.0).warnings == ()


@pytest.mark.parametrize(
    ("arrivals", "due_s"),
    [
        pytest.param([50.0, 51.0, 52.0, 80.0], 100 * 13 / 24, id="as the fullest part ends"),
        pytest.param([90.0, 91.0, 5.0], 62.0, id="not too late to see what follows"),
        pytest.param([0.0, 0.5, 99.0], 100 / 24, id="at the beginning"),
        pytest.param([], 100 / 24, id="no traffic at all"),
    ],
)
def test_the_machine_dies_when_the_traffic_was_at_its_fullest(
    arrivals: list[float], due_s: float
) -> None:
    requests = [TracedRequest(at, 1, 1) for at in arrivals]

    assert death_due_s(requests, 100.0) == pytest.approx(due_s)
