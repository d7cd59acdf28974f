"""The figures for the control law and for Prometheus."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.gateway.figures import EDGES_S, RING_S, Histogram, Ring
from autoscaler.gateway.tokens import TokenMeter

MODEL = "org/chat-8b"
USAGE = (
    b'data: {"usage": {"prompt_tokens": 1234, "total_tokens": 1301, "completion_tokens": 67}}\n\n'
)


async def test_tokens_come_from_usage_when_the_engine_tells(gateway: Any, engine: Any) -> None:
    await gateway.add("a", engine.url)

    await gateway.chat()

    signals = await gateway.ask("signals", model=MODEL)
    assert signals["prompt_tokens_total"] == 11
    assert signals["output_tokens_total"] == 22


async def test_tokens_of_a_stream_without_usage_are_its_events(gateway: Any, engine: Any) -> None:
    engine.events = 100
    await gateway.add("a", engine.url)

    await gateway.chat(stream=True, prompt="x" * 400)

    signals = await gateway.ask("signals", model=MODEL)
    assert 95 <= signals["output_tokens_total"] <= 101
    assert 100 <= signals["prompt_tokens_total"] <= 130


async def test_a_stream_is_timed_and_a_held_one_counts_its_wait(gateway: Any, engine: Any) -> None:
    engine.gate.clear()
    asked = asyncio.create_task(gateway.chat(stream=True))
    await gateway.until(lambda pool: pool["waiting"] == 1 and pool["oldest_wait_s"] > 0.05)
    await gateway.add("a", engine.url)
    await engine.started.acquire()
    await gateway.ask("state")
    engine.gate.set()
    await asked

    signals = await gateway.ask("signals", model=MODEL)
    for name in ("ttft", "e2e", "queue_time"):
        assert signals[name]["cumulative"][-1] == 1
        assert signals[name]["sum_s"] > 0.05
    assert signals["inter_token"]["cumulative"][-1] >= 1
    assert signals["cold_starts_total"] == 1
    assert len(signals["edges_s"]) + 1 == len(signals["ttft"]["cumulative"])


async def test_history_tells_arrivals_tokens_and_the_fullest_moment(
    gateway: Any, engine: Any
) -> None:
    engine.gate.clear()
    await gateway.add("a", engine.url)
    asked = [asyncio.create_task(gateway.chat()) for _ in range(5)]
    await gateway.until(lambda pool: pool["running"] == 5)
    engine.gate.set()
    await asyncio.gather(*asked)

    history = await gateway.ask("history", model=MODEL, seconds="60")

    assert sum(history["arrivals"]) == 5
    assert sum(history["output_tokens"]) == 110
    assert sum(history["prompt_tokens"]) > 0
    assert max(history["in_system_max"]) == 5
    assert len(history["arrivals"]) == len(history["in_system_max"]) <= 60
    assert history["from_unix_s"] <= history["unix_s"]


async def test_the_metrics_page_passes_promtool(gateway: Any, engine: Any, start: Any) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.fail("promtool is missing: apt-get install prometheus")
    await gateway.add("a", engine.url)
    await gateway.chat(stream=True)
    await gateway.chat(model="nope")
    async with gateway.control.get("http://gateway/metrics") as response:
        page = await response.read()

    check = await asyncio.create_subprocess_exec(
        *(promtool, "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await check.communicate(page)

    assert (check.returncode, told) == (0, b"")
    assert b'autoscaler_gateway_arrivals_total{model="org/chat-8b"} 1.0' in page
    assert b"autoscaler_gateway_unmatched_requests_total 1.0" in page
    assert b"_created" not in page


async def test_the_metrics_page_has_a_port_of_its_own_when_asked_for(start: Any) -> None:
    async with start(metrics=("127.0.0.1", 0)) as gateway:
        host, port = gateway.gateway.metrics_address
        async with gateway.client.get(f"http://{host}:{port}/metrics") as response:
            assert response.status == 200
        async with gateway.client.get(f"http://{host}:{port}/v1/state") as response:
            assert response.status == 404
        async with gateway.client.get(f"{gateway.url}/metrics") as response:
            assert response.status == 404


@given(cuts=st.lists(st.integers(0, 2000), max_size=20), events=st.integers(0, 30))
def test_usage_is_found_wherever_the_stream_is_cut(cuts: list[int], events: int) -> None:
    whole = b'data: {"choices":[],"usage":null}\n\n' * events + USAGE + b"data: [DONE]\n\n"
    meter = TokenMeter(is_stream=True)

    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    for begin, end in itertools.pairwise(edges):
        meter.feed(whole[begin:end])

    assert meter.prompt_tokens() == 1234
    assert meter.output_tokens() == 67


def test_text_that_a_model_writes_cannot_pose_as_usage() -> None:
    meter = TokenMeter(is_stream=False)

    meter.feed(b'{"usage": {"prompt_tokens": 5, "completion_tokens": 6}, "text": "')
    meter.feed(rb"\"usage\": {\"completion_tokens\": 999999}" + b'"}')

    assert meter.output_tokens() == 6


@given(st.lists(st.floats(0, 400), max_size=50))
def test_a_histogram_counts_at_or_below_each_edge(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)

    cumulative = histogram.cumulative()

    assert cumulative[-1] == len(values)
    assert cumulative[:-1] == [sum(value <= edge for value in values) for edge in EDGES_S]


def test_a_quiet_second_keeps_the_number_that_was_in_the_system() -> None:
    ring = Ring(100.0)
    ring.advance(100.2, 7)
    ring.advance(103.9, 7)
    ring.advance(103.9, 2)

    first, slots = ring.window(10)

    assert first == 100
    assert [ring.in_system_max[slot] for slot in slots] == [7, 7, 7, 7]


def test_after_a_long_silence_the_ring_holds_only_its_length() -> None:
    ring = Ring(0.0)
    ring.arrivals[ring.advance(5.0, 1)] += 3
    ring.advance(5.0 + 10 * RING_S, 0)

    _, slots = ring.window(RING_S)

    assert len(slots) == RING_S
    assert sum(ring.arrivals[slot] for slot in slots) == 0
