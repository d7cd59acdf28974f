"""The policy's own words for a page's names."""

from __future__ import annotations

import pytest

from autoscaler.errors import ConfigError
from autoscaler.observe.dialect import read_samples
from autoscaler.observe.mapping import mapped, parse_sum
from autoscaler.observe.page import Wanted, parse_page


def gauge(expression: str, body: str) -> float:
    dialect = mapped("page", {"waiting": expression})
    samples = parse_page(body.encode(), Wanted(dialect.series_names()))
    return sum(read_samples(dialect, samples, "m").gauges.values())


def test_terms_are_added_labels_are_matched_and_units_are_brought_to_ours() -> None:
    body = 'a{k="1",x="y"} 3\na{k="2"} 4\nb 10\nc_ms 2500\n'

    assert gauge("a", body) == 7
    assert gauge('a{k="1"}', body) == 3
    assert gauge(' a{ k = "2" , } + b ', body) == 14
    assert gauge("c_ms * 0.001", body) == 2.5


@pytest.mark.parametrize(
    "expression",
    ["", "a +", "a b", "a{k=1}", "a{k='1'}", "rate(a[1m])", "a - b", "a;b", "a * b", "{x}", "a{"],
)
def test_anything_else_is_refused_with_the_form(expression: str) -> None:
    with pytest.raises(ConfigError, match=r"mapping\.waiting: .* is not a sum of series"):
        parse_sum("waiting", expression)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"mapping\.wating: unknown; .* 'waiting'"):
        mapped("page", {"wating": "a"})
