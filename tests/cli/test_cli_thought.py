"""`autoscaler plan` and `explain`, from what passes really think, in 80 columns."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from autoscaler.cli.connection import Table, screen_lines
from autoscaler.cli.screen import Screen
from autoscaler.cli.thought import explain_screen, plan_screen
from autoscaler.decide.explain import explain_json
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.node import State
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.rise import risen, with_rise
from autoscaler.serve.glance import plan_figures
from tests.core.desk import CHAT, Desk, policy
from tests.nodes.life_parts import minutes

A40 = OfferKey("a40.1x", "us-east1-a")


async def asked(desk: Desk) -> dict[str, Any]:
    """What the daemon answers."""
    record = await desk.store.record(CHAT)
    inputs = await desk.reconciler.observe(desk.policy, record, desk.clock.now())
    thought = desk.reconciler.consider(inputs)
    decision = with_rise(thought.decision, risen(inputs, thought.decision, Profiles.load()))
    figures = plan_figures(inputs, thought)
    refused = [
        {"offer": str(thought.plan.launches[number].offer), "why": why}
        for number, why in thought.refused
    ]
    return {**explain_json(decision, thought.plan), "figures": figures, "refused": refused}


def shown(table: Table, width: int | None = None) -> list[str]:
    return [line.plain for line in screen_lines(table, Screen(width))]


async def serving(desk: Desk, arrivals: float) -> None:
    desk.feed.arrivals = arrivals
    await desk.passes(minutes(2))
    await desk.be(State.READY)
    await desk.passes(minutes(20))
    await desk.be(State.READY)


async def test_a_plan_says_before_and_after_and_prices_each_change(desk: Desk) -> None:
    desk.policy = policy(limit="$6/h")
    desk.feed.arrivals = 8.0
    for boot in (200.0, 230.0, 245.0):
        await desk.store.add_boot(CHAT, A40, boot, desk.clock.now())

    view = await asked(desk)
    said = shown(plan_screen(view))

    figures = view["figures"]
    assert figures["rents"]
    assert said[0].startswith(f"{CHAT} (rents nothing): 0 nodes $0.00/h → ")
    assert said[0].endswith(", limit $6/h")
    assert sum(float(one["usd_per_hour"]) for one in figures["rents"]) == pytest.approx(
        float(figures["usd_per_hour_after"])
    )
    assert [line for line in said if line.startswith("+ ")]
    assert await desk.fleet() == ()


async def test_a_boot_is_told_as_measured_and_an_unmeasured_one_as_assumed(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    before = shown(plan_screen(await asked(desk)))
    (rented,) = {one["type"] for one in (await asked(desk))["figures"]["rents"]}
    key = OfferKey(rented, "us-east1-a")
    for boot in (200.0, 230.0, 245.0):
        await desk.store.add_boot(CHAT, key, boot, desk.clock.now())

    after = shown(plan_screen(await asked(desk)))

    assert "boot not measured yet (5m assumed)" in before[1]
    assert "p90 4m05s of 3 boots" in after[1]


async def test_an_offer_left_alone_for_a_while_says_until_when(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    until = desk.clock.now() + timedelta(minutes=10)
    await desk.store.set_backoff(BackOff(A40, until, "out of stock"))
    await desk.store.set_backoff(BackOff(OfferKey("nope.1x", "eu"), until, "out of stock"))

    said = shown(plan_screen(await asked(desk)))

    passed = [line for line in said if line.startswith("passed over: ")]
    assert any(f"{A40}: backed off until {until:%H:%M:%S}: out of stock" in p for p in passed)


async def test_explain_says_which_rule_bound_and_what_the_next_node_costs(desk: Desk) -> None:
    await serving(desk, 4.0)

    view = await asked(desk)
    view["reference"] = "l40s-48gb.10x"  # what counts is one replica's share of it
    said = shown(explain_screen(view))

    assert [line for line in said if line.endswith("(in replicas on l40s-48gb)")]

    bound = next(rule for rule in view["rules"] if rule["rule"] == view["binding"])
    head = f"{CHAT} {view['figures']['nodes_before']} node"
    assert said[0].startswith(head)
    assert f"{view['binding']} bound at {bound['replicas']:.2f}; " in said[0]
    rise = next(line for line in said if "rises to" in line)
    assert "/h" in rise
    assert "says no" not in rise


async def test_explain_says_that_a_limit_stands_in_the_way_of_the_next_node(desk: Desk) -> None:
    await serving(desk, 4.0)
    open_door = next(t for t in (await asked(desk))["counterfactuals"] if "rises to" in t)
    stands = float((await asked(desk))["figures"]["usd_per_hour_before"])
    desk.policy = policy(limit=f"${stands + 0.5:.2f}/h")

    shut = next(t for t in (await asked(desk))["counterfactuals"] if "rises to" in t)

    threshold = open_door.partition(": ")[0]
    assert shut.startswith(f"{threshold}, but a limit then says no: limit of {CHAT} is $")
    assert "this would make it $" in shut


async def test_what_explain_says_of_a_rise_comes_true(desk: Desk) -> None:
    await serving(desk, 4.0)
    view = await asked(desk)
    decision = desk.reconciler.last[CHAT].decision
    assert decision.rise is not None
    assert decision.demand is not None
    foretold = next(t for t in view["counterfactuals"] if "rises to" in t)

    desk.feed.arrivals = 4.0 * (decision.rise.above + 0.02) / decision.demand
    after = await asked(desk)
    for _ in range(8):  # arrivals are averaged over a window
        await desk.once()
        after = await asked(desk)
        if after["want"] > view["want"]:
            break

    assert after["want"] == decision.rise.to
    price = float((await asked(desk))["figures"]["usd_per_hour_after"])
    assert f"${price:.2f}/h" in foretold


async def test_every_screen_fits_80_columns(desk: Desk) -> None:
    desk.feed.arrivals = 30.0
    view = await asked(desk)
    view["reason"] = "\x1b[2J" + "a long reason " * 30
    view["figures"]["notes"].append("x" * 300)
    view["plan"]["notes"].append("x" * 300)

    lines = shown(plan_screen(view), 80) + shown(explain_screen(view), 80)

    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)


async def test_in_shadow_the_figures_are_those_on_paper(desk: Desk) -> None:
    desk.policy = policy(mode="shadow", nodes={"min": 1, "max": 4})
    desk.feed.arrivals = 2.0
    first = shown(plan_screen(await asked(desk)))
    await desk.passes(minutes(20))

    view = await asked(desk)
    said = shown(plan_screen(view)) + shown(explain_screen(view))

    assert "on paper 0 nodes $0.00/h → " in first[0]
    assert view["figures"]["nodes_before"] > 0
    assert "on paper" in said[0]
    assert any("rises to" in line and "/h" in line for line in said)
    assert await desk.fleet() == ()
