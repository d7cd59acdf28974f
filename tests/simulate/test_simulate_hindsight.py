"""What a run would have cost in hindsight, on its own servers and prices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscaler.simulate.hindsight import hindsight
from autoscaler.simulate.job import Aim
from autoscaler.simulate.world import simulate
from tests.simulate.world_parts import A40, L40S, job, market, steady

HOUR_S = 3600.0


def test_nothing_that_was_asked_costs_nothing() -> None:
    empty = job(length_s=HOUR_S)

    assert hindsight(empty, simulate(empty)) is None


def test_twice_the_traffic_costs_twice_as_much_by_parts_of_machines() -> None:
    found = []
    for per_s in (1.0, 2.0):
        asked = job(steady(per_s, HOUR_S))
        bound = hindsight(asked, simulate(asked))
        assert bound is not None
        found.append(bound)

    assert found[1].usd == pytest.approx(2 * found[0].usd, rel=0.2)  # levels are steps
    assert found[0].usd <= found[0].usd_whole


def test_a_run_costs_no_less_than_the_bound_on_the_type_whose_work_is_cheapest() -> None:
    asked = job(steady(2.0, HOUR_S), on=market(L40S, A40))
    result = simulate(asked)

    bound = hindsight(asked, result)

    assert bound is not None
    assert bound.type == L40S.key.type
    assert 0 < bound.usd <= float(result.cost.usd)
    assert bound.ratio(result) == pytest.approx(float(result.cost.usd) / bound.usd)


def test_a_goal_between_tokens_makes_the_work_dearer() -> None:
    loose = job(steady(2.0, HOUR_S))
    tight = replace(loose, aim=Aim(itl_s=0.025))
    result = simulate(loose)

    without, within = hindsight(loose, result), hindsight(tight, result)

    assert without is not None
    assert within is not None
    assert within.usd > without.usd
