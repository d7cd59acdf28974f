"""docs/mkinf.md says of every endpoint what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoscaler.cloud.mkinf.endpoints import ENDPOINTS, Endpoint

PAGE = Path(__file__).parents[2] / "docs" / "mkinf.md"


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: each.name)
def test_an_endpoint_stands_in_the_docs_with_its_mark_and_fallback(endpoint: Endpoint) -> None:
    path = endpoint.path.replace("/projects/{project_id}", "P")
    line = (
        f"| {endpoint.name} | {endpoint.method} `{path}` | {endpoint.mark} | {endpoint.fallback} |"
    )

    assert line in PAGE.read_text("utf-8").splitlines()


def test_names_of_endpoints_are_unique() -> None:
    assert len({each.name for each in ENDPOINTS}) == len(ENDPOINTS)
