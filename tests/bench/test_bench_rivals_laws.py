"""The rivals' laws against their makers' own code and tests, by recorded vectors.

`bench/rivals/record.py` makes those of the packages anew; the others are the numbers of the makers' own test suites.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.rivals import aibrix, dynamo, keda, knative, rayserve
from bench.rivals.catalogue import RIVALS
from bench.rivals.law import Law, Sizing, View

VECTORS = Path(__file__).parent / "vectors"


def cases(name: str, key: str = "") -> list[Any]:
    """A file's cases, those with `key` if one is named; each with a name to be told by."""
    found = [
        c
        for c in json.loads((VECTORS / f"{name}.json").read_text())["cases"]
        if not key or key in c
    ]
    assert found
    return [pytest.param(c, id=str(c.get("test", i))) for i, c in enumerate(found)]


def sized(case: dict[str, Any], rate: float = 1.0, concurrency: float = 1.0) -> Sizing:
    return Sizing(requests_per_s=rate, concurrency=concurrency, max_replicas=case["most"])


def view(now_s: float, *, rate: float = 0.0, ready: int = 0, **more: Any) -> View:
    return View(now_s=now_s, ready=ready, booting=0, arrivals_per_s=lambda window_s: rate, **more)


def build(name: str, case: dict[str, Any], **sizing: float) -> Law:
    given = {k: v for k, v in case["settings"].items() if v is not None}
    return RIVALS[name].law(sized(case, **sizing), given)


@pytest.mark.parametrize("case", cases("skyserve"))
def test_skyserve_wants_what_its_own_autoscaler_wants(case: dict[str, Any]) -> None:
    law = build("skyserve", case, rate=case["target"])
    answers = [(law.want(view(0, rate=n / 60)), law.interval_s) for n in case["counts"]]
    assert answers == list(zip(case["wants"], case["waits"], strict=True))
    assert len(set(case["wants"])) >= 3


@pytest.mark.parametrize("case", cases("dstack"))
def test_dstack_wants_what_its_own_autoscaler_wants(case: dict[str, Any]) -> None:
    law = build("dstack", case, rate=case["target"])
    window_s = case["settings"]["window_s"]
    seen = zip(case["times"], case["counts"], strict=True)
    assert [law.want(view(at_s, rate=n / window_s)) for at_s, n in seen] == case["wants"]
    assert len(set(case["wants"])) >= 3


@pytest.mark.parametrize("case", cases("rayserve"))
def test_ray_serve_wants_what_its_own_policy_wants(case: dict[str, Any]) -> None:
    sizing = sized(case)
    settings = rayserve.Settings(**{**RIVALS["rayserve"].defaults(sizing), **case["settings"]})
    policy = rayserve.Policy(settings)
    for now_s, ongoing, running, target, wanted in case["steps"]:
        assert policy.decide(now_s, ongoing, running, target) == wanted, now_s


@pytest.mark.parametrize("case", cases("knative"))
def test_the_kpa_decides_as_its_own_tests_say(case: dict[str, Any]) -> None:
    decider = knative.Decider(
        case["target"],
        panic_threshold=case["panic_threshold"],
        stable_window_s=case["stable_window_s"],
        max_up=case["max_up"],
        max_down=case["max_down"],
        delay_s=case.get("delay_s", 0),
        ready=case["ready_at_start"],
    )
    for now_s, stable, panic, ready, wanted in case["steps"]:
        assert decider.scale(now_s, stable, panic, ready) == wanted, now_s


@pytest.mark.parametrize("case", cases("hpa", "proposal"))
def test_the_hpa_proposes_as_its_own_tests_say(case: dict[str, Any]) -> None:
    found = keda.proposal(case["total"], case["target"], case["current"], tolerance=0.1)
    assert found == case["proposal"]


@pytest.mark.parametrize("case", cases("hpa", "stabilized"))
def test_the_hpa_stabilizes_as_its_own_tests_say(case: dict[str, Any]) -> None:
    window = keda.Stabilization(up_s=0, down_s=300)
    for at_s, wish in case["history"]:
        window.settle(at_s, current=10, wanted=wish)
    assert window.settle(0, current=10, wanted=case["wanted"]) == case["stabilized"]


@pytest.mark.parametrize("case", cases("hpa", "least"))
def test_the_hpa_limits_its_rate_as_its_own_tests_say(case: dict[str, Any]) -> None:
    def spread(changes: list[int]) -> list[tuple[float, int]]:
        part = 120 / max(1, len(changes))
        return [(part * i + part / 2 - 120, n) for i, n in enumerate(changes)]

    up = keda.Rates(*case["up"]) if case["up"] else keda.UP
    down = keda.Rates(*case["down"]) if case["down"] else keda.DOWN
    events = keda.Events(spread(case["added"]), spread(case["removed"]))
    found = keda.limited(0, case["current"], case["wanted"], up, down, events)
    assert max(case["least"], min(case["most"], found)) == case["expected"]


@pytest.mark.parametrize("case", cases("aibrix"))
def test_the_apa_proposes_as_its_own_tests_say(case: dict[str, Any]) -> None:
    sizing = Sizing(requests_per_s=1, concurrency=1, max_replicas=100)
    rates = {"max_scale_up_rate": case["max_up"], "max_scale_down_rate": case["max_down"]}
    settings = aibrix.Settings(**{**RIVALS["aibrix"].defaults(sizing), **rates})
    found = aibrix.proposal(settings, case["use"] / case["target"], case["current"])
    assert found == case["expected"]


def _dynamo_settings(**over: Any) -> dynamo.Settings:
    sizing = Sizing(requests_per_s=1, concurrency=1, max_replicas=12)
    return dynamo.Settings(**{**RIVALS["dynamo"].defaults(sizing), **over})


@pytest.mark.parametrize("case", cases("dynamo", "objective"))
def test_dynamo_steps_as_its_own_planner_does(case: dict[str, Any]) -> None:
    own = {"up_kv": 0.7, "down_kv_share": 0.5}  # only `load` reads them
    settings = _dynamo_settings(objective=case["objective"], **own)
    for demands, ready, pending, wanted in case["steps"]:
        assert dynamo.stepped(settings, demands, ready, pending) == wanted, (
            demands,
            ready,
            pending,
        )


def _last(name: str, what: str) -> dict[str, Any]:
    found = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    case: dict[str, Any] = next(c for c in found if c["what"] == what)
    return case


def test_dynamo_sizes_for_a_predicted_rate_as_its_own_planner_does() -> None:
    case = _last("dynamo", "floor")
    for demand, ready, pending, wanted in case["steps"]:
        law = RIVALS["dynamo"].law(sized(case), {"objective": "sla"})
        ordered = min(case["most"], ready + pending)
        assert law.want(view(0, rate=ordered, ready=ordered)) == ordered
        found = law.want(view(180, rate=demand, ready=ready))
        expected = ordered if wanted is None else wanted
        assert found == expected, (demand, ready, pending)


def test_dynamo_predicts_as_its_own_kalman_filter_does() -> None:
    case = _last("dynamo", "kalman")
    filter_ = dynamo.Kalman()
    ahead: list[float] = []
    say: Callable[[], float] = filter_.next
    for point in case["points"]:
        filter_.add(point)
        ahead.append(say())
    assert ahead == pytest.approx(case["ahead"], abs=1e-6)
