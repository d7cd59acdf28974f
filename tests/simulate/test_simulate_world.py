"""A backtest: the daemon's thinking on a virtual clock, with every request and every dollar accounted for."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from autoscaler.decide.placement import place
from autoscaler.domain.money import Money, total
from autoscaler.domain.plan import Plan, Release
from autoscaler.simulate.fleet import second
from autoscaler.simulate.market import Boots, Stock
from autoscaler.simulate.result import Result
from autoscaler.simulate.world import DELETE_S, simulate
from autoscaler.think import Rules
from autoscaler.traces.reader import stream_trace
from autoscaler.traces.request import TracedRequest
from tests.simulate.world_parts import A40, BOOT_S, L40S, job, market, policy, steady


def accounted(result: Result) -> None:
    """Every request was answered or lost, once, and every machine billed from its order to its end."""
    requests = result.requests
    ended = [value == value for value in requests.ended_s]
    assert all(bool(lost) != done for lost, done in zip(requests.lost, ended, strict=True))
    assert sum(requests.lost) == result.lost_count
    billed = [
        prices[one.offer.type].for_time(timedelta(seconds=one.gone_s - one.ordered_s))
        for one in result.rentals
    ]
    assert [one.cost for one in result.rentals] == billed
    assert result.cost == total(billed)
    hours = sum(one.gone_s - one.ordered_s for one in result.rentals) / 3600
    assert result.gpu_hours.total == pytest.approx(hours)


prices = {one.key.type: one.price_per_hour or Money.of(0) for one in (L40S, A40)}


def test_without_requests_only_the_minimum_is_rented_and_billed_to_the_second() -> None:
    result = simulate(job(length_s=7200.0, nodes={"min": 2, "max": 4}))

    assert result.launches == 2
    assert result.cost == Money.of("1.25") * 2 * 2
    assert result.gpu_hours.idle == pytest.approx(2 * (7200 - BOOT_S) / 3600)
    accounted(result)


def test_a_steady_load_ends_with_the_fleet_that_the_decision_wants_and_every_request_in_time() -> (
    None
):
    result = simulate(job(steady(1.2, 2700.0), length_s=2700.0))

    last = result.minutes[-1]
    assert last.fleet == (("l40s.1x", 0, last.want, 0),)
    assert last.want >= math.ceil(1.2 / 0.5 / 0.8)
    assert last.demand == pytest.approx(1.2 / 0.5, rel=0.05)
    late = [i for i, ttft_s in enumerate(result.requests.ttft_s) if ttft_s > 2.0]
    assert max(result.requests.arrival_s[i] for i in late) < 2 * BOOT_S
    accounted(result)


def test_a_request_at_zero_nodes_is_held_for_a_boot_and_served_and_the_node_goes_again() -> None:
    result = simulate(
        job([TracedRequest(60.0, 100, 50), TracedRequest(7200.0, 100, 50)], length_s=10_000.0)
    )

    assert (result.held, result.lost_count, result.launches, result.releases) == (2, 0, 2, 2)
    assert all(BOOT_S < ttft_s < BOOT_S + 2 for ttft_s in result.requests.ttft_s)
    assert result.attained.ttft == 0.0
    first = result.rentals[0]
    assert first.left_s is not None
    assert first.left_s - 60.0 >= 900.0, "it stays for scaling.zero_after"
    assert first.gone_s == first.left_s + DELETE_S
    assert result.minutes[-1].fleet == ()
    accounted(result)


def test_a_drained_node_ends_its_requests_before_it_goes() -> None:
    load = steady(2.0, 900.0) + steady(0.3, 3600.0, since_s=900.0, output=4000)
    result = simulate(job(load, nodes={"min": 1, "max": 8}))

    drained = [one for one in result.rentals if one.ready_s and one.released_s and one.left_s]
    waits = [(one.left_s or 0.0) - (one.released_s or 0.0) for one in drained]
    assert max(waits) > 20.0, "a generation of minutes went on while it drained"
    assert result.lost_count == 0
    accounted(result)


def test_a_drain_that_may_cut_loses_what_is_longer_than_its_deadline() -> None:
    load = steady(2.0, 900.0) + steady(0.3, 3600.0, since_s=900.0, output=8000)
    drain = {"deadline": "60s", "on_deadline": "cut"}
    result = simulate(job(load, nodes={"min": 1, "max": 8}, drain=drain))

    assert result.lost["cut while draining"] > 0
    accounted(result)


def test_what_may_not_be_held_is_lost_at_once_and_what_waits_too_long_later() -> None:
    load = [TracedRequest(i * 0.1, 100, 50) for i in range(10)]

    full = simulate(job(load, hold={"requests": 3}))
    late = simulate(job(load, hold={"requests": 5, "time": "60s"}))

    assert (full.held, dict(full.lost)) == (3, {"too many waited": 7})
    assert (late.held, dict(late.lost)) == (5, {"too many waited": 5, "waited too long": 5})
    assert late.attained.both == 0.0
    accounted(full)
    accounted(late)


def test_the_same_seed_gives_the_same_result_and_another_another() -> None:
    load = steady(1.5, 1200.0)

    def run(seed: int) -> dict[str, object]:
        on = market(L40S, A40, boots=Boots(BOOT_S, 0.4, seed), out_share=0.3, seed=seed)
        story = simulate(job(load, on=on)).to_json()
        del story["took_s"]
        return story

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_what_is_sold_out_is_rented_elsewhere_and_what_sells_out_meanwhile_is_left_alone() -> None:
    on = market(L40S, A40, out_share=0.5, out_s=300.0, read_s=300.0, seed=7)
    load = [
        request
        for start_s in (0.0, 900.0, 1800.0, 2700.0)
        for request in (
            *steady(2.5, start_s + 300, since_s=start_s),
            *steady(0.3, start_s + 900, since_s=start_s + 300),
        )
    ]
    result = simulate(job(load, on=on, scaling={"peak_memory": "60s", "stabilization": "60s"}))

    assert set(result.types) == {"l40s.1x", "a40.1x"}
    assert result.refused > 0
    stock = Stock(on)
    assert all(stock.has(one.offer, one.ordered_s) for one in result.rentals)
    accounted(result)


def test_boots_are_the_same_for_every_law_and_a_cancelled_one_bills_until_it_is_gone() -> None:
    boots = Boots(BOOT_S, 0.5, seed=7)
    result = simulate(job(steady(2.0, 200.0), length_s=4000.0, on=market(boots=boots)))

    drawn = boots.drawn()
    for one in result.rentals:
        boot_s = next(drawn)
        if one.ready_s is not None:
            assert one.ready_s - one.ordered_s == pytest.approx(boot_s, abs=1e-5)
    accounted(result)


def test_a_drain_that_is_taken_back_serves_again_and_another_law_may_stand_in() -> None:
    def placed(*seen: Any) -> Plan:
        _, decision, fleet, *_, now, _, _ = seen
        at_s = second(now)
        if at_s < 15:
            return place(*seen)
        plan = Plan(decision.model, decision.id, now)
        names = tuple(node.name for node in fleet.nodes)
        if at_s == 600:
            return replace(plan, releases=tuple(Release(n, "scale-in: a test") for n in names))
        return replace(plan, undrain=names) if at_s == 615 else plan

    load = [
        TracedRequest(590.0, 100, 4000),
        TracedRequest(603.0, 100, 2),
        TracedRequest(640.0, 100, 2),
    ]
    asked = job(load, nodes={"min": 1, "max": 1}, length_s=700.0)
    result = simulate(replace(asked, rules=Rules(place=placed)))

    long, held, later = result.requests.ttft_s
    assert max(long, later) < 0.5
    assert 14.0 < held < 15.0, "until balancers have it again, 2 s after 615"
    assert (result.held, result.launches, result.releases) == (1, 1, 0)
    accounted(result)


def test_requests_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at 3 s comes after one at 5 s"):
        simulate(job([TracedRequest(5.0, 1, 1), TracedRequest(3.0, 1, 1)]))


def test_an_embedding_ends_with_its_prompt_whatever_the_trace_says_of_an_answer() -> None:
    texts = [TracedRequest(float(i), 300, 5000) for i in range(60)]
    asked = job(texts, model="Qwen/Qwen3-Embedding-0.6B", engine="embedding", hardware={})
    result = simulate(asked)

    assert set(result.requests.output_tokens) == {0}
    assert result.itl_quantiles == {}
    assert result.tokens == 60 * 300
    accounted(result)


@pytest.mark.skipif("TRACES" not in os.environ, reason="TRACES names no directory of traces")
def test_traces_of_real_traffic_are_accounted_for_to_the_last_request() -> None:
    found = sorted(Path(os.environ["TRACES"]).glob("*.csv.gz"))
    assert found, "no *.csv.gz there"
    for path in found:
        requests = [r for r in stream_trace(path) if r.arrival_s < 3600.0]
        result = simulate(job(requests, nodes={"min": 0, "max": 30}))

        assert len(result.requests) == len(requests)
        accounted(result)


def test_the_law_is_told_of_a_load_in_the_policys_own_units() -> None:
    result = simulate(job(steady(1.0, 900.0), length_s=900.0))

    demands = [minute.demand for minute in result.minutes if minute.at_s > 400]
    rate = policy().hardware.capacity["l40s"].requests_per_s
    assert demands == pytest.approx([1.0 / rate] * len(demands), rel=0.35)
