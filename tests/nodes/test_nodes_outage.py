"""What goes on while the cloud is away or slow: one call for all askers, and balancers that are told all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from autoscaler.balance.protocol import ServerState
from autoscaler.domain.ids import MachineId, NodeName
from autoscaler.domain.machine import Inventory
from autoscaler.domain.node import Node, State
from autoscaler.errors import CloudUnavailable
from autoscaler.nodes.listing import InventoryFeed
from tests.nodes.life_parts import (
    MODEL,
    AirCloud,
    HandClock,
    Life,
    intent_id,
    life,
    machine,
    node,
    open_store,
    seconds,
)


@pytest.fixture
async def alive(tmp_path: Path) -> AsyncIterator[Life]:
    store = open_store(tmp_path)
    yield await life(store)
    await store.close()


async def ready(alive: Life, number: int = 0) -> Node:
    row = await alive.add(node(intent=intent_id(number)))
    return await alive.until(row.name, State.READY)


@dataclass
class SlowCloud(AirCloud):
    """Lists when told to."""

    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    listings: int = 0

    async def inventory(self) -> Inventory:
        self.listings += 1
        self.is_asked.set()
        await self.may_answer.wait()
        return await super().inventory()


async def test_all_askers_share_one_call_and_its_failure() -> None:
    clock = HandClock()
    cloud = SlowCloud(clock, unreadable=CloudUnavailable("502"))
    feed = InventoryFeed(cloud, clock)
    async with asyncio.TaskGroup() as tasks:
        feed.use(tasks)
        askers = [asyncio.ensure_future(feed.latest(seconds(2))) for _ in range(5)]
        await cloud.is_asked.wait()
        cloud.may_answer.set()
        outcomes = await asyncio.gather(*askers, return_exceptions=True)

        with pytest.raises(CloudUnavailable, match="502"):
            await feed.latest(seconds(2))

    assert [str(outcome) for outcome in outcomes] == ["502"] * 5
    assert cloud.listings == 1
    assert feed.is_failing


async def test_an_asker_that_cannot_wait_gets_what_is_known_while_the_call_goes_on() -> None:
    clock = HandClock()
    cloud = SlowCloud(clock, {MachineId("m"): machine(id_="m")})
    feed = InventoryFeed(cloud, clock)
    async with asyncio.TaskGroup() as tasks:
        feed.use(tasks)
        with pytest.raises(CloudUnavailable, match="takes long"):
            await feed.latest(seconds(2), timedelta(0))
        slow_at_first = feed.is_failing
        clock.move(6)
        slow = feed.is_failing
        cloud.may_answer.set()
        first = await feed.latest(seconds(2), seconds(5))
        clock.move(10)
        cloud.may_answer.clear()
        known = await feed.latest(seconds(2), timedelta(0))
        cloud.may_answer.set()

    assert (slow_at_first, slow) == (False, True)
    assert known is first
    assert cloud.listings == 2


async def test_a_balancer_that_forgot_a_node_is_told_while_the_cloud_hangs(tmp_path: Path) -> None:
    store, clock = open_store(tmp_path), HandClock()
    cloud = SlowCloud(clock)
    cloud.may_answer.set()
    alive = await life(store, clock, cloud)
    row = await ready(alive)
    cloud.unreadable = CloudUnavailable("502")
    await alive.step(row.name)
    cloud.may_answer.clear()
    alive.balancer.restart()

    async with asyncio.TaskGroup() as tasks:
        alive.inventory.use(tasks)
        with pytest.raises(CloudUnavailable):
            await alive.inventory.latest(timedelta(0), timedelta(0))
        await alive.steps(row.name, 2)
        hung = alive.inventory.is_failing
        cloud.may_answer.set()
    await store.close()

    assert hung
    assert alive.balancer.servers[row.name].state is ServerState.UP


@pytest.mark.parametrize("reached", [False, True])
async def test_a_glitch_of_our_own_network_ends_no_small_fleet(alive: Life, reached: bool) -> None:
    rows = [await ready(alive, number) for number in range(3)]
    alive.prober.ill, alive.prober.reached = "no route to host", reached
    for row in rows:
        known = alive.balancer.servers[row.name]
        alive.balancer.servers[row.name] = replace(known, state=ServerState.DOWN)
    for _ in range(20):
        for row in rows:
            await alive.step(row.name)
        alive.runner.judge()

    states = {(await alive.get(row.name)).state for row in rows}

    assert (states == {State.READY}) is not reached
    assert (State.READY in states) is not reached
    assert reached or "it is us or the network" in (alive.runner.held or "")


# a sick GPU


async def test_a_ready_node_whose_own_gpus_are_sick_is_drained_and_not_cut_off(
    alive: Life,
) -> None:
    row = await ready(alive)
    alive.balancer.place(row.name, 1)
    alive.prober.sick_gpus[row.name] = "gpus: 1 of 2 found"
    alive.pause_s = 11

    draining = await alive.until(row.name, State.DRAINING)
    busy = await alive.steps(row.name, 10)
    alive.balancer.place(row.name, 0)
    gone = await alive.until(row.name, State.GONE)

    assert draining.reason == "gpu: gpus: 1 of 2 found"
    assert busy.state is State.DRAINING
    assert gone.failure is None
    assert "cut" not in [what for what, _ in alive.balancer.told]


async def test_sick_nodes_are_drained_one_after_another(alive: Life) -> None:
    """Should our check be what is wrong, after an upgrade of drivers say, the fleet stands."""
    rows = [await ready(alive, number) for number in range(3)]
    alive.prober.sick_gpus |= {NodeName(row.name): "gpus: 1 of 2 found" for row in rows}
    for row in rows:
        alive.balancer.place(row.name, 1)
    alive.pause_s = 4

    for _ in range(10):
        for row in rows:
            await alive.step(row.name)

    states = [(await alive.get(row.name)).state for row in rows]
    assert sorted(states) == [State.DRAINING, State.READY, State.READY]
    assert {n.model for n in await alive.store.nodes()} == {MODEL}
