"""Quantiles and attainment: exact on edges, rounded down between them, never invented."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.observe.histogram import attained, edge_at_or_below, parse_edge, quantile

LATENCY = {0.1: 60.0, 0.5: 90.0, 1.0: 98.0, math.inf: 100.0}


def test_an_edge_is_the_same_however_it_is_written() -> None:
    assert parse_edge("1.0") == parse_edge("1") == 1.0
    assert parse_edge("+Inf") == math.inf
    assert parse_edge("soon") is None
    assert parse_edge("nan") is None


def test_attainment_on_an_edge_is_exact() -> None:
    assert attained(LATENCY, 0.5) == 0.9
    assert attained(LATENCY, 0.1 + 1e-17) == 0.6


def test_a_target_between_edges_is_rounded_down() -> None:
    assert attained(LATENCY, 0.9) == 0.9
    assert edge_at_or_below(LATENCY, 0.9) == 0.5


def test_a_target_below_the_first_edge_says_nothing() -> None:
    assert attained(LATENCY, 0.05) is None


def test_a_quantile_is_linear_inside_its_bucket_and_ends_at_the_last_edge() -> None:
    assert quantile(LATENCY, 0.5) == pytest.approx(0.1 * 50 / 60)
    assert quantile(LATENCY, 0.75) == pytest.approx(0.3)
    assert quantile(LATENCY, 0.99) == 1.0


def test_nothing_observed_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({0.1: 0.0, math.inf: 0.0}, 0.95) is None
    assert attained({0.1: 0.0, math.inf: 0.0}, 0.1) is None


@given(
    st.dictionaries(st.floats(0.001, 100), st.floats(0, 1e6), min_size=1, max_size=12),
    st.floats(0, 1),
    st.floats(0.001, 200),
)
def test_even_a_page_whose_counts_fall_gives_values_in_range(
    cumulative: dict[float, float], q: float, target_s: float
) -> None:
    value, share = quantile(cumulative, q), attained(cumulative, target_s)

    assert value is None or 0 <= value <= max(cumulative)
    assert share is None or 0 <= share <= 1
