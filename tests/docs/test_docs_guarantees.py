"""The page of guarantees is whole: each row has its test, each fault its row, each cell its count, each bug its own."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.faults import KINDS
from tests.faults.invariants import Invariant
from tests.faults.kinds import STATES
from tests.faults.planted import BUGS
from tests.faults.table import BEGIN, END, NOT_SIMULATED, why_never

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text()
SIZES = {
    "C": 16, "O": 9, "N": 3, "V": 6, "H": 6, "M": 6, "B": 9, "T": 5, "S": 7, "D": 5, "K": 2, "P": 4, "U": 2, "X": 3,
    "A": 6,
}  # fmt: skip
ROWS = {f"{letter}{number}" for letter, size in SIZES.items() for number in range(1, size + 1)}


def told() -> dict[str, str]:
    """Each row of the catalogue as the page has it: what shows it."""
    return dict(re.findall(r"^\| ([A-Z]\d+) \| .* \| (.+) \|$", PAGE, flags=re.MULTILINE))


def test_each_row_of_the_catalogue_names_a_test_that_is_there_or_says_why_not() -> None:
    wrong = []
    for row, shown in told().items():
        link = re.fullmatch(r"\[(\w+)\]\(\.\./(tests/\S+\.py)\)", shown)
        if link is None:
            is_reasoned = shown.startswith("– : ") and len(shown) > 30
        else:
            is_reasoned = f"def test_{link[1]}(" in (ROOT / link[2]).read_text()
        if not is_reasoned:
            wrong.append(f"{row}: {shown}")

    assert not wrong
    assert set(told()) == ROWS


def test_each_row_of_the_catalogue_is_simulated_or_says_why_not() -> None:
    simulated = {row for kind in KINDS.values() for row in kind.rows}

    assert simulated | NOT_SIMULATED.keys() == ROWS
    assert not simulated & NOT_SIMULATED.keys()
    assert all(f"- {row}: {why}" in met_what() for row, why in NOT_SIMULATED.items())


def met_what() -> str:
    """The generated part of the page."""
    return PAGE.partition(BEGIN)[2].partition(END)[0]


def test_each_fault_met_nodes_in_each_state_or_says_why_it_never_can() -> None:
    reasons = dict(re.findall(r"^(\(\d+\)) (.+)\.$", met_what(), flags=re.MULTILINE))
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| .* \|$", met_what(), flags=re.MULTILINE)[2:]
    ]
    empty = [
        f"{name} while {state}"
        for name, _, _, *cells in lines
        for state, cell in zip(STATES, cells, strict=True)
        if not (cell.isdigit() and int(cell))
        and (reasons.get(cell) is None or reasons[cell] != why_never(KINDS[name], state))
    ]

    assert not empty, "write it anew: python -m tests.faults.record"
    assert {name: rows for name, rows, *_ in lines} == {
        name: " ".join(kind.rows) for name, kind in KINDS.items()
    }


def test_each_invariant_is_promised_and_seen_by_a_planted_bug() -> None:
    promised = {
        int(number) for number in re.findall(r"^\| (\d+) \| \*\*", PAGE, flags=re.MULTILINE)
    }
    seen = {invariant for bug in BUGS.values() for invariant in bug.seen_by}

    assert promised == {int(invariant) for invariant in Invariant}
    assert set(Invariant) - seen == set()


def test_the_number_of_planted_bugs_is_told() -> None:
    assert f"{len(BUGS)} bugs put in on purpose" in PAGE
    assert len(BUGS) >= 40
