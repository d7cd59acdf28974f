"""A model in shadow: it rents nothing, and its story on paper goes on from pass to pass."""

from __future__ import annotations

from datetime import timedelta

import pytest

from autoscaler.act import hourly
from autoscaler.config import LimitSettings
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import Money
from autoscaler.domain.node import Node, State
from autoscaler.serve.views import marked
from autoscaler.shadow import Shadow
from autoscaler.store.protocol import Promotion
from tests.core.desk import CHAT, Desk, policy
from tests.nodes.life_parts import NOON, minutes


@pytest.fixture
def shadow(desk: Desk) -> Desk:
    desk.policy = policy(mode="shadow")
    return desk


async def on_paper(desk: Desk) -> Shadow:
    return Shadow.from_json((await desk.store.record(CHAT)).shadow)


async def test_it_rents_on_paper_once_and_not_anew_in_each_pass(shadow: Desk) -> None:
    shadow.policy = policy(mode="shadow", nodes={"min": 2, "max": 4})
    shadow.feed.arrivals = 2.0

    await shadow.passes(minutes(20))
    found = await on_paper(shadow)

    assert await shadow.fleet() == ()
    assert found.launches == len(found.nodes) == found.peak > 0
    assert {node.state for node in found.nodes} == {State.READY}
    assert found.decisions > 70


async def test_what_it_would_have_cost_adds_up(shadow: Desk) -> None:
    shadow.policy = policy(mode="shadow", nodes={"min": 2, "max": 4})
    shadow.feed.arrivals = 2.0
    await shadow.passes(minutes(1))
    before, rate = await on_paper(shadow), hourly(shadow_nodes(shadow))

    await shadow.passes(minutes(60))
    after = await on_paper(shadow)

    assert after.launches == before.launches
    spent = after.cost(shadow.clock.now()) - before.cost(shadow.clock.now() - timedelta(hours=1))
    assert str(spent) == str(rate) == "$2.50"


def shadow_nodes(desk: Desk) -> tuple[Node, ...]:
    found = desk.reconciler.last[CHAT].shadow
    assert found is not None
    return found.nodes


async def test_it_gives_back_on_paper_and_the_cost_stays(shadow: Desk) -> None:
    shadow.feed.arrivals = 2.0
    await shadow.passes(minutes(20))
    shadow.feed.arrivals = 0.0
    await shadow.passes(minutes(60))
    found = await on_paper(shadow)

    later = found.cost(shadow.clock.now() + timedelta(hours=9))

    assert found.nodes == ()
    assert found.releases == found.launches
    assert later == found.cost(shadow.clock.now()) > Money.of(0)


async def test_the_story_outlives_the_daemon(shadow: Desk) -> None:
    shadow.policy = policy(mode="shadow", nodes={"min": 2, "max": 4})
    shadow.feed.arrivals = 2.0
    await shadow.passes(minutes(10))
    before = await on_paper(shadow)

    shadow.__post_init__()  # the next daemon
    await shadow.passes(minutes(10))
    after = await on_paper(shadow)

    assert (after.since, after.launches) == (before.since, before.launches)
    assert [n.name for n in after.nodes] == [n.name for n in before.nodes]
    assert after.decisions > before.decisions


async def test_its_limits_hold_on_paper_too(shadow: Desk) -> None:
    shadow.policy = policy(mode="shadow", limit="$2.50/h")
    shadow.feed.arrivals = 500.0

    await shadow.passes(minutes(30))

    assert (await on_paper(shadow)).peak == 2


async def test_models_in_shadow_share_the_limits_of_all_on_paper_too(shadow: Desk) -> None:
    other = ModelName("Qwen/Qwen3-8B")
    assert await shadow.leases.acquire(other)
    shadow.config = shadow.config.model_copy(
        update={"limits": LimitSettings.model_validate({"nodes": 3, "launches_per_window": 60})}
    )
    both = {CHAT: policy(mode="shadow"), other: policy(mode="shadow", model=other)}
    shadow.feed.arrivals = 500.0

    async def passes(order: tuple[ModelName, ...]) -> dict[ModelName, int]:
        made = shadow.remade(both)
        for _ in range(40):
            await shadow.leases.renew_all()
            for name in order:
                await made.reconcile(both[name], shadow.clock.now())
            shadow.clock.move(15)
        return {
            name: len(Shadow.from_json((await shadow.store.record(name)).shadow).nodes)
            for name in both
        }

    first = await passes((other, CHAT))
    after_a_restart = await passes((CHAT, other))

    assert sum(first.values()) == 3
    assert after_a_restart == first


