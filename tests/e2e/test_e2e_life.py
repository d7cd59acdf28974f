"""A node's whole life: from a held request at zero to the receipt of a machine that is proven absent."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import MODEL, seconds

pytestmark = [pytest.mark.e2e, pytest.mark.started_anew]

LIFE = ["planned", "creating", "booting", "verifying", "ready", "draining", "terminating", "gone"]


async def test_a_request_at_zero_is_held_until_a_rented_machine_answers_it(world: Build) -> None:
    there = await world()
    assert await there.created_names() == []

    answer = await there.ask(stream=True)

    assert answer.whole, (answer, there.logs())
    assert answer.headers["x-autoscaler-cold-start"]
    assert len(await there.created_names()) == 1
    (node,) = await there.nodes()
    assert answer.node == node["name"]
    assert seconds(node["verified_at"]) < answer.ended_at


async def test_an_idle_node_is_given_back_and_its_story_is_whole(world: Build) -> None:
    there = await world()
    await there.ask()
    (node,) = await there.ready()

    await there.is_empty()

    events = await there.events(node=node["name"])
    assert [e["state"] for e in events if e["kind"].startswith("node_")] == LIFE
    receipt = events[-1]["detail"]
    assert "left balancers: 2" in receipt
    assert "cost: $" in receipt or "cost: 0" in receipt
    assert all(event["cause"] and event["actor"] for event in events)
    assert await there.machines() == []
    last = next(n for n in await there.nodes() if n["name"] == node["name"])
    assert float(last["cost_usd"]) > 0


async def test_no_node_gets_a_clients_request_before_it_was_verified(world: Build) -> None:
    there = await world(nodes={"min": 0, "max": 3})

    answers = await asyncio.gather(*(there.ask("chat", tokens=40) for _ in range(30)))

    assert all(answer.whole for answer in answers), there.logs()
    verified = {n["name"]: n["verified_at"] for n in await there.nodes()}
    for answer in answers:
        assert seconds(verified[answer.node]) < answer.ended_at
    assert MODEL in (await there.model())["model"]
