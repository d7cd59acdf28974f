"""Passes on a real store: reads, one transaction, and nothing left behind by one that was cut off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscaler.domain.decision import Verdict
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import Money
from autoscaler.domain.node import NodeEvent, State
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.errors import CloudUnavailable, LeaseLost, SchemaError, StoreUnavailable
from autoscaler.market import MarketFeed
from tests.core.desk import CHAT, Desk, policy
from tests.nodes.life_parts import (
    KEY,
    NOON,
    intent_id,
    minutes,
    node,
    seconds,
)


async def test_demand_becomes_recorded_intents_and_one_decision(desk: Desk) -> None:
    desk.feed.arrivals = 2.0

    outcomes = await desk.passes(minutes(2))
    launched = [row for outcome in outcomes for row in outcome.launched]

    assert launched
    assert {row.name for row in await desk.fleet()} == {row.name for row in launched}
    assert {row.state for row in launched} == {State.PLANNED}
    assert {e.decision for e in await desk.store.events(model=CHAT)} == {
        row.decision for row in launched
    }


async def test_a_pass_may_be_repeated_without_renting_more(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(3))
    before = await desk.fleet()

    await desk.passes(minutes(3))

    assert await desk.fleet() == before


async def test_no_data_neither_rents_nor_gives_back(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(2))
    await desk.be(State.READY)
    before = await desk.fleet()
    desk.feed.arrivals = None

    outcomes = await desk.passes(minutes(8))

    assert await desk.fleet() == before
    assert outcomes[-1].decision.verdict is Verdict.HOLD


async def test_what_is_no_longer_needed_is_drained_or_cancelled_never_deleted_outright(
    desk: Desk,
) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(2))
    await desk.be(State.READY)
    desk.feed.arrivals = 0.0

    await desk.passes(minutes(60))

    assert {row.state for row in await desk.fleet()} == {State.DRAINING}


async def test_a_create_that_may_be_under_way_is_not_given_up_before_it_is_known(
    desk: Desk,
) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(2))
    await desk.be(State.CREATING)
    await desk.store.set_retired(CHAT, "anna", NOON)

    await desk.passes(minutes(5))

    assert {row.state for row in await desk.fleet()} == {State.CREATING}


async def test_a_retired_model_gives_everything_back_and_rents_nothing(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(2))
    await desk.be(State.READY)
    await desk.store.set_retired(CHAT, "anna", NOON)

    outcomes = await desk.passes(minutes(60))

    assert not [row for outcome in outcomes for row in outcome.launched]
    assert {row.state for row in await desk.fleet()} == {State.DRAINING}


@pytest.mark.parametrize("how", ["paused", "shadow", "forbidden"])
async def test_a_model_that_may_not_act_still_decides_and_says_why(desk: Desk, how: str) -> None:
    desk.feed.arrivals = 2.0
    match how:
        case "paused":
            await desk.store.set_paused(CHAT, "anna", NOON)
        case "shadow":
            desk.policy = policy(mode="shadow")
        case _:
            desk.forbidden = "safe mode: too many starts"

    outcomes = await desk.passes(minutes(2))

    assert await desk.fleet() == ()
    assert outcomes[-1].decision.want > 0
    said = " ".join((*outcomes[-1].plan.notes, *(p.reason for p in outcomes[-1].plan.passed_over)))
    assert {"paused": "paused by anna", "shadow": "shadow", "forbidden": "safe mode"}[how] in said


async def test_a_pause_stops_no_limit(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(2))
    await desk.be(State.READY)
    await desk.store.set_paused(CHAT, "anna", NOON)

    desk.policy = policy(limits={"usd_per_day": "0.50", "on_limit": "drain-to-min"})
    await desk.passes(minutes(60))

    assert {row.state for row in await desk.fleet()} == {State.DRAINING}


async def test_limits_hold_whatever_the_demand(desk: Desk) -> None:
    desk.policy = policy(limit="$2.50/h")
    desk.feed.arrivals = 500.0

    await desk.passes(minutes(20))

    assert 0 < len(await desk.fleet()) <= 2


async def test_a_lost_lease_records_nothing(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.store.acquire(CHAT, "another daemon", 0.0)

    with pytest.raises(LeaseLost):
        await desk.reconciler.reconcile(desk.policy, desk.clock.now())

    assert await desk.fleet() == ()
    assert await desk.store.last_decision(CHAT) is None


async def test_a_lease_not_renewed_in_time_is_no_lease(desk: Desk) -> None:
    desk.clock.move(20)

    with pytest.raises(LeaseLost, match="not renewed in time"):
        await desk.reconciler.reconcile(desk.policy, desk.clock.now())


async def test_a_pass_that_loses_a_race_for_a_row_changes_nothing(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(2))
    await desk.be(State.READY)
    desk.feed.arrivals = 0.0
    fleet = desk.store.fleet

    async def stale(model: ModelName):  # type: ignore[no-untyped-def]
        seen = await fleet(model)
        for row in seen.nodes:
            if row.state is State.READY:
                lease = desk.leases.current(CHAT)
                await desk.store.update(lease, row, replace(row, stage=str(desk.clock.boot)))
        return seen

    desk.store.fleet = stale  # type: ignore[method-assign]  # another writer between read and write
    with pytest.raises(StoreUnavailable, match="changed meanwhile"):
        await desk.passes(minutes(60))

    assert {row.state for row in await desk.fleet()} == {State.READY}


async def test_what_the_law_remembers_outlives_the_daemon(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(5))
    memory = (await desk.store.record(CHAT)).memory
    desk.__post_init__()  # the next daemon
    thought = await desk.reconciler.think(
        desk.policy, await desk.store.record(CHAT), desk.clock.now()
    )

    assert memory
    assert thought.memory.want is not None


async def test_a_damaged_memory_is_dropped_and_the_pass_goes_on(desk: Desk) -> None:
    await desk.store._execute("INSERT INTO models (model, memory) VALUES (?, ?)", (CHAT, "[]"))
    desk.feed.arrivals = 2.0

    assert (await desk.passes(minutes(2)))[-1].decision.want > 0


async def test_a_stop_is_held_until_a_person_resumes(desk: Desk) -> None:
    lease = desk.leases.current(CHAT)
    for number in range(3):
        row = node(
            State.GONE,
            intent=intent_id(number),
            model=CHAT,
            failure="verify: no GPU",
            gone_at=NOON,
            spec_hash=policy().spec_hash(),
        )
        await desk.store.insert(
            lease, row, NodeEvent(NOON, "node_gone", CHAT, row.name, row.state, "x", "test")
        )
    desk.feed.arrivals = 2.0

    stopped = await desk.passes(minutes(2))
    await desk.store.set_meta(f"resumed:{CHAT}", desk.clock.now().isoformat())
    await desk.passes(minutes(2))

    assert not any(outcome.launched for outcome in stopped)
    assert await desk.fleet()


async def test_minimum_fleets_are_priced_at_what_their_policies_allow(desk: Desk) -> None:
    desk.policy = policy(nodes={"min": 2, "max": 4}, hardware={"types": ["l40s*"]})

    assert desk.reconciler.limits().floors_per_hour == {CHAT: Money.of("2.50")}


# the market


async def test_a_market_that_was_never_read_is_not_known(desk: Desk) -> None:
    feed = MarketFeed(desk.cloud, desk.store, desk.clock)
    desk.cloud.unreadable = CloudUnavailable("503")
    await feed.refresh()

    with pytest.raises(CloudUnavailable, match="not read yet: 503"):
        await feed.market(CHAT)
    assert feed.age is None


@pytest.mark.parametrize("failure", [CloudUnavailable("503"), SchemaError("no items")])
async def test_a_reading_that_failed_leaves_the_last_one_with_its_age(
    desk: Desk, failure: CloudUnavailable | SchemaError
) -> None:
    desk.cloud.unreadable = failure
    desk.clock.move(60)
    await desk.market.refresh()
    troubled = desk.market.trouble
    offers = (await desk.market.market(CHAT)).offers
    age = desk.market.age
    desk.cloud.unreadable = None
    await desk.market.refresh()

    assert (troubled, age) == (failure, seconds(60))
    assert [o.key for o in offers] == [KEY, OfferKey("a40.1x", KEY.location)]
    assert desk.market.trouble is None


async def test_the_market_carries_back_offs_and_measured_boots(desk: Desk) -> None:
    backoff = BackOff(KEY, NOON + minutes(5), "stock: none")
    await desk.store.set_backoff(backoff)
    await desk.store.add_boot(CHAT, KEY, 131.0, NOON)

    market = await desk.market.market(CHAT)

    assert market.backed_off(KEY, NOON) == backoff
    assert market.backed_off(KEY, NOON + minutes(5)) is None
    assert market.boots_s == {KEY: (131.0,)}
