"""Rows of the catalogue that only a whole world can show."""

from __future__ import annotations

from dataclasses import replace

from autoscaler.domain.node import State
from tests.faults.kinds import aimed_at
from tests.faults.schedule import Fault, Result, run, schedule_of


def befallen(kind: str, state: State, lasts_s: float) -> Result:
    """What becomes of half an hour's world in which this befalls one node."""
    params = {"which": 0.0} | aimed_at(state)
    fault = Fault(300.0, kind, lasts_s, tuple(sorted(params.items())))
    return run(replace(schedule_of(3, hours=0.5), faults=(fault,)))


def test_one_node_whose_every_look_throws_stops_no_other_and_heals() -> None:
    result = befallen("looking at it throws", State.READY, 1200.0)

    assert result.struck == {"looking at it throws": 1}
    assert result.served > 100
    assert not result.violations
