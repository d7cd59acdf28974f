"""A mistake is told with the line on which it stands."""

from __future__ import annotations

from autoscaler.toml_file import line_of

TEXT = """schema = 1
[hardware.capacity."a40.1x"]
concurrency = 0
[hardware]
gpus = "no"
[[signals.sources]]
kind = "gateway"
[[signals.sources]]
kind = "prom"
"""


def test_a_table_named_before_its_parent_is_not_taken_for_it() -> None:
    assert line_of(TEXT, ["hardware", "gpus"]) == 5


def test_a_dot_within_quotes_parts_no_name() -> None:
    assert line_of(TEXT, ["hardware", "capacity", "a40.1x", "concurrency"]) == 3


def test_an_entry_of_a_list_is_found_by_its_place() -> None:
    assert line_of(TEXT, ["signals", "sources", 1, "kind"]) == 9


def test_a_key_that_is_not_written_points_to_its_table() -> None:
    assert line_of(TEXT, ["hardware", "types"]) == 4
