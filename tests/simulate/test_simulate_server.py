"""The replica, against a plain loop over single steps and against what must hold whatever the requests are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.simulate.physics import ServerPhysics
from autoscaler.simulate.server import Replica

PLAIN = ServerPhysics(
    weights_s=0.02,
    prefill_s=0.0002,
    attention_s=1e-7,
    cache_s=1e-6,
    mixed_s=3e-6,
    sequence_s=2e-5,
    fixed_s=0.002,
    request_s=0.001,
    bus_s=0.0,
    expert_share=1.0,
    kv_tokens=4000,
    chunk_tokens=128,
    max_num_seqs=8,
    max_model_len=1000,
)
Request = tuple[float, int, int]  # arrival, prompt, output
REQUESTS = st.lists(
    st.tuples(st.floats(0, 20), st.integers(1, 900), st.integers(0, 200)), min_size=1, max_size=40
).map(sorted)
PHYSICS = st.builds(
    lambda **changed: replace(PLAIN, **changed),
    kv_tokens=st.integers(1000, 6000),
    chunk_tokens=st.sampled_from([4, 64, 300, 2048]),
    max_num_seqs=st.integers(1, 12),
    expert_share=st.sampled_from([1.0, 0.25]),
    bus_s=st.sampled_from([0.0, 1e-5]),
)


@dataclass
class Sequence:
    index: int
    prompt: int
    output: int
    given: int = 0
    read: int = 0  # tokens that are in the cache
    is_reading: bool = True

    def left(self) -> int:
        return self.prompt + self.given - self.read if self.is_reading else 0


def by_steps(
    physics: ServerPhysics, requests: list[Request]
) -> tuple[dict[int, float], dict[int, float]]:
    """First and last tokens of all requests, step by step."""
    coming = [Sequence(i, p, max(1, o)) for i, (_, p, o) in enumerate(requests)]
    waiting: list[Sequence] = []
    inside: list[Sequence] = []
    first: dict[int, float] = {}
    done: dict[int, float] = {}
    now = 0.0
    while coming or waiting or inside:
        if not waiting and not inside:
            now = max(now, requests[coming[0].index][0])
        while coming and requests[coming[0].index][0] <= now:
            waiting.append(coming.pop(0))
        before = len(inside)
        while True:  # whose next step does not fit goes back, the last one first
            decoding = [s for s in inside if not s.is_reading]
            budget = max(0, physics.chunk_tokens - len(decoding))
            pieces = {s.index: min(s.left(), budget) for s in inside if s.is_reading}
            need = sum(s.read for s in inside) + len(decoding) + sum(pieces.values())
            if need <= physics.kv_tokens:
                break
            back = inside.pop()
            back.read, back.is_reading = 0, True
            waiting.insert(0, back)
        budget -= sum(pieces.values())
        taken = 0
        may_enter = len(inside) == before and all(
            s.left() == pieces[s.index] for s in inside if s.left()
        )
        while waiting and may_enter and budget > 0 and len(inside) < physics.max_num_seqs:
            if need + waiting[0].left() > physics.kv_tokens:
                break
            new = waiting.pop(0)
            inside.append(new)
            pieces[new.index] = min(new.left(), budget)
            budget -= pieces[new.index]
            need += pieces[new.index]
            may_enter = new.left() == pieces[new.index]
            taken += 1
        reading = [s for s in inside if pieces.get(s.index)]
        attended = sum(pieces[s.index] * (s.read + pieces[s.index] / 2) for s in reading)
        context = sum(s.read for s in decoding)
        now += physics.step_s(len(decoding), context, sum(pieces.values()), attended)
        now += taken * physics.request_s
        for s in decoding:
            s.given += 1
            s.read += 1
        for s in reading:
            s.read += pieces[s.index]
            if not s.left():
                first.setdefault(s.index, now)
                s.given += 1
                s.is_reading = False
        for s in [s for s in inside if s.given == s.output]:
            inside.remove(s)
            done[s.index] = now
    return first, done


def run(replica: Replica, requests: list[Request]) -> tuple[dict[int, float], dict[int, float]]:
    for index, (at, prompt, output) in enumerate(requests):
        replica.advance(at)
        replica.submit(index, prompt, output, at)
    replica.advance(1e9)
    return dict(replica.first), dict(replica.done)


@settings(max_examples=60, deadline=None)
@given(PHYSICS, REQUESTS)
def test_a_replica_does_what_a_loop_over_its_steps_does(
    physics: ServerPhysics, requests: list[Request]
) -> None:
    requests = [(at, p, min(o, physics.max_model_len - p)) for at, p, o in requests]

    first, done = run(Replica(physics), requests)

    slow_first, slow_done = by_steps(physics, requests)
    assert first == pytest.approx(slow_first, abs=1e-6)
    assert done == pytest.approx(slow_done, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(PHYSICS, REQUESTS, st.lists(st.floats(0, 60), max_size=5))
def test_each_request_gets_one_first_and_one_last_token_within_the_limits_of_cache_and_sequences(
    physics: ServerPhysics, requests: list[Request], looks: list[float]
) -> None:
    replica = Replica(physics)
    moments = sorted(
        [*enumerate(requests), *((-1, (at, 0, 0)) for at in looks)], key=lambda m: m[1][0]
    )
    submitted = 0

    for index, (at, prompt, output) in moments:
        replica.advance(at)
        assert replica.next_s > at
        if index >= 0:
            replica.submit(index, prompt, output, at)
            submitted += 1
        assert 0 <= replica.kv_use <= 1
        assert replica.running <= physics.max_num_seqs
        assert replica.in_flight == submitted - len(replica.done)
        assert (replica.next_s < math.inf) == (replica.in_flight > 0)
    replica.advance(1e9)

    everyone = list(range(len(requests)))
    assert sorted(index for index, _ in replica.first) == everyone
    assert sorted(index for index, _ in replica.done) == everyone
    done = dict(replica.done)
    for index, at in replica.first:
        assert requests[index][0] < at <= done[index]
    assert (replica.in_flight, replica.kv_use) == (0, 0)


def test_looking_in_between_changes_nothing() -> None:
    requests: list[Request] = [(i * 0.7, 300 + 40 * i % 500, 20 + i) for i in range(30)]
    watched = Replica(PLAIN)

    for index, (at, prompt, output) in enumerate(requests):
        for step in range(10):
            watched.advance(at - 0.7 + step * 0.07)
        watched.advance(at)
        watched.submit(index, prompt, output, at)
    while watched.in_flight:
        watched.advance(watched.next_s)

    assert (dict(watched.first), dict(watched.done)) == run(Replica(PLAIN), requests)


def test_a_full_replica_gives_the_throughput_of_its_own_steps() -> None:
    physics = replace(PLAIN, kv_tokens=100_000, max_num_seqs=32, chunk_tokens=2048)
    prompt, output, count = 200, 300, 640

    _, done = run(Replica(physics), [(0.0, prompt, output)] * count)

    # in the steady state 32 sequences of all ages decode, and each lets one prompt in per `output` steps
    decode_s = physics.step_s(32, 32 * (prompt + output / 2))
    read_s = physics.prefill_s * prompt + physics.request_s
    expected = 32 / (output * decode_s + 32 * read_s)
    assert count / max(done.values()) == pytest.approx(expected, rel=0.1)


def test_an_embedding_is_done_with_its_first_token_and_keeps_no_cache() -> None:
    replica = Replica(PLAIN)

    replica.submit(7, 100, 0, 1.0)
    replica.advance(2.0)

    assert replica.first == replica.done == [(7, 1.0 + PLAIN.step_s(0, 0, 100, 5000) + 0.001)]
    assert replica.kv_use == 0


def test_a_request_longer_than_the_model_allows_is_cut_and_not_stuck() -> None:
    replica = Replica(PLAIN)

    replica.submit(0, 50_000, 50_000, 0.0)
    replica.advance(1e9)

    assert [index for index, _ in replica.done] == [0]


def test_a_full_cache_sends_the_last_one_back_which_then_goes_on_where_it_was() -> None:
    physics = replace(PLAIN, kv_tokens=1000, chunk_tokens=2048)
    replica = Replica(physics)
    for index in range(3):
        replica.submit(index, 300, 200, 0.0)

    replica.advance(1e9)

    assert replica.preempted > 0
    assert [index for index, _ in replica.first] == [0, 1, 2]
    assert [index for index, _ in replica.done] == [0, 1, 2]
    assert dict(replica.first)[2] < dict(replica.done)[0] < dict(replica.done)[2]


def test_a_dead_machine_tells_who_was_on_it_and_starts_empty() -> None:
    replica = Replica(PLAIN)
    for index in range(20):
        replica.submit(index, 300, 50, 0.0)
    replica.advance(1.0)
    assert replica.waiting

    lost = replica.abandon()

    assert sorted(lost + [index for index, _ in replica.done]) == list(range(20))
    assert (replica.in_flight, replica.next_s, replica.kv_use) == (0, math.inf, 0)
