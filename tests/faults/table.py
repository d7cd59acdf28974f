"""Which faults met nodes in which state: a generated table with no empty cell that lacks a reason."""

from __future__ import annotations

from collections.abc import Mapping

from autoscaler.domain.node import State
from tests.faults.faults import KINDS

STATES = (
    State.PLANNED,
    State.CREATING,
    State.BOOTING,
    State.VERIFYING,
    State.READY,
    State.DRAINING,
    State.FAILED,
    State.TERMINATING,
)

# Why a fault never meets a node in a state, where that is no gap of ours.
REASONS: Mapping[State, str] = {
    State.PLANNED: "lasts until the next step, mostly less than a second",
    State.FAILED: "lasts while diagnostics are saved, mostly less than a second",
}


def empty_cells(met: Mapping[tuple[str, str], int]) -> list[tuple[str, State]]:
    """Pairs that never met and have no reason."""
    return [
        (kind, state)
        for kind in KINDS
        for state in STATES
        if not met.get((kind, state.value)) and state not in REASONS
    ]


def table(struck: Mapping[str, int], met: Mapping[tuple[str, str], int]) -> str:
    """The table as Markdown: how often each fault began while some node was in each state."""
    heads = ["fault", "rows", "times", *(state.value for state in STATES)]
    lines = [f"| {' | '.join(heads)} |", f"|{'-|' * len(heads)}"]
    for name, kind in sorted(KINDS.items(), key=lambda item: item[1].rows):
        cells = [str(met.get((name, state.value), 0) or "·") for state in STATES]
        row = [name, " ".join(kind.rows), str(struck.get(name, 0)), *cells]
        lines.append(f"| {' | '.join(row)} |")
    lines.append("")
    lines += [f"· under {state.value}: {why}." for state, why in REASONS.items()]
    return "\n".join(lines)
