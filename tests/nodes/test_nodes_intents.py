"""Intents on their way to a create call: held back by ourselves, unwanted by now, refused for want of payment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoscaler.domain.machine import OperationState
from autoscaler.domain.money import ZERO
from autoscaler.domain.node import State
from autoscaler.errors import HeldBack, PaymentRequired
from tests.nodes.life_parts import (
    MODEL,
    NOON,
    TIMINGS,
    Life,
    life,
    node,
    open_store,
    policy,
    seconds,
)

NAME = node().name


@pytest.fixture
async def alive(tmp_path: Path) -> AsyncIterator[Life]:
    store = open_store(tmp_path)
    yield await life(store)
    await store.close()


async def test_a_create_that_our_own_pace_held_back_is_sent_later_under_its_name(
    alive: Life,
) -> None:
    alive.cloud.create_raises = [HeldBack("too many calls wait"), HeldBack("too many calls wait")]
    await alive.add(node())

    held = await alive.step(NAME)
    row = await alive.until(NAME, State.READY)

    assert held.state is State.PLANNED
    assert held.sent_at is None
    assert "nothing was sent" in held.reason
    assert row.failure is None
    assert await alive.store.backoffs() == ()
    assert list(alive.cloud.vms) == [row.machine_id]


async def test_an_intent_held_back_for_long_is_decided_anew(alive: Life) -> None:
    alive.cloud.create_raises = [HeldBack("too many calls wait")] * 100
    alive.pause_s = 15
    await alive.add(node())

    over = await alive.until(NAME, State.CANCELLED)

    assert (over.since - NOON).total_seconds() < 700
    assert "decided anew" in over.reason


@pytest.mark.parametrize("what", ["paused", "retired"])
async def test_an_intent_of_a_model_that_a_person_stopped_is_not_sent(
    alive: Life, what: str
) -> None:
    await alive.add(node())
    if what == "paused":
        await alive.store.set_paused(MODEL, "ada", NOON)
    else:
        await alive.store.set_retired(MODEL, "ada", NOON)

    over = await alive.step(NAME)

    assert over.state is State.CANCELLED
    assert f"ada {what} the model" in over.reason
    assert alive.cloud.sent("create") == []


async def test_an_intent_of_a_policy_that_only_watches_now_is_not_sent(alive: Life) -> None:
    await alive.add(node())
    alive.policies[MODEL] = policy(mode="shadow")

    assert (await alive.step(NAME)).state is State.CANCELLED
    assert alive.cloud.sent("create") == []


async def test_an_old_intent_found_after_a_stop_is_not_sent(alive: Life) -> None:
    await alive.add(node())
    alive.clock.move(3600)
    await alive.leases.renew_all()

    assert (await alive.step(NAME)).state is State.CANCELLED
    assert alive.cloud.sent("create") == []


async def test_want_of_payment_is_told_at_once(alive: Life) -> None:
    alive.cloud.create_raises = [PaymentRequired("402 no card")]
    await alive.add(node())

    await alive.step(NAME)

    assert alive.unpaid == ["402 no card"]


async def test_a_failed_operation_of_which_nothing_was_ever_seen_costs_nothing(
    alive: Life,
) -> None:
    await alive.add(node())
    await alive.step(NAME)
    operation = next(iter(alive.cloud.ops))
    alive.cloud.ops[operation] = alive.cloud.failed(operation, "out of capacity")
    alive.cloud.vms.clear()

    terminating = await alive.until(NAME, State.TERMINATING)
    gone = await alive.until(NAME, State.GONE)

    assert alive.cloud.ops[operation].state is OperationState.FAILED
    assert terminating.failure == "stock: out of capacity"
    assert gone.cost == ZERO
    assert (await alive.store.ledger(alive.clock.now())).spent_month() == ZERO


async def test_a_node_given_back_while_its_create_is_under_way_is_not_gone_before_it_settles(
    alive: Life,
) -> None:
    await alive.add(node())
    row = await alive.step(NAME)
    late = dict(alive.cloud.vms)
    alive.cloud.vms.clear()  # no listing shows it yet, and a GET says 404
    back = replace(row, state=State.TERMINATING, since=alive.clock.now(), reason="idle")
    await alive.store.update(alive.leases.current(MODEL), row, back)

    waiting = await alive.steps(NAME, 100)  # three minutes
    alive.cloud.vms.update(late)
    gone = await alive.until(NAME, State.GONE)

    assert waiting.state is State.TERMINATING
    assert alive.cloud.vms == {}
    assert gone.cost > ZERO


async def test_a_create_that_brings_nothing_is_gone_once_it_has_settled(alive: Life) -> None:
    await alive.add(node())
    row = await alive.step(NAME)
    alive.cloud.vms.clear()
    back = replace(row, state=State.TERMINATING, since=alive.clock.now(), reason="idle")
    await alive.store.update(alive.leases.current(MODEL), row, back)

    gone = await alive.until(NAME, State.GONE, 400)

    assert gone.since - NOON >= TIMINGS.settling_time
    assert gone.sent_at is not None
    assert gone.gone_at is not None
    assert gone.cost == gone.price_per_hour.for_time(gone.gone_at - gone.sent_at)  # it may have


async def test_a_failed_operation_whose_machine_was_seen_costs_what_it_ran(alive: Life) -> None:
    await alive.add(node())
    await alive.step(NAME)
    operation = next(iter(alive.cloud.ops))
    alive.cloud.ops[operation] = alive.cloud.failed(operation, "boom")
    machines = dict(alive.cloud.vms)
    alive.cloud.vms.clear()
    await alive.until(NAME, State.TERMINATING)
    alive.cloud.vms.update(machines)

    gone = await alive.until(NAME, State.GONE)

    assert gone.sent_at is not None
    assert gone.gone_at is not None
    assert gone.cost == gone.price_per_hour.for_time(gone.gone_at - gone.sent_at)
    assert seconds(0) < gone.since - gone.gone_at < TIMINGS.gone_after
