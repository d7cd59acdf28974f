"""Figures of a backtest: shares of requests in time, quantiles, hours of GPUs, reversals."""

from __future__ import annotations

import math

import pytest

from autoscaler.domain.ids import NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.offer import OfferKey
from autoscaler.simulate.fleet import Rental
from autoscaler.simulate.job import Aim
from autoscaler.simulate.requests import Requests
from autoscaler.simulate.result import Result, Took


def result(
    requests: Requests | None = None,
    rentals: tuple[Rental, ...] = (),
    aim: Aim | None = None,
    busy_s: dict[NodeName, float] | None = None,
) -> Result:
    given = requests or Requests()
    return Result(
        model="m",
        aim=aim or Aim(),
        length_s=7200.0,
        requests=given,
        minutes=(),
        rentals=rentals,
        busy_s=busy_s or {},
        passes=0,
        refused=0,
        held=0,
        queued=0,
        lost={"cut": sum(given.lost)},
        took=Took(1.0, 0.0, 0.0, 0.0),
    )


def answered(*rows: tuple[float, float, float, int]) -> Requests:
    """(arrival, seconds to the first token, seconds between tokens, output tokens); NaN for a lost one."""
    requests = Requests()
    for index, (arrival_s, ttft_s, itl_s, tokens) in enumerate(rows):
        requests.add(arrival_s, 1000, tokens)
        if math.isnan(ttft_s):
            requests.lost[index] = 1
            continue
        requests.ttft_s[index] = ttft_s
        requests.ended_s[index] = arrival_s + ttft_s + itl_s * (tokens - 1)
    return requests


def test_a_lost_request_was_in_time_for_nothing() -> None:
    requests = answered(
        (0.0, 1.0, 0.02, 100),
        (1.0, 3.0, 0.02, 100),
        (2.0, 1.0, 0.09, 100),
        (3.0, math.nan, 0.0, 100),
        (4.0, 1.0, 0.0, 1),
    )
    found = result(requests, aim=Aim(ttft_s=2.0, itl_s=0.05)).attained

    assert (found.ttft, found.itl, found.both) == (3 / 5, 3 / 5, 2 / 5)
    paid = result(requests, (rental("a", 0.0, 1.0, None, 2.0),), Aim(ttft_s=2.0, itl_s=0.05))
    assert paid.usd_per_1000_requests == 1e3 / 5
    assert paid.usd_per_1000_attained == 1e3 / 2
    assert paid.usd_per_million_output_tokens == pytest.approx(1e6 / 301)
    assert paid.usd_per_million_tokens == pytest.approx(1e6 / 4301)
    assert found.worst_hour is None


def test_a_goal_may_grow_with_the_prompt() -> None:
    requests = answered((0.0, 2.2, 0.0, 1), (0.0, 2.3, 0.0, 1))

    assert (
        result(requests, aim=Aim(ttft_s=2.0, ttft_per_prompt_token_s=0.00025)).attained.ttft == 0.5
    )


def test_the_worst_hour_is_of_those_with_a_hundred_requests() -> None:
    rows = [(i * 30.0, 1.0 if i % 4 else 9.0, 0.0, 1) for i in range(120)]
    rows += [(3600.0 + i, 9.0, 0.0, 1) for i in range(99)]

    assert result(answered(*rows)).attained.worst_hour == 0.75


def test_nothing_came_and_nothing_is_late() -> None:
    empty = result()

    assert empty.attained.ttft == 1.0
    assert empty.usd_per_1000_requests is None
    assert empty.ttft_quantiles == {}
    assert empty.to_json()["requests"] == {
        "came": 0,
        "answered": 0,
        "held": 0,
        "queued": 0,
        "lost": {"cut": 0},
    }


def rental(name: str, *seconds: float | None, gpus: int = 2) -> Rental:
    ordered_s, ready_s, released_s, gone_s = seconds
    assert ordered_s is not None
    assert gone_s is not None
    return Rental(
        NodeName(name),
        OfferKey("l40s.2x", "here"),
        gpus,
        ordered_s,
        ready_s,
        released_s,
        released_s,
        gone_s,
        Money.of("1"),
        "",
    )


def test_every_gpu_hour_is_told_once() -> None:
    told = result(
        rentals=(
            rental("a", 0.0, 100.0, 1000.0, 1030.0),
            rental("b", 900.0, None, 950.0, 980.0),
            rental("c", 1700.0, None, None, 2000.0),
            rental("d", 1400.0, 1500.0, None, 2000.0),
        ),
        busy_s={NodeName("a"): 300.0, NodeName("d"): 9999.0},
    )
    hours, per_s = told.gpu_hours, 2 / 3600

    assert hours.serving == pytest.approx((300 + 500) * per_s)
    assert hours.idle == pytest.approx(600 * per_s)
    assert hours.boot == pytest.approx((100 + 100 + 300) * per_s)
    assert hours.leave == pytest.approx(30 * per_s)
    assert hours.wasted == pytest.approx(80 * per_s)
    assert hours.total == pytest.approx((1030 + 80 + 300 + 600) * per_s)
    assert (told.launches, told.releases, told.cancelled) == (4, 2, 1)
    assert told.reversals == 1, "d came 400 s after a was released; c 700 s"
