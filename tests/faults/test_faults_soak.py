"""Slices of `make soak`: a host that is down for long, the meter beside the bill, and that growth is seen."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from tests.faults.schedule import Fault
from tests.faults.soak import run
from tests.faults.soak_days import soak_of
from tests.faults.soak_figures import Sample, growths, held_by

FROM_H, DOWN_H, LENGTH_H = 11, 12, 18  # the host is down from 13 o'clock on, the fullest hour


@pytest.mark.timeout(300)  # virtual time; alone it takes seconds
def test_a_host_down_for_twelve_hours_under_load_fails_no_request_and_the_meter_stays_right() -> (
    None
):
    down = Fault((13 - FROM_H) * 3600.0, "killed", None, (("down_s", DOWN_H * 3600.0),))
    outcome = run(
        soak_of(LENGTH_H / 24, means=(0.08,), faults=[down], balancers=1, from_hour=FROM_H)
    )

    assert outcome.wrong() == []
    assert (len(outcome.failed), outcome.refused) == (0, 0)
    assert outcome.served > 5000
    assert [hour.was_able for hour in outcome.hours].count(False) == DOWN_H
    last = outcome.hours[-1]
    assert last.bill <= last.meter <= last.bill + last.machine_minutes
    assert last.bill > 10


def looks(name: str, values: list[float], life: int = 1) -> list[Sample]:
    figures = dict.fromkeys(("tasks", "fds"), 10.0)
    return [
        Sample(day, life, float(day), {**figures, name: value}, {"events": 1000.0})
        for day, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tasks", [20.0 + day for day in range(10)]),
        ("fds", [10.0 + day / 2 for day in range(10)]),
        ("rss_mb", [150.0 + 6 * day for day in range(10)]),
        ("objects", [20_000.0 + 800 * day for day in range(10)]),
    ],
)
def test_what_grows_by_more_than_half_in_a_month_fails_the_soak(
    name: str, values: list[float]
) -> None:
    assert [what.split()[0] for what in growths(looks(name, values), 0.5, 2)] == [name]


def test_what_stands_or_jumps_once_or_begins_anew_fails_nothing() -> None:
    one_bad_day = looks("objects", [20_000.0] * 4 + [90_000.0] + [20_000.0] * 5)
    another_life = looks("objects", [20_000.0] * 5) + looks("objects", [60_000.0] * 5, life=2)

    assert growths(one_bad_day, 0.5, 2) == []
    assert growths(another_life, 0.5, 2) == []


def test_rows_may_come_until_the_retention_ends_and_not_after() -> None:
    def days(counts: list[float]) -> list[Sample]:
        return [
            Sample(d, 1, float(d), {}, {"events": count, "intents": 100.0 * d})
            for d, count in enumerate(counts, start=1)
        ]

    assert growths(days([1000, 2000, 3000, 3000, 3100, 3000, 3050]), 0.5, 3) == []
    assert growths(days([1000, 2000, 3000, 4000, 5000, 6000, 7000]), 0.5, 3) == [
        "rows in events grows by 30000 in 720 h, from 4000 to 7000"
    ]


async def test_what_an_object_holds_is_counted_with_its_queues_and_without_what_lies_beyond() -> (
    None
):
    beyond = [object() for _ in range(1000)]
    queue: asyncio.Queue[int] = asyncio.Queue()
    for number in range(5):
        queue.put_nowait(number)

    held = held_by({"queue": queue, "deque": deque(["a"]), "beyond": beyond}, [beyond])

    assert held.queued == 5 + 5 + 1  # the queue, the deque inside it, the other
    assert held.objects < 100
