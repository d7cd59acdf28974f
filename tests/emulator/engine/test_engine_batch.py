"""Continuous batching as little timelines; time is an argument."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.emulator.engine.batch import Batch, Request
from autoscaler.emulator.engine.figures import Figures
from autoscaler.emulator.engine.speed import Speed


def batch_of(slots: int = 8, kv_tokens: int = 10_000) -> Batch:
    # 1 ms per prompt token, 10 ms per step whatever its size
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


def test_decode_steps_are_taken_together_until_something_happens() -> None:
    batch = batch_of()
    batch.emit_every_s = 0.25
    batch.submit(Request(prompt_tokens=10, output_tokens=101, arrived_at=0.0), 0.0)

    rounds = 0
    while batch.due_at is not None:
        batch.advance(batch.due_at)
        rounds += 1

    assert rounds == 1 + 4  # the prefill; 100 steps of 10 ms, told every 250 ms


def test_an_arrival_cuts_in_at_the_next_token() -> None:
    batch = batch_of()
    batch.emit_every_s = 10.0
    first = Request(prompt_tokens=10, output_tokens=201, arrived_at=0.0)
    second = Request(prompt_tokens=50, output_tokens=1, arrived_at=0.105)
    batch.submit(first, 0.0)
    batch.advance(0.01)

    batch.submit(second, 0.105)
    run_out(batch)

    assert second.scheduled_at == pytest.approx(0.11)
    assert second.first_token_at == pytest.approx(0.11 + 0.05 + 0.01)
    assert first.finished_at == pytest.approx(0.01 + 2.0 + 0.05)


def test_requests_beyond_the_slots_wait_their_turn_in_order() -> None:
    batch = batch_of(slots=2)
    requests = [Request(prompt_tokens=10, output_tokens=11, arrived_at=0.0) for _ in range(4)]
    for request in requests:
        batch.submit(request, 0.0)
    assert (len(batch.running), len(batch.waiting)) == (1, 3)

    batch.advance(0.011)
    assert (len(batch.running), len(batch.waiting)) == (2, 2)
    run_out(batch)

    ends = [request.finished_at or 0.0 for request in requests]
    assert ends == sorted(ends)
    assert ends[2] > ends[1]


def test_a_cancelled_request_gives_its_slot_to_the_next() -> None:
    batch = batch_of(slots=1)
    first = Request(prompt_tokens=10, output_tokens=1000, arrived_at=0.0)
    second = Request(prompt_tokens=10, output_tokens=2, arrived_at=0.0)
    batch.submit(first, 0.0)
    batch.submit(second, 0.0)
    batch.advance(0.1)

    batch.cancel(first, 0.1)
    run_out(batch)

    assert not first.is_finished
    assert second.finished_at == pytest.approx(0.1 + 0.02, abs=0.011)
    assert batch.figures.finished == {"abort": 1, "length": 1}


def test_a_full_cache_preempts_the_youngest_and_loses_no_token() -> None:
    batch = batch_of(kv_tokens=300)
    requests = [Request(prompt_tokens=100, output_tokens=80, arrived_at=0.0) for _ in range(2)]
    for request in requests:
        batch.submit(request, 0.0)

    run_out(batch)

    assert batch.figures.preemptions >= 1
    assert [request.generated for request in requests] == [80, 80]
    assert (requests[0].finished_at or 0) < (requests[1].finished_at or 0)
    assert batch.figures.generation_tokens == 160


def test_a_long_prompt_is_prefilled_in_chunks_while_others_decode() -> None:
    batch = batch_of()
    batch.prefill_tokens_per_step = 100
    short = Request(prompt_tokens=10, output_tokens=100, arrived_at=0.0)
    long = Request(prompt_tokens=1000, output_tokens=1, arrived_at=0.02)
    batch.submit(short, 0.0)
    batch.advance(0.02)

    batch.submit(long, 0.02)
    run_out(batch)

    # ten chunks, each with a decode step of the other: 10 x (100 + 10) ms
    assert long.first_token_at == pytest.approx(0.02 + 1.1, abs=0.011)
    assert batch.figures.prompt_tokens == 1010


def test_an_embedding_ends_with_its_prefill() -> None:
    batch = batch_of()
    request = Request(prompt_tokens=200, output_tokens=0, arrived_at=0.0, finish_reason="stop")

    batch.submit(request, 0.0)
    run_out(batch)

    assert request.finished_at == pytest.approx(0.2)
    assert request.generated == 0


def test_a_late_call_catches_up() -> None:
    punctual, late = batch_of(), batch_of()
    requests = [Request(prompt_tokens=10, output_tokens=500, arrived_at=0.0) for _ in range(2)]
    punctual.submit(requests[0], 0.0)
    late.submit(requests[1], 0.0)
    run_out(punctual)

    late.advance(1000.0)

    assert requests[0].finished_at == pytest.approx(requests[1].finished_at)


@given(
    arrivals=st.lists(
        st.tuples(
            st.floats(0.0, 2.0),  # after the one before
            st.integers(1, 400),  # prompt
            st.integers(0, 60),  # output
            st.one_of(st.none(), st.floats(0.0, 3.0)),  # the client goes after
        ),
        max_size=20,
    ),
    slots=st.integers(1, 4),
)
@settings(deadline=None)
def test_every_request_ends_and_every_token_is_counted_whatever_comes(
    arrivals: list[tuple[float, int, int, float | None]], slots: int
) -> None:
    batch = batch_of(slots=slots, kv_tokens=1000)
    events: list[tuple[float, int, Request]] = []
    now = 0.0
    for gap, prompt, output, leaves in arrivals:
        now += gap
        request = Request(prompt_tokens=prompt, output_tokens=output, arrived_at=now)
        events.append((now, 0, request))
        if leaves is not None:
            events.append((now + leaves, 1, request))

    for at, kind, request in sorted(events, key=lambda event: event[:2]):
        if kind == 0:
            batch.submit(request, at)
        else:
            batch.cancel(request, at)
        assert len(batch.running) <= slots
        assert batch.kv_used <= 1000
    run_out(batch)

    requests = [request for _, kind, request in events if kind == 0]
    assert all(request.is_finished != request.is_cancelled for request in requests)
    assert all(r.generated == r.output_tokens for r in requests if r.is_finished)
    assert batch.figures.generation_tokens == sum(request.generated for request in requests)
    assert not batch.running
    assert not batch.waiting
