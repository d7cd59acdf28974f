"""One word for a model's state, and a forecast of the month: from what passes thought and what nodes cost."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from autoscaler.domain.ids import NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.serve.glance import forecast, glance, resting_state
from autoscaler.serve.views import Views
from autoscaler.store.protocol import Ledger
from tests.core.desk import CHAT, Desk, policy
from tests.nodes.life_parts import NOON, minutes, node

HOUR = timedelta(hours=1)


async def word(desk: Desk, mode: str = "active") -> dict[str, object]:
    await desk.once()
    thought = desk.reconciler.last[CHAT]
    return glance(mode, thought, desk.policy, desk.clock.now())


async def test_a_model_with_no_node_is_zero_and_says_how_long_it_takes_to_wake(desk: Desk) -> None:
    seen = await word(desk)

    assert seen["state"] == "zero"
    assert seen["wakes"] == {"usual_s": 300.0, "likely_s": 300.0, "boots": 0}


async def test_a_model_is_booting_then_ok(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.once()
    await desk.be(State.BOOTING)
    booting = await word(desk)
    await desk.be(State.READY)
    serving = await word(desk)

    assert booting["state"] == "booting"
    assert booting["coming"]
    assert (serving["state"], serving["coming"], serving["wakes"]) == ("ok", [], None)


async def test_a_limit_that_refuses_what_is_wanted_is_the_word_with_its_figures(desk: Desk) -> None:
    desk.policy = policy(limit="$1.50/h")
    desk.feed.arrivals = 9.0
    seen = [await word(desk) for _ in range(3)][-1]

    assert seen["state"] == "limit"
    assert "$" in str(seen["state_why"])


async def test_the_most_nodes_that_a_policy_allows_are_a_limit_too(desk: Desk) -> None:
    desk.policy = policy(nodes={"max": 1})
    desk.feed.arrivals = 30.0
    seen = [await word(desk) for _ in range(3)][-1]

    assert seen["state"] == "limit"
    assert "1" in str(seen["state_why"])


async def test_missing_figures_are_a_hold(desk: Desk) -> None:
    desk.feed.arrivals = None
    seen = await word(desk)

    assert seen["state"] == "hold"
    assert "missing" in str(seen["state_why"])


async def test_a_model_for_which_nothing_may_be_rented_is_failing_though_nothing_asks(
    desk: Desk,
) -> None:
    desk.forbidden = "3 launches in a row failed alike"

    assert (await word(desk))["state"] == "failing"


async def test_a_persons_word_stands_above_what_the_law_thinks(desk: Desk) -> None:
    desk.forbidden = "3 launches in a row failed alike"

    assert (await word(desk, "paused"))["state"] == "paused"
    assert resting_state("shadow", ()) == "shadow"


def spender(hours_ago: float, ended_hours_ago: float | None = None) -> Node:
    return replace(
        node(State.READY if ended_hours_ago is None else State.GONE),
        price_per_hour=Money.of("2.40"),
        sent_at=NOON - hours_ago * HOUR,
        gone_at=None if ended_hours_ago is None else NOON - ended_hours_ago * HOUR,
    )


def test_before_there_is_a_day_to_look_back_on_the_forecast_goes_on_as_now() -> None:
    running = spender(2)
    hours_left = (NOON.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0) - NOON

    seen = forecast(Ledger(NOON, (running,)), [running])

    assert seen["forecast_basis"] == "now"
    expected = 2.40 * (2 + hours_left / HOUR)
    assert abs(float(str(seen["forecast_month_usd"])) - expected) < 0.01


def test_with_a_day_behind_it_the_forecast_is_the_days_mean_though_nothing_runs_now() -> None:
    slept = spender(30, ended_hours_ago=12)

    seen = forecast(Ledger(NOON, ()), [slept])

    assert seen["forecast_basis"] == "day"
    assert float(str(seen["forecast_usd_per_hour"])) == 1.20


def test_a_node_that_was_never_sent_for_costs_nothing() -> None:
    planned = replace(spender(0), sent_at=None, state=State.PLANNED)

    seen = forecast(Ledger(NOON, ()), [planned])

    assert float(str(seen["forecast_usd_per_hour"])) == 0.0


async def test_the_status_carries_the_forecast(desk: Desk) -> None:
    desk.feed.arrivals = 2.0
    await desk.passes(minutes(2))

    view = await Views(desk.store, desk.clock).status({CHAT: desk.policy})

    assert view["forecast_basis"] == "now"
    assert isinstance(view["models"], list)
    assert view["models"][0]["state"] == "booting"


async def test_a_pause_and_a_drain_by_hand_are_called_forgotten_after_a_day(desk: Desk) -> None:
    await desk.store.set_paused(CHAT, "anna", NOON)
    drained = node(State.DRAINING, model=CHAT, since=NOON, reason="drained by ben")
    by_the_law = replace(drained, name=NodeName("other"), attempt=2, reason="scale-in: idle")
    for row in (drained, by_the_law):
        event = NodeEvent(NOON, "node_draining", CHAT, row.name, row.state, "test", "test")
        await desk.store.insert(desk.leases.current(CHAT), row, event)

    async def said() -> object:
        status = await Views(desk.store, desk.clock).status({CHAT: desk.policy})
        return status["forgotten"]

    desk.clock.move(HOUR.total_seconds() * 24 - 1)
    assert await said() == []
    desk.clock.move(1)
    assert await said() == [
        f"{CHAT}: paused by anna for 24 h: nothing is launched or given back until "
        f"`autoscaler resume {CHAT}`",
        f"{drained.name}: drained by ben 24 h ago, and it still drains and bills: "
        "`autoscaler nodes` says what is in flight",
    ]
