"""The checks can fail: a few of the planted bugs, each seen by the invariant that is there for it.

`make faults-planted` tries all of them.
"""

from __future__ import annotations

import pytest

from tests.faults.planted import BUGS, planted
from tests.faults.schedule import run, schedule_of

SOON = {
    "no intent before the create": 0,
    "no reason is kept": 0,
    "a pass rents twice": 0,
    "limits forget what boots": 0,
    "leases are not renewed": 0,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SOON)
def test_a_planted_bug_is_seen(name: str) -> None:
    bug = BUGS[name]

    with planted(bug):
        violations = run(schedule_of(SOON[name], hours=1.0)).violations

    assert {violation.invariant for violation in violations} & bug.seen_by
