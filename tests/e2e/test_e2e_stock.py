"""Offers that are not there and machines that die."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import World, seconds

pytestmark = pytest.mark.e2e


async def test_when_the_cheapest_is_sold_out_the_next_offer_is_rented_at_once(
    cloud: World, world: Build
) -> None:
    await cloud.fault("out_of_stock", count=1)
    there = await world(nodes={"min": 1, "max": 2})

    (node,) = await there.ready()

    refused, rented = await there.nodes()
    assert refused["state"] == "gone" or refused["failure"].startswith("stock")
    assert (rented["type"], rented["location"]) != (refused["type"], refused["location"])
    assert node["name"] == rented["name"]
    waited = seconds(rented["created_at"]) - seconds(refused["created_at"])
    assert waited < 5


async def test_the_plan_says_why_each_offer_is_passed_over(cloud: World, world: Build) -> None:
    await cloud.fault("out_of_stock", count=1)
    there = await world(nodes={"min": 1, "max": 2})
    await there.ready()
    refused, _ = await there.nodes()
    offer = f"{refused['type']}@{refused['location']}"

    assert (await there.command("pause", "chat", "--yes")).code == 0
    there.write_policy(nodes={"min": 2, "max": 3})

    async def passed_over() -> bool:
        plan = (await there.get("/api/v1/explain?model=chat"))["plan"]
        reasons = {one["offer"]: one["reason"] for one in plan["passed_over"]}
        return "stock" in reasons.get(offer, "")

    await there.until(passed_over, f"{offer} is passed over for want of stock")
    said = await there.command("plan", "chat")
    assert offer in said.out
    assert "passed over" in said.out
    assert len(await there.created_names()) == 2


async def test_what_is_said_to_be_out_of_stock_is_not_even_asked_for(
    cloud: World, world: Build
) -> None:
    await cloud.only_in_stock(a100=1)
    there = await world(nodes={"min": 1, "max": 2})

    (node,) = await there.ready()

    assert node["type"] == "a100.1x"
    assert len(await there.created_names()) == 1


async def test_a_machine_that_dies_under_load_is_replaced_and_only_its_own_requests_fail(
    cloud: World, world: Build
) -> None:
    await cloud.only_in_stock(l40s=4)
    there = await world(nodes={"min": 2, "max": 4})
    first, _ = await there.ready(2)
    tasks = await there.streams(6, tokens=250)

    await there.admin("POST", f"/vms/{first['name']}/kill")
    answers = await asyncio.gather(*tasks)
    after = [await there.ask() for _ in range(5)]

    cut = [answer for answer in answers if not answer.whole]
    assert cut
    assert {answer.node for answer in cut} == {first["name"]}
    assert all(answer.error for answer in cut), "a cut stream looked like a normal end"
    assert all(answer.whole for answer in after)
    assert first["name"] not in {answer.node for answer in after}
    died = await there.in_state(first["name"], "terminating", "gone")
    assert died["failure"]
    await there.ready(2)
    assert len(await there.created_names()) == 3


async def test_a_machine_that_a_person_deleted_is_closed_and_replaced(world: Build) -> None:
    there = await world(nodes={"min": 1, "max": 2})
    (node,) = await there.ready()

    await there.admin("POST", f"/vms/{node['name']}/vanish")

    closed = await there.in_state(node["name"], "gone")
    assert closed["failure"] or "vanish" in closed["reason"]
    (other,) = await there.ready()
    assert other["name"] != node["name"]
    assert (await there.ask()).whole
