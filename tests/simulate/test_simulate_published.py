"""The server model against published measurements of vLLM, and the page that shows the errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoscaler.simulate.physics import ServerTable
from tests.simulate.published import FIGURES, Row, book, page_table, within

PAGE = Path(__file__).parents[2] / "docs" / "server-model.md"


def test_the_page_shows_what_the_code_computes() -> None:
    shown = PAGE.read_text().partition("<!-- errors: begin -->\n")[2]

    shown = shown.partition("<!-- errors: end -->")[0].strip()

    assert shown == page_table(), "run `make server-model`"


def test_most_figures_that_nothing_was_fitted_on_are_within_a_quarter() -> None:
    close, many = within(0.25, fitted=False)

    assert many >= 50
    assert close >= 0.8 * many


def test_more_than_half_of_them_are_within_a_tenth() -> None:
    close, many = within(0.10, fitted=False)

    assert close > 0.5 * many


def test_every_gpu_that_can_be_rented_was_measured_by_somebody() -> None:
    assert {row.gpu for row in book().rows} >= set(ServerTable.load().gpus)


@pytest.mark.parametrize("gpu", ["l40s", "a100-40gb-pcie", "a100-80gb-pcie", "a100-80gb-sxm"])
def test_these_gpus_are_judged_at_several_loads(gpu: str) -> None:
    loads = {row.driven() for row in book().rows if row.gpu == gpu and not row.fitted}

    assert len(loads) >= 2


@pytest.mark.parametrize("row", book().rows, ids=lambda row: row.id)
def test_a_row_states_where_it_is_from_and_what_was_measured(row: Row) -> None:
    source = book().sources[row.source]

    assert source["url"].startswith("https://")
    assert source["engine"]
    assert row.measured
    assert set(row.measured) <= set(FIGURES)
    assert row.model in book().models
