"""What a person's word would do and cost, before it is said."""

from __future__ import annotations

from datetime import timedelta

from autoscaler.domain.node import State
from autoscaler.domain.override import Override
from autoscaler.preview import Consequence, Word, foresee, lines
from tests.core.desk import CHAT, Desk, policy
from tests.nodes.life_parts import NOON, minutes


async def ahead(desk: Desk, verb: str, **word: object) -> Consequence:
    record = await desk.store.record(CHAT)
    inputs = await desk.reconciler.observe(desk.policy, record, desk.clock.now())
    said = Word(verb, "anna", **word)  # type: ignore[arg-type]  # the caller names fields
    return foresee(inputs, said, desk.reconciler.consider)


def override(nodes: int, *, beyond: bool = False) -> Override:
    return Override(nodes, NOON + timedelta(hours=9), "anna", NOON, beyond)


async def serving(desk: Desk, count: int) -> Desk:
    desk.policy = policy(nodes={"min": count, "max": 4})
    desk.feed.arrivals = 0.1
    await desk.passes(minutes(5))
    await desk.be(State.READY)
    desk.policy = policy(nodes={"min": 0, "max": 4})
    return desk


async def test_a_retirement_gives_back_all_of_it_however_slowly(desk: Desk) -> None:
    await serving(desk, 3)

    found = await ahead(desk, "retire")

    assert (found.nodes_before, found.nodes_after) == (3, 0)
    assert len(found.first.plan.releases) == 1  # the pace of one pass
    assert len(found.leaving) == 3
    text = lines(found, 3)
    assert text[0] == f"{CHAT}: 3 nodes $3.75/h -> 0 nodes $0.00/h"
    assert "3 requests in flight finish first" in text
    assert "requests will wait up to 10m, and are then answered 503: nothing wakes it" in text


async def test_a_pause_changes_nothing_and_says_what_it_bills(desk: Desk) -> None:
    await serving(desk, 2)

    text = lines(await ahead(desk, "pause"), 0)

    assert text[0] == f"{CHAT}: 2 nodes $2.50/h -> 2 nodes $2.50/h"
    assert "bills on at $2.50/h" in text[1]


async def test_more_nodes_are_priced_and_a_limit_says_no_beforehand(desk: Desk) -> None:
    await serving(desk, 1)
    desk.policy = policy(nodes={"max": 4}, limits={"usd_per_day": "1.50"})

    free = await ahead(desk, "scale", override=override(3))
    desk.policy = policy(nodes={"max": 4})
    found = await ahead(desk, "scale", override=override(3))

    assert (found.nodes_before, found.nodes_after) == (1, 3)
    assert len(found.first.rows) == 2
    assert free.nodes_after == 1
    assert any("a limit refuses it: usd_per_day of" in line for line in lines(free, 0))


async def test_beyond_the_most_nodes_is_foreseen_only_where_it_is_said(desk: Desk) -> None:
    desk.policy = policy(nodes={"max": 1})

    assert (await ahead(desk, "scale", override=override(3))).nodes_after == 1
    assert (await ahead(desk, "scale", override=override(3, beyond=True))).nodes_after == 3


async def test_a_drained_node_that_is_still_wanted_is_replaced(desk: Desk) -> None:
    await serving(desk, 1)
    desk.policy = policy(nodes={"min": 1, "max": 4})
    (row,) = await desk.fleet()

    found = await ahead(desk, "drain", node=row.name)

    assert (found.nodes_before, found.nodes_after) == (1, 1)
    assert [node.name for node in found.leaving] == [row.name]
    assert any(line.startswith("+ 1 x ") for line in lines(found, 0))


async def test_a_promotion_foresees_the_first_real_pass(desk: Desk) -> None:
    desk.policy = policy(mode="shadow")
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(10))

    found = await ahead(desk, "promote")
    desk.policy = policy()
    outcome = await desk.once()

    assert found.nodes_before == 0
    assert [row.offer for row in found.first.rows] == [row.offer for row in outcome.launched]
    assert found.nodes_after == len(outcome.launched)


async def test_to_look_ahead_changes_nothing(desk: Desk) -> None:
    await serving(desk, 2)
    before = await desk.fleet(), (await desk.store.record(CHAT)).memory

    for verb in ("pause", "resume", "retire", "promote", "demote"):
        await ahead(desk, verb)

    assert (await desk.fleet(), (await desk.store.record(CHAT)).memory) == before
