"""What schedules of faults found, each as a test of its own."""

from __future__ import annotations

from dataclasses import replace

from autoscaler.domain.ids import OperationId
from autoscaler.domain.node import State
from autoscaler.nodes.facts import closed
from autoscaler.nodes.lifecycle import Rules, Sighting, next_step
from tests.nodes.life_parts import NOON, minutes, node, seconds

RULES = Rules({}, minutes(10))


def test_a_clock_that_was_set_back_earns_no_money() -> None:
    row = node(State.TERMINATING, booted_at=NOON)

    assert closed(row, NOON - minutes(120)).cost.usd == 0


def test_a_machine_that_no_listing_showed_is_billed_unless_the_cloud_refused_it() -> None:
    unseen = node(State.TERMINATING, failure="deadline: the create operation did not end in time")
    refused = replace(unseen, failure="stock: none left")

    assert closed(unseen, NOON + minutes(60)).cost == unseen.price_per_hour
    assert closed(refused, NOON + minutes(60)).cost.usd == 0


def test_an_operation_that_failed_proves_no_absence_before_the_settling_time() -> None:
    row = node(
        State.TERMINATING,
        operation_id=OperationId("op"),
        failure="create: create failed",
    )
    seen = Sighting(proven_absent=True, unregistered=True)

    assert next_step(row, seen, RULES, NOON + seconds(90)).state is State.TERMINATING
    assert next_step(row, seen, RULES, NOON + minutes(10)).state is State.GONE


def test_no_stock_frees_its_place_at_once() -> None:
    row = node(State.TERMINATING, operation_id=OperationId("op"), failure="stock: none left")

    step = next_step(row, Sighting(proven_absent=True, unregistered=True), RULES, NOON)

    assert step.state is State.GONE
