"""Whole lives, step by step, on a real store; who is condemned while it serves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from autoscaler.balance.protocol import ServerState
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import PowerState
from autoscaler.domain.node import Node, State
from autoscaler.errors import (
    NodeUnreachable,
)
from autoscaler.nodes.protocol import Coming
from tests.nodes.life_parts import (
    KEY,
    MODEL,
    Life,
    intent_id,
    node,
    policy,
)
from tests.nodes.life_verbs import kinds, ready, release


async def test_a_node_goes_its_whole_way_and_leaves_a_receipt(alive: Life) -> None:
    row = await ready(alive)
    up = dict(alive.balancer.servers)
    await release(alive, row)
    gone = await alive.until(row.name, State.GONE)

    assert up[row.name].state is ServerState.UP
    assert alive.cloud.vms == {}
    assert alive.balancer.servers == {}
    assert alive.disagreed == []
    assert alive.cloud.sent("create") == [row.name]
    assert await kinds(alive, row) == [
        "node_planned",
        "node_creating",
        "node_booting",
        "node_verifying",
        "node_ready",
        "node_terminating",
        "node_gone",
    ]
    receipt = (await alive.store.events(node=row.name))[-1].detail
    assert f"cost: {gone.cost}" in receipt
    assert gone.sent_at is not None
    assert gone.gone_at is not None
    assert gone.cost == gone.price_per_hour.for_time(gone.gone_at - gone.sent_at)
    assert len((await alive.store.boots(MODEL))[KEY]) == 1


async def test_a_balancer_that_forgot_a_ready_node_is_told_again(alive: Life) -> None:
    row = await ready(alive)
    alive.balancer.restart()

    still = await alive.steps(row.name, 2)

    assert still.state is State.READY
    assert alive.balancer.servers[row.name].state is ServerState.UP


async def test_a_balancer_that_lists_a_node_otherwise_than_recorded_is_told_of_each_time(
    alive: Life,
) -> None:
    row = await ready(alive)
    alive.clock.move(60)
    await alive.steps(row.name, 2)
    agreed = list(alive.disagreed)

    for _ in range(3):  # somebody else takes it out again and again
        alive.balancer.servers.clear()
        await alive.step(row.name)

    assert agreed == []
    assert alive.disagreed == [MODEL] * 3
    assert alive.balancer.servers[row.name].state is ServerState.UP


async def sicken(alive: Life, rows: list[Node]) -> None:
    """Both the daemon and the balancer find these nodes ill, for a minute."""
    alive.prober.ill = "no answer to GET /health"
    for row in rows:
        known = alive.balancer.servers[row.name]
        alive.balancer.servers[row.name] = replace(known, state=ServerState.DOWN)
    alive.pause_s = 8 / len(rows)
    for _ in range(8):
        for row in rows:
            await alive.step(row.name)
        alive.runner.judge()


async def test_two_witnesses_condemn_a_node(alive: Life) -> None:
    row = await ready(alive)

    await sicken(alive, [row])

    assert ((await alive.get(row.name)).failure or "").startswith(
        "condemned: no answer to GET /health; a balancer's check fails"
    )


async def test_a_daemon_that_slept_condemns_nobody_on_what_it_saw_before(alive: Life) -> None:
    row = await ready(alive)
    alive.prober.ill = "no answer"
    known = alive.balancer.servers[row.name]
    alive.balancer.servers[row.name] = replace(known, state=ServerState.DOWN)
    alive.pause_s = 11
    await alive.steps(row.name, 2)

    alive.clock.move(300)  # what may have changed since, nobody has looked at
    await alive.leases.renew_all()
    alive.runner.judge()
    await alive.step(row.name)
    alive.runner.judge()

    assert (await alive.step(row.name)).state is State.READY


async def test_what_was_held_against_a_node_before_it_drained_is_forgotten(alive: Life) -> None:
    row = await ready(alive)
    alive.prober.ill = "no answer"
    known = alive.balancer.servers[row.name]
    alive.balancer.servers[row.name] = replace(known, state=ServerState.DOWN)
    alive.pause_s = 11
    for _ in range(4):
        await alive.step(row.name)
    alive.runner.judge()  # condemned, and released by a pass before its next step
    draining = await release(alive, row)
    await alive.step(row.name)
    alive.prober.ill = None
    draining = await alive.get(row.name)
    back = replace(draining, state=State.VERIFYING, since=alive.clock.now(), reason="demand")
    await alive.store.update(alive.leases.current(MODEL), draining, back)

    assert (await alive.steps(row.name, 4)).state is State.READY


async def test_a_server_that_flaps_keeps_its_place_and_one_given_up_never_serves_again(
    alive: Life,
) -> None:
    row = await ready(alive)
    known = alive.balancer.servers[row.name]
    for is_down in (True, False) * 5:
        alive.prober.ill = "no answer to GET /health" if is_down else None
        state = ServerState.DOWN if is_down else ServerState.UP
        alive.balancer.servers[row.name] = replace(known, state=state)
        alive.pause_s = 10
        await alive.steps(row.name, 2)
        alive.runner.judge()
    flapping = await alive.get(row.name)

    await sicken(alive, [row])
    alive.prober.ill = None
    later = {(await alive.step(row.name)).state for _ in range(40)}

    assert flapping.state is State.READY
    assert State.GONE in later
    assert not later & {State.BOOTING, State.VERIFYING, State.READY}


async def test_a_state_that_nobody_knows_is_no_second_witness(alive: Life) -> None:
    row = await ready(alive)
    machine = alive.cloud.vms[MachineId(f"m-{row.name}")]
    alive.cloud.vms[machine.id] = replace(
        machine, power=PowerState.UNKNOWN, raw_state="FROBNICATING"
    )
    alive.prober.ill = "no answer"
    alive.pause_s = 10
    for _ in range(30):
        await alive.step(row.name)
        alive.runner.judge()

    assert (await alive.get(row.name)).state is State.READY


async def test_the_daemons_word_alone_condemns_nobody(alive: Life) -> None:
    row = await ready(alive)
    alive.prober.ill = "no answer to GET /health"
    alive.pause_s = 10
    for _ in range(30):
        await alive.step(row.name)
        alive.runner.judge()

    assert (await alive.get(row.name)).state is State.READY


async def test_most_of_a_fleet_failing_at_once_is_held_whatever_else_is_booting(
    alive: Life,
) -> None:
    serving = [await ready(alive, number) for number in range(4)]
    alive.prober.key = NodeUnreachable("not yet")
    booting = [await alive.add(node(intent=intent_id(number))) for number in range(10, 16)]
    for row in booting:
        await alive.until(row.name, State.BOOTING)
        await alive.step(row.name)

    await sicken(alive, serving)

    assert "4 of 4 nodes fail at once" in (alive.runner.held or "")
    assert {(await alive.get(row.name)).state for row in serving} == {State.READY}


async def test_a_jump_of_the_clock_fails_no_launch_and_cuts_no_drain(alive: Life) -> None:
    alive.policies[MODEL] = policy(drain={"on_deadline": "cut", "deadline": "5m"})
    serving = await ready(alive)
    alive.balancer.place(serving.name, 1)
    await release(alive, serving)
    alive.prober.verdict = Coming("pull")
    booting = await alive.add(node(intent=intent_id(1), since=alive.clock.now()))
    await alive.until(booting.name, State.VERIFYING)
    await alive.step(serving.name)

    alive.clock.jump(timedelta(hours=7))

    assert (await alive.step(booting.name)).state is State.VERIFYING
    assert (await alive.step(serving.name)).state is State.DRAINING
    assert alive.balancer.servers[serving.name].in_flight == 1
