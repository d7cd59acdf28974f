"""`autoscaler plan` and the pass after it: the same inputs have the same effects, whatever the state."""

from __future__ import annotations

from pathlib import Path

from tests.core.states import States

STATES = 150


async def test_a_pass_does_what_the_plan_said(tmp_path: Path) -> None:
    states = States.open(tmp_path)
    kinds = {"rented": 0, "given_back": 0, "taken_back": 0, "refused": 0}
    try:
        for seed in range(STATES):
            planned, done = await states.compare(seed)
            assert planned == done, f"state {seed}"
            for kind in kinds:
                kinds[kind] += bool(getattr(done, kind))
    finally:
        await states.store.close()

    assert all(kinds.values()), kinds  # a state of each kind was among them
