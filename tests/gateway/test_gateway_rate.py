"""A key's bucket: a minute's worth at most, refilled evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.gateway.rate import Bucket


def test_a_full_minutes_worth_may_come_at_once_and_then_one_at_a_time() -> None:
    bucket = Bucket(60, now=100.0)
    for _ in range(60):
        assert bucket.wait_s(1, 100.0) == 0
        bucket.take(1, 100.0)

    assert bucket.wait_s(1, 100.0) == pytest.approx(1.0)
    assert bucket.wait_s(1, 101.0) == 0
    assert bucket.full_in_s(100.0) == pytest.approx(60.0)


def test_a_need_larger_than_the_bucket_waits_for_a_full_one_and_leaves_a_debt() -> None:
    bucket = Bucket(60, now=0.0)
    bucket.take(30, 0.0)

    assert bucket.wait_s(180, 0.0) == pytest.approx(30.0)
    bucket.take(180, 30.0)
    assert bucket.wait_s(1, 30.0) == pytest.approx(121.0)


def test_another_rate_keeps_the_share_that_was_left() -> None:
    bucket = Bucket(100, now=0.0)
    bucket.take(75, 0.0)

    bucket.set_rate(1000, 0.0)

    assert bucket.left(0.0) == pytest.approx(250)


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=60),
)
def test_over_any_time_it_gives_no_more_than_one_minutes_worth_beyond_its_rate(
    per_minute: int, asks: list[tuple[float, int]]
) -> None:
    bucket, now, given_out, largest = Bucket(per_minute, 0.0), 0.0, 0, 0
    for gap, need in asks:
        now += gap
        if bucket.wait_s(need, now) == 0:
            bucket.take(need, now)
            given_out += need
            largest = max(largest, need)

    assert given_out <= per_minute * (1 + now / 60) + max(0, largest - per_minute) + 1e-6
