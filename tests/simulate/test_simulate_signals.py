"""The signals of a backtest are those that the gateway and the engines would give, gaps included."""

from __future__ import annotations

from autoscaler.domain.signals import FigureName, Signals
from autoscaler.simulate.fleet import instant
from autoscaler.simulate.signals import Gauges, Meter
from tests.simulate.world_parts import policy


def read(meter: Meter, now_s: float, **values: float | bool | None) -> Signals:
    given = {
        "waiting": 0,
        "running": 0,
        "oldest_wait_s": 0.0,
        "kv_use": None,
        "serves": True,
        **values,
    }
    return meter.read(now_s, instant(now_s), Gauges(**given))[-1]  # type: ignore[arg-type]


def test_rates_are_those_of_the_window_and_no_more() -> None:
    meter = Meter(policy())
    for now_s in range(0, 301, 15):
        signals = read(meter, float(now_s), running=3)
        meter.arrivals += 30 if now_s < 120 else 6
        meter.prompt_tokens += 3000
        meter.output_tokens += 600

    assert signals.value(FigureName.ARRIVALS) == 6 * 4 / 60
    assert signals.value(FigureName.PROMPT_TOKENS) == 3000 * 4 / 60
    assert signals.value(FigureName.OUTPUT_TOKENS) == 600 * 4 / 60
    assert not signals.idle


def test_before_the_trace_nothing_came_and_that_is_known() -> None:
    signals = read(Meter(policy()), 0.0)

    assert signals.idle
    assert signals.value(FigureName.ARRIVALS) == 0.0
    assert signals.get(FigureName.TTFT_P95) is None


def test_what_waits_without_a_server_is_held_and_only_then() -> None:
    meter = Meter(policy())

    assert read(meter, 0.0, waiting=7, serves=False).held == 7
    assert read(meter, 15.0, waiting=7, serves=True).held == 0


def test_latencies_need_enough_requests_and_look_further_back_for_them() -> None:
    meter = Meter(policy())
    for now_s in range(0, 2401, 60):
        signals = read(meter, float(now_s), running=1)
        meter.ttft.observe(1.5 if now_s < 1200 else 3.0, 4)
        if now_s == 300:
            assert signals.get(FigureName.TTFT_ATTAINED) is None  # 20 in 5 minutes, 20 in all
        if now_s == 600:
            assert signals.value(FigureName.TTFT_ATTAINED) == 1.0  # 40 in the last 10 minutes

    assert signals.value(FigureName.TTFT_ATTAINED) == 0.0
    p95_s = signals.value(FigureName.TTFT_P95)
    assert p95_s is not None
    assert 2.5 < p95_s <= 3.0


def test_the_history_is_as_long_as_a_decision_looks_back() -> None:
    meter = Meter(policy())
    for now_s in range(0, 7200, 15):
        history = meter.read(float(now_s), instant(now_s), Gauges(0, 0, 0.0, 0.5, True))

    span = history[-1].at - history[0].at
    assert policy().scaling.work_window <= span
    assert len(history) < 80
    assert history[-1].value(FigureName.KV_USE) == 0.5
