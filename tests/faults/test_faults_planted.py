"""The checks can fail: a few of the planted bugs, each seen by the invariant that is there for it.

`make faults-planted` tries all of them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults import schedule
from tests.faults.planted import BUGS, planted
from tests.faults.schedule import Fault, Schedule, run, schedule_of

SOON = {
    "no intent before the create": 0,
    "no reason is kept": 0,
    "a pass rents twice": 0,
    "limits forget what boots": 0,
    "the key is in a receipt": 0,
    "the decision to rent is not kept": 0,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SOON)
def test_a_planted_bug_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "HEAL_S", 300.0)  # what is broken does not heal
    bug = BUGS[name]

    with planted(bug):
        violations = run(schedule_of(SOON[name], hours=0.5)).violations

    assert {violation.invariant for violation in violations} & bug.seen_by


def frozen_with_a_write_on_its_way() -> Schedule:
    """A holder that sleeps while another takes over, and wakes with a commit of its own to land."""
    writes = (("at_write", 1.0), ("heir", 1.0), ("heir_s", 35.0))
    faults = tuple(Fault(300.0 + 600 * number, "frozen", 280.0, writes) for number in range(2))
    return replace(schedule_of(0, hours=0.5), faults=faults)


@pytest.mark.timeout(300)
def test_a_frozen_holder_that_wakes_writes_nothing_and_only_the_fence_is_why() -> None:
    fenced = run(frozen_with_a_write_on_its_way()).violations
    bug = BUGS["no fencing check"]
    with planted(bug):
        unfenced = run(frozen_with_a_write_on_its_way()).violations

    assert not fenced
    assert {violation.invariant for violation in unfenced} == bug.seen_by