async def test_a_model_that_may_not_rent_keeps_no_money_from_those_that_may(shadow: Desk) -> None:
    other = ModelName("Qwen/Qwen3-8B")
    watched = policy(mode="shadow", model=other, nodes={"min": 2, "max": 2})
    both = {CHAT: policy(nodes={"min": 1, "max": 2}), other: watched}
    made = shadow.remade(both)

    async def floors(model: ModelName) -> set[ModelName]:
        record = await shadow.store.record(model)
        inputs = await made.observe(both[model], record, shadow.clock.now())
        return set(inputs.limits.floors_per_hour)

    assert await floors(CHAT) == {CHAT}
    assert await floors(other) == {CHAT, other}  # as if it might: that is what paper is for
    await shadow.store.set_retired(CHAT, "anna", NOON)
    await floors(CHAT)
    assert await floors(other) == {other}


async def test_the_pace_of_launches_holds_on_paper_too(shadow: Desk) -> None:
    retries = {"launches_per_window": 1, "launch_window": "1h"}
    shadow.policy = policy(mode="shadow", retries=retries)
    shadow.feed.arrivals = 500.0

    await shadow.passes(minutes(30))

    assert (await on_paper(shadow)).launches == 1


async def test_what_it_would_have_done_is_told_in_the_events(shadow: Desk) -> None:
    shadow.feed.arrivals = 2.0
    await shadow.passes(minutes(20))
    shadow.feed.arrivals = 0.0
    await shadow.passes(minutes(60))

    kinds = [event.kind for event in await shadow.store.events(model=CHAT)]

    assert kinds.count("shadow_rented") == kinds.count("shadow_released") > 0


async def test_what_was_on_paper_is_no_loss_once_it_may_rent(shadow: Desk) -> None:
    shadow.feed.arrivals = 2.0
    await shadow.passes(minutes(20))
    shadow.policy = policy()

    outcome = await shadow.once()

    assert len(outcome.launched) > 0
    assert (await shadow.store.record(CHAT)).shadow == ""
    assert "lost" not in outcome.decision.reason


async def test_real_nodes_go_on_and_a_passed_limit_drains_them(shadow: Desk) -> None:
    shadow.policy = policy()
    shadow.feed.arrivals = 2.0
    await shadow.passes(minutes(2))
    await shadow.be(State.READY)
    real = {row.name for row in await shadow.fleet()}
    shadow.policy = policy(mode="shadow")
    shadow.feed.arrivals = 0.0

    await shadow.passes(minutes(60))
    still = {row.state for row in await shadow.fleet()}
    given_back = set((await on_paper(shadow)).let_go)
    shadow.policy = policy(
        mode="shadow", limits={"usd_per_day": "0.50", "on_limit": "drain-to-min"}
    )
    await shadow.passes(minutes(60))

    assert still == {State.READY}
    assert given_back == real
    assert {row.state for row in await shadow.fleet()} == {State.DRAINING}


async def test_a_pause_leaves_the_story_as_it_is(shadow: Desk) -> None:
    shadow.feed.arrivals = 2.0
    await shadow.passes(minutes(10))
    before = await on_paper(shadow)
    await shadow.store.set_paused(CHAT, "anna", NOON)
    shadow.feed.arrivals = 100.0

    await shadow.passes(minutes(10))

    assert await on_paper(shadow) == before


async def test_a_broken_story_begins_anew(shadow: Desk) -> None:
    await shadow.store._execute("INSERT INTO models (model, shadow) VALUES (?, ?)", (CHAT, "{}"))
    shadow.feed.arrivals = 2.0

    await shadow.passes(minutes(2))

    assert (await on_paper(shadow)).launches > 0


async def test_a_promotion_survives_and_is_one_event(shadow: Desk) -> None:
    event = marked(CHAT, "model_promoted", "anna", NOON)
    await shadow.store.set_promotion(CHAT, Promotion("anna", NOON, "abc", "shadow"), event)

    assert await shadow.store.promotions() == {CHAT: Promotion("anna", NOON, "abc", "shadow")}
    assert [e.actor for e in await shadow.store.events(model=CHAT)] == ["anna"]
