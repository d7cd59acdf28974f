"""Continuous batching as little timelines; time is an argument."""

from __future__ import annotations

import pytest
from autoscaler.emulator.engine.batch import Batch, Request
from autoscaler.emulator.engine.figures import Figures
from autoscaler.emulator.engine.speed import Speed

# 1 ms per prompt token, 10 ms per step whatever its size
SPEED = Speed(
    prefill_s=0.001,
    weights_s=0.010,
    sequence_s=0.0,
    cached_s=0.0,
    overhead_s=0.0,
    kv_tokens=10_000,
)


def batch_of(slots: int = 8, kv_tokens: int = 10_000) -> Batch:
    speed = Speed(0.001, 0.010, 0.0, 0.0, 0.0, kv_tokens)
    return Batch(speed=speed, figures=Figures(), max_num_seqs=slots)


def run_out(batch: Batch) -> None:
    while batch.due_at is not None:
        batch.advance(batch.due_at)


def test_a_lone_request_takes_its_prefill_and_a_step_per_token_after_the_first() -> None:
    batch = batch_of()
    request = Request(prompt_tokens=100, output_tokens=51, arrived_at=0.0)

    batch.submit(request, 0.0)
    run_out(batch)

    assert request.first_token_at == pytest.approx(0.1)
    assert request.finished_at == pytest.approx(0.6)
    assert request.generated == 51
    assert batch.kv_used == 0
