"""How nodes end: a drain waits, a vanished machine is proven gone, and a delete is asked for until it is true."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Inventory, PowerState
from autoscaler.domain.node import State
from autoscaler.errors import Forbidden, LeaseLost, Rejected
from tests.nodes.life_parts import (
    MODEL,
    NOON,
    Life,
    minutes,
    policy,
)
from tests.nodes.life_verbs import ready, release


async def test_a_drain_waits_for_the_last_request_however_long_it_runs(alive: Life) -> None:
    row = await ready(alive)
    alive.balancer.place(row.name, 1)
    await release(alive, row)
    await alive.steps(row.name, 5)
    alive.clock.move(3600 * 5)
    await alive.leases.renew_all()
    busy = await alive.steps(row.name, 5)
    machines = len(alive.cloud.vms)
    alive.balancer.place(row.name, 0)
    gone = await alive.until(row.name, State.GONE)

    assert busy.state is State.DRAINING
    assert machines == 1
    assert "cut" not in [kind for kind, _ in alive.balancer.told]
    assert gone.unregistered_at is not None


async def test_the_engine_alone_can_hold_a_drain(alive: Life) -> None:
    """After a reload HAProxy said zero in flight while its old process still streamed."""
    row = await ready(alive)
    await release(alive, row)
    alive.prober.running = 3
    alive.balancer.restart(forgets=True)

    busy = await alive.steps(row.name, 20)
    held = len(alive.cloud.vms)
    alive.prober.running = 0
    await alive.until(row.name, State.GONE)

    assert busy.state is State.DRAINING
    assert held == 1


async def test_a_balancers_old_process_holds_a_drain(alive: Life) -> None:
    row = await ready(alive)
    await release(alive, row)
    alive.balancer.restart(forgets=True)
    alive.balancer.old_processes = 1

    assert (await alive.steps(row.name, 20)).state is State.DRAINING
    assert len(alive.cloud.vms) == 1


async def test_an_engine_that_never_says_holds_a_drain_until_the_deadline_only(
    alive: Life,
) -> None:
    row = await ready(alive)
    alive.prober.running = None
    await release(alive, row)
    before = await alive.steps(row.name, 20)
    alive.clock.move(1800)
    await alive.leases.renew_all()

    assert before.state is State.DRAINING
    assert (await alive.until(row.name, State.GONE)).state is State.GONE


async def test_only_a_policy_that_says_cut_cuts_and_the_cut_is_told(alive: Life) -> None:
    alive.policies[MODEL] = policy(drain={"on_deadline": "cut", "deadline": "5m"})
    row = await ready(alive)
    alive.balancer.place(row.name, 2)
    await release(alive, row)

    await alive.until(row.name, State.GONE, most=400)

    assert ("cut", row.name) in alive.balancer.told
    events = await alive.store.events(node=row.name)
    cut = next(event for event in events if event.kind == "requests_cut")
    assert cut.at - NOON >= minutes(5)
    assert "2 requests in flight" in cut.cause


async def test_a_cut_is_told_once_although_a_balancer_that_is_away_is_told_again_and_again(
    alive: Life,
) -> None:
    alive.policies[MODEL] = policy(drain={"on_deadline": "cut", "deadline": "5m"})
    row = await ready(alive)
    alive.balancer.place(row.name, 2)
    await release(alive, row)
    await alive.steps(row.name, 3)

    alive.balancer.silent = True
    alive.clock.move(300)
    await alive.steps(row.name, 10)
    waiting = await alive.get(row.name)
    alive.balancer.silent = False
    await alive.until(row.name, State.TERMINATING)

    assert waiting.state is State.DRAINING
    events = await alive.store.events(node=row.name)
    assert [event.kind for event in events].count("requests_cut") == 1


async def test_a_node_taken_back_while_draining_serves_again_and_drains_anew(
    alive: Life,
) -> None:
    row = await ready(alive)
    draining = await release(alive, row)
    await alive.steps(row.name, 3)  # in flight was zero once
    draining = await alive.get(row.name)
    back = replace(draining, state=State.VERIFYING, since=alive.clock.now(), reason="demand")
    await alive.store.update(alive.leases.current(MODEL), draining, back)

    again = await alive.until(row.name, State.READY)
    alive.balancer.place(row.name, 1)
    await release(alive, again)

    assert alive.cloud.sent("create") == [row.name]
    assert (await alive.steps(row.name, 20)).state is State.DRAINING


async def test_a_machine_that_vanished_leaves_the_balancer_before_its_row_closes(
    alive: Life,
) -> None:
    row = await ready(alive)
    alive.cloud.vms.clear()
    await alive.until(row.name, State.FAILED)
    alive.balancer.silent = True

    waiting = await alive.steps(row.name, 60)
    alive.balancer.silent = False
    gone = await alive.until(row.name, State.GONE)

    assert waiting.state is State.TERMINATING
    assert gone.failure == "vanished: deleted by a person or by the provider"
    assert alive.balancer.servers == {}


async def test_one_flicker_of_the_listing_closes_no_row(alive: Life) -> None:
    row = await ready(alive)
    for _ in range(4):
        alive.cloud.hidden = True
        await alive.steps(row.name, 25)
        alive.cloud.hidden = False
        await alive.step(row.name)

    assert (await alive.get(row.name)).state is State.READY


async def test_a_get_that_finds_it_outweighs_any_number_of_listings(alive: Life) -> None:
    row = await ready(alive)
    alive.cloud.hidden = True

    still = await alive.steps(row.name, 100)
    alive.cloud.get_says_404 = True

    assert still.state is State.READY
    assert (await alive.steps(row.name, 3)).state is not State.READY


async def test_an_empty_listing_with_a_fleet_behind_it_is_believed_of_no_node(
    alive: Life,
) -> None:
    fleet = [await ready(alive, number) for number in range(4)]
    alive.cloud.hidden = alive.cloud.get_says_404 = True

    for row in fleet:
        assert (await alive.steps(row.name, 60)).state is State.READY

    alive.inventory.confirm_absent([row.name for row in fleet])
    assert (await alive.until(fleet[0].name, State.TERMINATING)).failure is not None


async def test_a_machine_that_stopped_is_replaced(alive: Life) -> None:
    row = await ready(alive)
    machine = alive.cloud.vms[MachineId(f"m-{row.name}")]
    alive.cloud.vms[machine.id] = replace(machine, power=PowerState.STOPPED, raw_state="STOPPED")

    gone = await alive.until(row.name, State.GONE)

    assert gone.failure == "power: the cloud says STOPPED"
    assert alive.cloud.vms == {}


@pytest.mark.parametrize("refusal", [Rejected("stop it first"), Forbidden("no role for this")])
async def test_a_refused_delete_stops_the_machine_and_asks_again(
    alive: Life, refusal: Rejected
) -> None:
    row = await ready(alive)
    alive.cloud.delete_raises = [refusal]
    await release(alive, row)

    await alive.until(row.name, State.GONE)

    sent = [kind for kind, _ in alive.cloud.calls]
    assert sent[1:4] == ["delete", "stop", "delete"]


async def test_a_delete_is_asked_for_ever_and_at_least_every_five_minutes(alive: Life) -> None:
    row = await ready(alive)
    alive.cloud.deletes_work = False
    await release(alive, row)
    await alive.until(row.name, State.TERMINATING)
    started, last = alive.clock.now(), 0
    longest = timedelta(0)
    sent_at = started
    while alive.clock.now() - started < timedelta(hours=2):
        await alive.step(row.name)
        alive.clock.move(58)
        await alive.leases.renew_all()
        count = len(alive.cloud.sent("delete"))
        if count > last:
            longest = max(longest, alive.clock.now() - sent_at)
            sent_at, last = alive.clock.now(), count

    assert (await alive.get(row.name)).state is State.TERMINATING
    assert longest <= minutes(6)
    assert last > 20
    alive.cloud.deletes_work = True
    assert (await alive.until(row.name, State.GONE, most=400)).deletes > 20


async def test_a_key_that_may_not_delete_is_tried_again_each_minute_until_it_may(
    alive: Life,
) -> None:
    """The alert on a refused key ends after a minute without a refusal."""
    row = await ready(alive)
    alive.cloud.delete_raises = [Forbidden("no role for this")] * 30
    await release(alive, row)
    await alive.until(row.name, State.TERMINATING)
    at = [alive.clock.now()]
    while alive.cloud.delete_raises:
        before = len(alive.cloud.delete_raises)
        await alive.step(row.name)
        if len(alive.cloud.delete_raises) < before:
            at.append(alive.clock.now())
        alive.clock.move(5)
        await alive.leases.renew_all()

    assert max(b - a for a, b in pairwise(at)) < minutes(1)
    assert at[-1] - at[0] > minutes(15)
    assert (await alive.get(row.name)).state is State.TERMINATING
    assert (await alive.until(row.name, State.GONE)).gone_at is not None


async def test_a_machine_stays_until_a_silent_balancer_says_that_it_forgot_it(
    alive: Life,
) -> None:
    """Its address may be a stranger's next: prompts would go there."""
    row = await ready(alive)
    alive.prober.ill = "no answer"
    failed = replace(
        row, state=State.FAILED, since=alive.clock.now(), reason="x", failure="condemned: x"
    )
    await alive.store.update(alive.leases.current(MODEL), row, failed)
    alive.balancer.silent = True

    await alive.steps(row.name, 30)
    before = alive.cloud.sent("delete")
    alive.balancer.silent = False
    await alive.until(row.name, State.GONE)

    assert before == []
    assert alive.balancer.servers == {}


async def test_a_daemon_that_slept_past_its_lease_sends_no_delete_any_more(alive: Life) -> None:
    alive.cloud.deletes_work = False
    row = await ready(alive)
    await release(alive, row)
    await alive.until(row.name, State.TERMINATING)
    asked = len(alive.cloud.sent("delete"))
    listed = alive.cloud.inventory

    async def after_a_sleep() -> Inventory:
        alive.clock.move(3600)
        return await listed()

    alive.clock.move(3600)
    await alive.leases.renew_all()
    alive.cloud.inventory = after_a_sleep  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        await alive.runner.step(await alive.get(row.name))

    assert len(alive.cloud.sent("delete")) == asked
