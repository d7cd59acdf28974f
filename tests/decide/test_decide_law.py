"""The law as little timelines: at 0:00 this came, at 0:30 that, so we want 4, still 4, then 3."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from autoscaler.decide import LawMemory
from autoscaler.decide.forecast import observe_demand
from autoscaler.decide.memory import Probe
from autoscaler.domain.decision import Verdict
from autoscaler.domain.node import State
from autoscaler.domain.offer import Market, OfferKey
from autoscaler.policy import Scaling

if TYPE_CHECKING:
    from tests.decide.conftest import World

MINUTE = timedelta(minutes=1)


def test_demand_is_served_at_the_target_utilization(world: World) -> None:
    world.add(3)

    decision = world.decide(2.0)

    assert decision.demand == pytest.approx(2.0)
    assert decision.want == 3  # 2.0 / 0.8 = 2.5
    assert decision.verdict is Verdict.KEEP
    assert {rule.rule for rule in decision.recommendations} >= {"react", "ahead"}


def test_growth_is_ordered_at_once_and_the_recent_peak_is_kept_for_half_an_hour_and_a_window(
    world: World,
) -> None:
    world.add(3)
    assert world.decide(2.0).want == 3
    world.now += MINUTE
    assert world.decide(3.5).want >= 5
    world.add(2)
    world.memory = replace(world.memory, asked=())  # of the backlog, which is no part of this
    world.now += timedelta(seconds=15)
    world.decide(3.5)

    quiet = world.passes(1.0, timedelta(minutes=39))
    later = world.passes(1.0, timedelta(minutes=3))

    assert quiet.want == 5
    assert not [d for d in world.decisions if d.verdict is Verdict.IN and d.at < quiet.at]
    assert later.want == 2  # 1.0 / 0.8 = 1.25
    assert later.verdict is Verdict.IN


def test_nothing_happens_to_a_fleet_that_fits(world: World) -> None:
    world.add(2)

    world.passes(1.2, timedelta(minutes=50))

    assert {decision.want for decision in world.decisions} == {2}
    assert {decision.verdict for decision in world.decisions} == {Verdict.KEEP}


def test_in_flight_requests_count_where_arrivals_are_censored_but_only_up_to_twice(
    world: World,
) -> None:
    world.add(4)
    concurrency = 108.0  # of the reference replica

    honest = world.decide(1.0, running=1.5 * concurrency)
    leaking = world.decide(1.0, running=40 * concurrency)

    assert honest.demand == pytest.approx(1.5, rel=0.02)
    assert leaking.demand == pytest.approx(2.0)


def test_arrivals_missing_still_lets_it_grow_but_never_shrink(world: World) -> None:
    world.add(2)
    world.see(1.0, running=216.0)
    last = world.history[-1]
    blind = tuple(pair for pair in last.figures if pair[0] != "arrivals_per_s")
    world.history = (replace(last, figures=blind),)
    history, world.see = world.history, lambda *_, **__: None  # type: ignore[method-assign]

    decision = world.decide(None)

    assert history == world.history
    assert decision.want >= 3
    assert not decision.release_allowed
    assert "arrivals_per_s is missing" in decision.reason or decision.verdict is Verdict.OUT


def test_a_queue_orders_what_drains_it_in_time_but_at_most_one_more_peak(world: World) -> None:
    world.add(2)
    rate = world.rate

    short = world.decide(1.0, waiting=12 * rate)  # 12 replica-seconds, to be gone in 120 s
    flood = world.decide(1.0, waiting=100_000.0)

    assert short.raw == pytest.approx(1.0 / 0.8 + 0.1, abs=0.01)
    assert flood.raw <= 2.0 / 0.8 + 2.0


def test_what_piles_up_during_a_boot_is_part_of_the_order(world: World) -> None:
    world.change(scaling={"boot_prior": "60s"})
    world.add(2)
    fast = world.decide(2.5).raw
    world.change(scaling={"boot_prior": "300s"})
    world.memory = world.settled

    slow = world.decide(2.5).raw

    assert fast == pytest.approx(2.5 / 0.8 + 0.5 * 60 / 120)
    assert slow == pytest.approx(2.5 / 0.8 + 0.5 * 300 / 120)


def test_a_wake_from_zero_does_not_order_a_fleet(world: World) -> None:
    decision = world.decide(0.3, held=900, oldest_wait_s=2.0)

    assert decision.verdict is Verdict.OUT
    assert 1 <= decision.want <= 2


def test_a_held_request_wakes_a_model_at_once_whatever_else_is_missing(world: World) -> None:
    held = world.decide(None, held=1)
    world.memory, world.history = world.settled, ()
    arrived = world.decide(0.001)

    assert held.want == 1
    assert arrived.want == 1
    assert arrived.binding == "wake"


def test_nothing_wakes_a_model_that_nobody_asks_for(world: World) -> None:
    decision = world.passes(0.0, 5 * MINUTE)

    assert decision.want == 0
    assert decision.verdict is Verdict.KEEP


def test_the_last_node_goes_only_after_its_own_delay_with_nothing_in_flight(world: World) -> None:
    world.add(1)
    world.decide(0.5)
    world.now += MINUTE

    before = world.passes(0.0, timedelta(minutes=14, seconds=45))
    after = world.passes(0.0, timedelta(seconds=15))

    assert before.want == 1
    assert before.binding == "keep-one" or before.need > 0  # type: ignore[operator]
    assert (after.want, after.need, after.binding) == (0, 0.0, "zero")
    assert after.verdict is Verdict.IN
    assert "falls to 0 about 12:16 if nothing comes until then" in before.counterfactuals


def test_a_request_in_flight_or_a_booting_node_keeps_the_last_node(world: World) -> None:
    world.add(1)
    streaming = world.passes(0.0, timedelta(minutes=20), running=1.0)
    world.memory = world.settled
    world.add(1, State.BOOTING)
    booting = world.passes(0.0, timedelta(minutes=20))

    assert streaming.want == 1
    assert booting.want >= 1


def test_zero_needs_every_figure(world: World) -> None:
    world.add(1)
    world.passes(0.0, timedelta(minutes=14))
    world.see(0.0)
    last = world.history[-1]
    partial = tuple(pair for pair in last.figures if pair[0] != "arrivals_per_s")
    world.history = (*world.history[:-1], replace(last, figures=partial, idle=False))
    world.now += MINUTE + timedelta(seconds=15)
    world.see = lambda *_, **__: None  # type: ignore[method-assign]

    decision = world.decide(None)

    assert decision.want == 1
    assert not decision.release_allowed


def test_a_minimum_keeps_the_model_from_zero(world: World) -> None:
    world.change(nodes={"min": 2, "max": 5})
    world.add(2)

    decision = world.passes(0.0, timedelta(minutes=60))

    assert decision.want == 2
    assert decision.binding == "minimum"
    assert decision.verdict is Verdict.KEEP


def test_missing_data_holds_what_was_wanted_and_replaces_what_was_lost(world: World) -> None:
    world.add(3)
    world.passes(2.0, 3 * MINUTE)
    world.now += MINUTE
    world.nodes = world.nodes[:2]

    decision = world.passes(None, timedelta(minutes=30))

    assert decision.verdict is Verdict.HOLD
    assert (decision.want, decision.need, decision.demand) == (3, 2.5, None)
    assert not decision.release_allowed
    assert "arrivals_per_s is missing (gateway: refused)" in decision.reason


def test_signals_that_stopped_coming_are_a_gap_not_a_quiet_time(world: World) -> None:
    world.add(3)
    world.passes(2.0, 3 * MINUTE)
    world.now += timedelta(hours=2)
    stale = world.history
    world.see = lambda *_, **__: None  # type: ignore[method-assign]

    decision = world.decide(None)

    assert world.history == stale
    assert decision.verdict is Verdict.HOLD
    assert decision.want == 3
    assert "the last signals are 7200 s old" in decision.reason


def test_a_long_gap_raises_to_the_safe_floor_when_one_is_set(world: World) -> None:
    world.change(scaling={"safe_floor": 2})

    early = world.passes(None, timedelta(minutes=9))
    late = world.passes(None, timedelta(minutes=2))

    assert early.want == 0
    assert late.want == 2


def test_after_a_long_gap_nothing_is_released_until_a_window_was_watched(world: World) -> None:
    world.add(3)
    world.passes(0.5, 3 * MINUTE)
    world.now += MINUTE
    world.passes(None, timedelta(minutes=20))
    world.now += timedelta(seconds=15)

    first = world.passes(0.5, timedelta(minutes=9))
    second = world.passes(0.5, timedelta(minutes=2))

    assert not first.release_allowed
    assert second.release_allowed


def test_after_a_start_nothing_is_released_until_a_window_was_watched(world: World) -> None:
    world.add(3)
    world.memory = LawMemory().restarted(world.now, timedelta(minutes=7))

    cautious = world.passes(0.5, timedelta(minutes=6, seconds=45))
    free = world.passes(0.5, timedelta(seconds=30))

    assert cautious.verdict is Verdict.HOLD
    assert "has not watched for one window" in cautious.reason
    assert free.release_allowed
    assert free.verdict is Verdict.IN


def test_a_fresh_memory_counts_as_a_start(world: World) -> None:
    world.add(3)
    world.memory = LawMemory()

    assert not world.passes(0.5, timedelta(minutes=9)).release_allowed
    assert world.passes(0.5, timedelta(minutes=2)).release_allowed


def test_when_nodes_were_lost_no_more_are_given_back_for_one_lead(world: World) -> None:
    world.add(6)
    world.decide(0.5)
    world.nodes = world.nodes[2:]
    world.now += timedelta(seconds=15)

    after_loss = world.decide(0.5)
    later = world.passes(0.5, timedelta(minutes=6))

    assert not after_loss.release_allowed
    assert "2 nodes lost" in after_loss.reason
    assert later.release_allowed


def test_a_drained_node_is_not_a_lost_one(world: World) -> None:
    world.add(3)
    world.decide(0.5)
    leaving = replace(world.nodes[0], state=State.DRAINING)
    world.nodes = (leaving, *world.nodes[1:])
    world.now += timedelta(seconds=15)
    world.decide(0.5)
    world.nodes = world.nodes[1:]
    world.now += timedelta(seconds=15)

    assert world.decide(0.5).release_allowed


def test_growth_is_at_most_a_doubling_per_boot_until_it_is_a_surge(world: World) -> None:
    world.add(3)

    at_once = world.decide(8.0)
    world.now += timedelta(seconds=30)
    surging = world.decide(8.0)

    assert (at_once.want, at_once.binding, at_once.surge) == (6, "step", False)
    assert surging.surge
    assert surging.want >= 10
    assert not surging.release_allowed


def test_a_surge_is_over_a_boot_after_its_cause(world: World) -> None:
    world.add(3)
    world.passes(8.0, MINUTE)
    world.now += timedelta(seconds=15)

    assert world.passes(0.5, timedelta(minutes=4, seconds=30)).surge
    assert not world.passes(0.5, MINUTE).surge


def test_the_policys_most_nodes_bound_the_want(world: World) -> None:
    world.change(nodes={"min": 0, "max": 4})
    world.add(4)

    decision = world.passes(50.0, 2 * MINUTE)

    assert decision.want == 4
    assert decision.binding == "bounds"
    assert "does not rise above 4: the policy allows 4 nodes" in decision.counterfactuals


def test_no_nodes_allowed_gives_all_back_even_without_signals(world: World) -> None:
    world.add(2)
    world.change(nodes={"min": 0, "max": 0})
    world.memory = LawMemory()

    decision = world.decide(None)

    assert (decision.want, decision.verdict) == (0, Verdict.IN)
    assert decision.release_allowed


def test_a_longer_demand_window_averages_the_arrivals(world: World) -> None:
    world.add(4)
    world.change(scaling={"demand_window": "120s"})
    world.passes(1.0, timedelta(seconds=45))
    world.now += timedelta(seconds=15)

    assert world.decide(2.0).demand == pytest.approx((3 * 1.0 + 2.0) / 4, rel=0.01)


def test_a_full_cache_asks_for_one_more_at_most(world: World) -> None:
    world.add(2)

    full = world.decide(1.0, kv_use=0.99)

    assert full.binding == "kv"
    assert full.raw == pytest.approx(2 * 0.99 / 0.8)
    assert full.want == 3


def test_a_missed_goal_under_load_adds_one_then_another_and_no_third(world: World) -> None:
    world.add(3)

    world.passes(2.2, timedelta(minutes=3), ttft_attained=0.8)
    assert world.decisions[-1].want == 4
    world.now += timedelta(seconds=15)
    world.add(1)
    world.passes(2.2, timedelta(minutes=4), ttft_attained=0.8)
    assert world.decisions[-1].want == 5
    world.now += timedelta(seconds=15)
    world.add(1)
    last = world.passes(2.2, timedelta(minutes=10), ttft_attained=0.8)

    assert last.want == 5
    assert not last.release_allowed


def test_a_missed_goal_without_load_is_no_lack_of_capacity(world: World) -> None:
    world.add(2)

    decision = world.passes(0.3, timedelta(minutes=10), ttft_attained=0.5)

    assert decision.raw < 2


def test_booting_capacity_counts_so_that_it_is_not_ordered_twice(world: World) -> None:
    world.add(2)
    assert world.decide(1.9).verdict is Verdict.OUT
    world.add(1, State.BOOTING, created_at=world.now)
    world.now += timedelta(seconds=15)

    decision = world.decide(1.9)

    assert decision.verdict is Verdict.KEEP
    assert decision.have == 3.0


def test_measured_boots_replace_the_prior(world: World) -> None:
    key = OfferKey("l40s-48gb.1x", "east")
    world.market = Market(world.market.offers, world.now, boots_s={key: (40.0, 50.0, 60.0)})
    world.add(1)

    decision = world.decide(1.5)

    backlog = next(rule for rule in decision.recommendations if rule.rule == "backlog")
    assert dict(backlog.inputs)["lead_s"] == 60.0


def test_the_margin_is_learned_from_how_peaks_were_outgrown(world: World) -> None:
    world.add(20)
    world.change(scaling={"boot_prior": "60s", "peak_memory": "60s"})
    calm = world.passes(2.0, timedelta(hours=4))
    margin_after_calm = dict(calm.recommendations[1].inputs)["margin"]
    for turn in range(160):  # then demand doubles within a lead, again and again
        world.passes(1.0 if turn % 2 else 2.0, timedelta(minutes=2))

    margin_after_jumps = dict(world.decisions[-1].recommendations[1].inputs)["margin"]

    assert margin_after_calm < 1.25
    assert 1.0 <= margin_after_calm < margin_after_jumps <= 2.5


def test_no_offer_that_fits_is_a_hold_that_says_what_to_change(world: World) -> None:
    world.change(model="somebody/unknown")

    decision = world.decide(1.0)

    assert decision.verdict is Verdict.HOLD
    assert "[facts]" in decision.reason


def test_a_change_of_the_reference_keeps_the_memory_in_step(
    world: World, catalogue: object
) -> None:
    world.add(4)
    world.decide(3.0)
    need = world.decisions[-1].need
    a40 = world.market.offers[0]
    cheaper = replace(
        a40, key=OfferKey("a40.1x", "east"), gpu="a40", price_per_hour=a40.price_per_hour
    )
    free = replace(cheaper, price_per_hour=type(a40.price_per_hour).of("0.10"))  # type: ignore[union-attr]
    world.market = Market((a40, free), world.now)
    world.now += timedelta(seconds=15)

    decision = world.decide(0.0)

    assert decision.reference == "a40.1x"
    assert need is not None
    assert decision.need == pytest.approx(need * 4.23 / 2.41, rel=0.02)
    assert decision.ready == pytest.approx(4 * 4.23 / 2.41, rel=0.02)


def test_the_memory_survives_being_stored_as_json(world: World) -> None:
    world.add(3)
    world.passes(2.0, timedelta(minutes=20), ttft_attained=0.5, kv_use=0.9)
    world.passes(8.0, MINUTE)

    stored = json.dumps(world.memory.to_json())

    assert LawMemory.from_json(json.loads(stored)) == world.memory
    assert LawMemory.from_json({}) == LawMemory()
    assert LawMemory.from_json({"from_tomorrow": 1}) == LawMemory()
    with pytest.raises(ValueError, match="memory of the law is broken"):
        LawMemory.from_json({"asked": "rubbish"})


def test_the_memory_stays_small_whatever_comes(world: World) -> None:
    world.add(3)
    for minute in range(180):
        world.passes(3.0 - minute / 61, timedelta(seconds=45))
        world.now += timedelta(seconds=15)

    assert len(world.memory.peaks) <= 130
    assert len(world.memory.asked) <= 45
    assert len(json.dumps(world.memory.to_json())) < 12_000


@pytest.mark.parametrize(("memory", "left"), [("3d", 0.5), ("12h", 0.125)])
def test_what_the_margin_has_learned_fades_over_the_policys_memory(
    world: World, memory: str, left: float
) -> None:
    scaling = Scaling.model_validate({"margin_memory": memory})
    policy = world.policy.model_copy(update={"scaling": scaling})
    long_ago = world.now - timedelta(hours=18 if memory == "12h" else 36)
    learned = (0.0, 0.0, 8.0)
    before = LawMemory(growth=learned, probe=Probe(long_ago, 1.0, 1.0))

    after = observe_demand(policy, before, 1.0, MINUTE, world.now)

    assert after.growth[2] == pytest.approx(8.0 * left)
