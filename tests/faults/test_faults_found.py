"""Bugs that schedules of faults found, each as the shortest schedule that showed it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.schedule import Fault, run, schedule_of

WHICH = (("which", 0.0),)
FOUND = {
    "a model that was added while the store was locked gets its passes": (
        Fault(300.0, "store locked", 400.0, ()),
        Fault(350.0, "a model is added", None, (("least", 1.0),)),
    ),
    "an old listing that left a node out is no witness while the cloud does not answer": (
        Fault(900.0, "cut off from all machines", 900.0, ()),
        Fault(960.0, "listing flickers", 60.0, (("rate", 1.0),)),
        Fault(985.0, "answers of the cloud cut off", 300.0, ()),
    ),
    "a clock that is set back stops no pass, no sweep and no lease": (
        Fault(600.0, "wall clock steps", None, (("by_s", -7200.0),)),
    ),
    "a create that a proxy sent twice is no refusal": (
        Fault(1.0, "create replayed", 1700.0, (("count", 2.0),)),
    ),
    "an operation that failed beside a lagging listing is no proof": (
        Fault(1.0, "operation fails and leaves a machine", 900.0, (("count", 1.0),)),
        Fault(1.0, "listing lags", 900.0, (("count", 1.0), ("lag_s", 212.0))),
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_stays_mended(name: str) -> None:
    schedule = schedule_of(3, hours=0.5)

    assert not run(replace(schedule, faults=FOUND[name])).violations
