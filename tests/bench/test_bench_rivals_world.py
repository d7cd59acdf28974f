"""The rivals as a backtest uses them: whole laws over timelines, their settings, and the search that tunes them all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bench.rivals import __main__ as told
from bench.rivals import aibrix
from bench.rivals.catalogue import RIVALS
from bench.rivals.law import Law, Sizing, View
from bench.rivals.search import LOCAL, RANDOM, drawn, tune

SIZING = Sizing(requests_per_s=2, concurrency=10, max_replicas=20, peak_requests_per_s=15)
VECTORS = Path(__file__).parent / "vectors"


def at(now_s: float, *, ready: int = 0, booting: int = 0, rate: float = 0.0, **more: Any) -> View:
    return View(now_s, ready, booting, lambda window_s: rate, **more)


def over(law: Law, seconds: range, **seen: Any) -> list[int]:
    """What the law wants at each of these seconds, the world standing still."""
    return [law.want(at(s, **seen)) for s in seconds]


@pytest.mark.parametrize("name", RIVALS)
def test_a_law_stays_under_the_cap_and_answers_alike_when_asked_alike(name: str) -> None:
    def run(rng: random.Random) -> list[int]:
        law, now_s, ready, answers = RIVALS[name].law(SIZING), 0.0, 1, [1]
        for _ in range(200):
            busy = rng.choice([0, 3, 40, 400])
            demand = tuple(rng.uniform(0, 2) for _ in range(ready))
            view = at(
                now_s, ready=ready, booting=max(0, answers[-1] - ready), rate=busy / 5, running=busy,
                kv_use=rng.random(), kv_demand=demand,
            )  # fmt: skip
            answers.append(law.want(view))
            assert law.interval_s > 0
            now_s += law.interval_s
            ready = rng.randint(0, answers[-1])
        return answers

    first = run(random.Random(7))
    assert first == run(random.Random(7))
    assert 0 <= min(first) <= max(first) <= SIZING.max_replicas


@pytest.mark.parametrize("name", RIVALS)
def test_every_setting_says_where_its_default_stands_and_what_may_be_tried(name: str) -> None:
    parameters = RIVALS[name].parameters(SIZING)
    assert RIVALS[name].deviations
    assert RIVALS[name].version
    for p in parameters:
        assert p.source
        assert not p.choices or p.default in p.choices
        assert not p.log or (p.low or 0) > 0
    rng = random.Random(3)
    for _ in range(20):  # whatever is drawn makes a law that answers
        values = {p.name: drawn(p, rng) for p in parameters}
        RIVALS[name].law(SIZING, values).want(at(0, ready=2, rate=3, running=20, kv_demand=(1, 1)))


@pytest.mark.parametrize("name", ["skyserve", "dstack", "rayserve", "dynamo"])
def test_the_defaults_are_those_that_the_package_has(name: str) -> None:
    said = json.loads((VECTORS / f"{name}.json").read_text())
    ours = RIVALS[name].defaults(SIZING)
    assert {key: ours[key] for key in said["defaults"]} == said["defaults"]
    assert RIVALS[name].version == said["package"]


def test_a_setting_that_a_law_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(ValueError, match=r"fixed: no parameter peak; there are: peak_share"):
        RIVALS["fixed"].law(SIZING, {"peak": 1})


def test_the_fixed_fleet_is_the_known_peak_whatever_comes() -> None:
    assert over(RIVALS["fixed"].law(SIZING), range(0, 7200, 3600), rate=99) == [8, 8]
    assert RIVALS["fixed"].law(SIZING, {"peak_share": 2}).want(at(0)) == 15


def test_the_kpa_wakes_at_once_and_leaves_the_last_replica_a_grace() -> None:
    law = RIVALS["knative"].law(SIZING)
    assert over(law, range(0, 4, 2)) == [0, 0]
    assert law.want(at(4, waiting=1)) == 1
    idle = over(law, range(6, 120, 2), ready=1)
    # the one request leaves the window of 60 s at second 64, and the grace of 30 s begins
    assert idle.index(0) == (94 - 6) // 2


def test_the_kpa_panics_on_the_last_seconds_and_keeps_its_height_for_a_window() -> None:
    law = RIVALS["knative"].law(SIZING, {"target": 10, "utilization": 1.0})
    over(law, range(0, 60, 2), ready=1, running=5)
    assert over(law, range(60, 68, 2), ready=1, running=60) == [3, 5, 6, 6]
    assert over(law, range(68, 126, 2), ready=6, running=0) == [6] * 29
    # 30 s at 60 in flight's worth have left the stable window by now; half at a time from there
    assert law.want(at(128, ready=6, running=0)) == 3


def test_keda_wakes_at_its_poll_and_the_hpa_adds_four_or_doubles() -> None:
    law = RIVALS["keda"].law(SIZING)
    assert law.want(at(0)) == 0
    assert law.want(at(15, waiting=100)) == 0  # between two polls
    assert law.want(at(30, waiting=100)) == 5  # woken to one, and four more
    assert law.want(at(45, ready=1, booting=4, waiting=108)) == 10
    assert law.want(at(60, ready=5, booting=5, waiting=108)) == 10  # 10.8 is within the tolerance
    assert over(law, range(75, 360, 15), ready=10) == [10] * 19
    assert law.want(at(360, ready=10)) == 0  # 300 s after the last poll that saw traffic


def test_the_apa_takes_pending_replicas_for_idle_on_the_way_up_and_loaded_on_the_way_down() -> None:
    assert aibrix.guarded(8, ratio=2.0, current=4, ready=2) == 4  # 2 × 2 fill the four
    assert aibrix.guarded(12, ratio=3.0, current=4, ready=3) == 9
    assert aibrix.guarded(2, ratio=0.2, current=4, ready=2) == 3  # 0.4 and two on target
    assert aibrix.guarded(8, ratio=2.0, current=4, ready=4) == 8


def test_the_apas_cooldown_takes_the_lowest_wish_down_and_the_newest_up() -> None:
    cooldown = aibrix.Cooldown(up_s=0, down_s=300)
    assert cooldown.settle(0, current=4, wanted=2) == 2
    assert cooldown.settle(10, current=4, wanted=6) == 6
    assert cooldown.settle(20, current=6, wanted=5) == 2
    assert cooldown.settle(320, current=6, wanted=5) == 5


def test_the_apa_holds_without_a_ready_replica_to_measure() -> None:
    law = RIVALS["aibrix"].law(SIZING)
    assert law.want(at(0, ready=0, booting=3, waiting=99)) == 3
    assert law.want(at(10, ready=3, kv_use=0.9)) == 6  # 1.8 × 3, at most doubled


def test_dynamo_adds_nothing_while_a_replica_starts_and_takes_it_back_when_the_rest_suffices() -> (
    None
):
    law = RIVALS["dynamo"].law(SIZING)
    assert law.want(at(0, ready=1, kv_demand=(1.2,))) == 2
    assert law.want(at(5, ready=1, booting=1, kv_demand=(3.0,))) == 2
    assert law.want(at(10, ready=1, booting=1, kv_demand=(0.2,))) == 1


def test_dynamo_for_latency_sizes_for_the_predicted_work_and_steps_between() -> None:
    sizing = Sizing(2, 10, 20, prompt_s=0.001, output_s=0.01)
    law = RIVALS["dynamo"].law(sizing, {"objective": "sla", "load_steps": "on"})
    seen: dict[str, Any] = {"rate": 2, "prompt_tokens_per_s": 2000, "output_tokens_per_s": 100}
    assert law.want(at(0, ready=1, **seen)) == 3  # 2 + 1 replica-seconds a second
    assert law.want(at(5, ready=3, ttft_p95_s=0.9, itl_p95_s=0.03, **seen)) == 4
    assert law.want(at(10, ready=3, booting=1, ttft_p95_s=0.9, itl_p95_s=0.03, **seen)) == 4
    assert law.want(at(15, ready=4, ttft_p95_s=0.1, itl_p95_s=0.02, **seen)) == 3
    assert law.want(at(20, ready=3, ttft_p95_s=0.1, itl_p95_s=0.02, **seen)) == 3  # its floor


def test_every_law_is_tuned_with_the_same_number_of_tries_and_none_leaves_its_range() -> None:
    for rival in RIVALS.values():
        parameters = rival.parameters(SIZING)
        trials = tune(parameters, lambda values: 0.0, seed=1)
        assert len(trials) == RANDOM + LOCAL == 80
        assert any(t.values == rival.defaults(SIZING) for t in trials)
        for p in parameters:
            tried = {t.values[p.name] for t in trials} - {p.default}
            assert bool(tried) == p.searched
            assert not p.choices or tried <= set(p.choices)
            if p.low is not None and p.high is not None:
                assert all(p.low - 1e-9 <= float(v) <= p.high + 1e-9 for v in tried)


def test_the_search_ends_near_the_least_and_repeats_itself_with_its_seed() -> None:
    parameters = RIVALS["skyserve"].parameters(SIZING)

    def score(values: dict[str, Any]) -> float:
        return abs(float(values["target_share"]) - 0.5) + float(values["min_replicas"] != 2)

    trials = tune(parameters, score, seed=5)
    assert trials[0].score < 0.05
    assert trials == tune(parameters, score, seed=5)


def test_the_table_shows_every_setting_and_refuses_a_name_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert told.main([]) == 0
    printed = capsys.readouterr().out
    for rival in RIVALS.values():
        assert rival.version in printed
        assert all(f"`{p.name}`" in printed for p in rival.parameters(SIZING))
    assert told.main(["sky"]) == 2
    assert "no such rival; there are: skyserve" in capsys.readouterr().err
