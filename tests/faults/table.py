"""Which faults met nodes in which state: a table with no empty cell that lacks a reason.

The page of guarantees has it as `python -m tests.faults.record` last wrote it, and a test holds that against this.
Most cells fill by themselves. For those that would not, faults are aimed: `CELLS` are gone through in an order of their
own, a few in each schedule, and each waits for a node in its state.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from autoscaler.domain.node import State
from tests.faults.faults import KINDS
from tests.faults.kinds import STATES, Kind

PAGE = Path(__file__).parents[2] / "docs/guarantees.md"
BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"
# Rows of the catalogue that no simulated fault is, and why.
NOT_SIMULATED: Mapping[str, str] = {
    "B5": "what a balancer repeats is its own, by settings that we write: real HAProxy and the gateway are asked",
    "S3": "it is the disk's doing below SQLite: the real file is asked, and real processes are killed",
    "S4": "it is the file's: a real one is damaged",
    "S6": "there is no replica of one SQLite file",
    "K2": "it is no fault but a date: two schedules of three begin before a month ends or clocks are changed",
    "U2": "it needs two processes and one file: real ones are started",
    "X3": "there is no pooler of one SQLite file",
    "A1": "it is the startup script's and the firewall's: what they say is read, and run",
    "A2": "it is the firewall's: what is asked of the cloud is read",
    "A3": "it is the parsers': real ones are fed",
    "A4": "it is the parsers' and shells': real ones are fed",
    "A5": "it is the HTTP server's: a real one is asked",
    "A6": "it is the HTTP servers' and parsers': real ones are asked",
}
_SELDOM = (State.PLANNED, State.CREATING, State.DRAINING, State.FAILED)
_NO_MACHINE = "it strikes a machine, and none has been made yet"


def why_never(kind: Kind, state: State) -> str | None:
    """Why a kind of fault can meet no node in a state; None where it can."""
    if kind.of_machine and state is State.PLANNED:
        return _NO_MACHINE
    return None


def _is_aimed(kind: Kind, state: State) -> bool:
    """Whether it must be aimed: what lasts and is for all to feel meets most states by itself."""
    comes_alone = kind.lasts is not None and kind.target is None and kind.weight > 0
    return why_never(kind, state) is None and (not comes_alone or state in _SELDOM)


def _cells() -> list[tuple[Kind, State]]:
    cells = [(kind, state) for kind in KINDS.values() for state in STATES if _is_aimed(kind, state)]
    random.Random("cells").shuffle(cells)
    return cells


CELLS = _cells()


def empty_cells(met: Mapping[tuple[str, str], int]) -> list[tuple[str, State]]:
    """Pairs that never met and have no reason."""
    return [
        (name, state)
        for name, kind in KINDS.items()
        for state in STATES
        if not met.get((name, state.value)) and why_never(kind, state) is None
    ]


def table(struck: Mapping[str, int], met: Mapping[tuple[str, str], int]) -> str:
    """The table as Markdown: how often each fault was there while some node was in each state."""
    heads = ["fault", "rows", "times", *(state.value for state in STATES)]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    reasons: list[str] = []
    for name, kind in sorted(KINDS.items(), key=lambda item: item[1].rows):
        cells = []
        for state in STATES:
            why = why_never(kind, state)
            if why is not None and why not in reasons:
                reasons.append(why)
            mark = f"({reasons.index(why) + 1})" if why is not None else "·"
            cells.append(str(met.get((name, state.value), 0) or mark))
        row = [name, " ".join(kind.rows), str(struck.get(name, 0)), *cells]
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", *(f"({number}) {why}." for number, why in enumerate(reasons, 1)), ""]
    lines += ["Rows that no simulated fault is:", ""]
    lines += [f"- {row}: {why}" for row, why in NOT_SIMULATED.items()]
    return "\n".join(lines)


def written(told: str) -> None:
    """Write what was recorded into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{told}\n\n{END}{after}")
