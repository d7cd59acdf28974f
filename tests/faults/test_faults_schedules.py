"""Schedules of faults: the daemon keeps every promise through each of them, and comes right when they end.

200 schedules, in chunks that the workers share. `make faults SCHEDULES=10000` runs more.
"""

from __future__ import annotations

import pytest

from tests.faults.faults import KINDS
from tests.faults.schedule import run, schedule_of

CHUNKS, EACH = 10, 20


@pytest.mark.timeout(900)  # a slow machine with other work to do; alone it takes seconds
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_promise_is_kept_through_a_schedule_of_faults(chunk: int) -> None:
    broken = [
        f"seed {seed}: {violation}"
        for seed in range(chunk * EACH, (chunk + 1) * EACH)
        for violation in run(schedule_of(seed)).violations
    ]

    assert not broken, "replay with: make faults SCHEDULES=1 SEED=…\n" + "\n".join(broken)


def test_a_seed_runs_alike_each_time() -> None:
    first, second = run(schedule_of(7)), run(schedule_of(7))

    assert (first.trace, first.crossings) == (second.trace, second.crossings)
    assert first.crossings > 5000


def test_another_seed_is_another_world() -> None:
    assert run(schedule_of(7, hours=0.2)).trace != run(schedule_of(8, hours=0.2)).trace


def test_a_day_comes_once_in_fifty_and_every_kind_of_fault_is_drawn() -> None:
    schedules = [schedule_of(seed) for seed in range(200)]

    assert sum(schedule.options.hours == 24 for schedule in schedules) == 4
    assert {fault.kind for schedule in schedules for fault in schedule.faults} == set(KINDS)
