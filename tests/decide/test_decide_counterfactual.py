"""What a decision says would change it is true: every sentence is carried out."""

from __future__ import annotations

import copy
import re
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.decide.conftest import World

RISE = re.compile(r"rises to (\d+) above a demand of (\d+\.\d\d)")
FALL = re.compile(r"falls to (\d+) about (\d\d):(\d\d) if demand stays under (\d+\.\d\d)")
ZERO = re.compile(r"falls to 0 about (\d\d):(\d\d) if nothing comes until then")
STEP = timedelta(seconds=15)


def after(world: World, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """The figures of the last decision's sentence of that form."""
    found = [m for m in map(pattern.fullmatch, world.decisions[-1].counterfactuals) if m]
    assert found, world.decisions[-1].counterfactuals
    return found[0].groups()


def situations(world: World) -> dict[str, World]:
    """Steady, growing, falling, at a shortage, with a queue."""
    steady = copy.deepcopy(world)
    steady.add(3)
    steady.passes(2.0, timedelta(minutes=50))
    growing = copy.deepcopy(world)
    growing.add(3)
    for minute in range(8):
        growing.passes(1.0 + minute / 6, timedelta(seconds=45))
        growing.now += STEP
    growing.decide(2.3)
    falling = copy.deepcopy(growing)
    falling.now += STEP
    falling.passes(0.9, timedelta(minutes=17, seconds=15))
    started = copy.deepcopy(world)
    started.add(4)
    started.memory = type(started.memory)()
    started.passes(2.6, timedelta(minutes=2))
    return {"steady": steady, "growing": growing, "falling": falling, "started": started}


@pytest.mark.parametrize("name", ["steady", "growing", "falling", "started"])
def test_demand_above_the_stated_figure_raises_the_want_and_at_it_does_not(
    world: World, name: str
) -> None:
    here = situations(world)[name]
    above, at = copy.deepcopy(here), copy.deepcopy(here)
    before = here.decisions[-1]
    to, figure = after(here, RISE)

    for there, demand in ((above, float(figure) + 0.01), (at, float(figure))):
        there.now += timedelta(seconds=1)
        there.decide(demand)

    assert above.decisions[-1].want == int(to) > before.want
    assert at.decisions[-1].want == before.want


@pytest.mark.parametrize("name", ["steady", "growing", "falling", "started"])
def test_demand_under_the_stated_figure_lowers_the_want_at_the_stated_minute(
    world: World, name: str
) -> None:
    here = situations(world)[name]
    under, over = copy.deepcopy(here), copy.deepcopy(here)
    before = here.decisions[-1].want
    to, hour, minute, figure = after(here, FALL)
    due = here.now.replace(hour=int(hour), minute=int(minute), second=0)

    fell = first_below(under, before, float(figure) - 0.01, due + timedelta(minutes=30))
    stayed = first_below(over, before, float(figure) + 0.01, due + timedelta(minutes=3))

    assert fell is not None
    assert abs(fell - due) <= timedelta(minutes=1, seconds=15)
    assert under.decisions[-1].want == int(to)
    assert stayed is None


def test_silence_until_the_stated_minute_gives_the_last_node_back(world: World) -> None:
    world.add(1)
    world.decide(0.5)
    world.now += timedelta(minutes=2)
    world.passes(0.0, timedelta(minutes=5))
    hour, minute = after(world, ZERO)
    due = world.now.replace(hour=int(hour), minute=int(minute), second=0)

    fell = first_below(world, 1, 0.0, due + timedelta(minutes=10))

    assert fell is not None
    assert abs(fell - due) <= timedelta(minutes=1)
    assert world.decisions[-1].want == 0


def test_windows_of_seconds_are_told_to_the_second(world: World) -> None:
    world.change(
        scaling={"stabilization": "12s", "peak_memory": "12s", "boot_prior": "10s"},
        nodes={"min": 1, "max": 8},
    )
    world.add(3)
    world.decide(2.0)
    told = [
        re.fullmatch(r"falls to 2 about (\S+) if .*", t) for t in world.decisions[0].counterfactuals
    ]
    due = next(match[1] for match in told if match)

    while world.decisions[-1].want > 2:
        world.now += timedelta(seconds=1)
        world.decide(1.5)

    fell = world.now
    stated = datetime.combine(fell.date(), time.fromisoformat(due), fell.tzinfo)
    assert abs(fell - stated) <= timedelta(seconds=2)


def test_a_hold_promises_nothing(world: World) -> None:
    world.add(2)

    assert world.decide(None).counterfactuals == ()


def first_below(world: World, want: int, demand: float, until: datetime) -> datetime | None:
    """When the want first falls below `want` at this demand, None if it does not until then."""
    while world.now < until:
        world.now += STEP
        if world.decide(demand).want < want:
            return world.now
    return None
