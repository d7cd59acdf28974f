"""How long until a model without a node has one: measured boots, what is left of one under way, or the prior."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from autoscaler.decide.readiness import Readiness, readiness
from autoscaler.domain.node import Node, State
from autoscaler.domain.offer import OfferKey
from autoscaler.policy import Policy
from tests.decide.conftest import NOON, node

A40, L40S = OfferKey("a40.1x", "eu"), OfferKey("l40s-48gb.1x", "eu")
BOOTS = {A40: tuple(100.0 + 10 * step for step in range(10))}  # 100 … 190 s


def booting(age_s: float, offer: OfferKey = A40) -> Node:
    return node(1, State.BOOTING, offer=offer, created_at=NOON - timedelta(seconds=age_s))


def seconds(likely: float, soonest: float, usual: float) -> Readiness:
    return Readiness(
        timedelta(seconds=likely), timedelta(seconds=soonest), timedelta(seconds=usual)
    )


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    return make_policy(scaling={"boot_prior": "300s"})


def test_without_a_node_under_way_it_is_a_whole_measured_boot(policy: Policy) -> None:
    assert readiness(policy, BOOTS, (), NOON) == seconds(180, 100, 140)


def test_without_a_measured_boot_it_is_the_prior(policy: Policy) -> None:
    assert readiness(policy, {}, (), NOON) == seconds(300, 150, 300)
    assert readiness(policy, {}, (booting(200),), NOON) == seconds(100, 0, 100)


def test_it_counts_down_as_the_boot_goes(policy: Policy) -> None:
    left = [readiness(policy, BOOTS, (booting(age),), NOON).likely for age in (0, 30, 60, 90)]

    assert left == [timedelta(seconds=s) for s in (180, 150, 120, 90)]


def test_a_boot_slower_than_most_is_judged_by_those_that_were_slower_still(policy: Policy) -> None:
    assert readiness(policy, BOOTS, (booting(165),), NOON) == seconds(25, 5, 15)


def test_a_boot_slower_than_all_measured_is_expected_to_take_a_quarter_more(policy: Policy) -> None:
    assert readiness(policy, BOOTS, (booting(400),), NOON) == seconds(100, 0, 100)


def test_the_node_that_will_be_first_counts_by_what_its_own_offer_takes(policy: Policy) -> None:
    boots = BOOTS | {L40S: (60.0,) * 10}

    assert readiness(policy, boots, (booting(0), booting(10, L40S)), NOON) == seconds(50, 50, 50)


def test_a_node_that_is_leaving_makes_nobody_ready(policy: Policy) -> None:
    leaving = node(1, State.DRAINING)

    assert readiness(policy, BOOTS, (leaving,), NOON) == seconds(180, 100, 140)
