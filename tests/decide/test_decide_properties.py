"""What no sequence of signals, gaps and losses may bring about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoscaler.decide import LawMemory, PlacementLimits, Profiles, Work, place
from autoscaler.domain.decision import Verdict
from autoscaler.domain.node import Node, State
from autoscaler.policy import Policy

if TYPE_CHECKING:
    from tests.decide.conftest import World

TYPICAL = Work(1024, 256)
demands = st.one_of(st.none(), st.just(0.0), st.floats(0.0, 30.0))
extras = st.fixed_dictionaries(
    {},
    optional={
        "waiting": st.floats(0.0, 5000.0),
        "running": st.floats(0.0, 3000.0),
        "oldest_wait_s": st.floats(0.0, 900.0),
        "kv_use": st.floats(0.0, 1.0),
        "ttft_attained": st.floats(0.0, 1.0),
        "held": st.integers(0, 50),
    },
)
steps = st.lists(
    st.tuples(demands, extras, st.integers(1, 400), st.sampled_from(["", "lose", "boot", "ready"])),
    min_size=1,
    max_size=25,
)
slow = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@slow
@given(story=steps, least=st.integers(0, 3), most=st.integers(3, 12), start=st.integers(0, 6))
def test_bounds_gaps_and_pace_hold_through_any_story(
    world: World,
    make_policy: Callable[..., Policy],
    make_node: Callable[..., Node],
    story: list[tuple[float | None, dict[str, float], int, str]],
    least: int,
    most: int,
    start: int,
) -> None:
    world.restart(LawMemory())
    world.policy = make_policy(nodes={"min": least, "max": most})
    world.add(min(start, most))
    made = len(world.nodes)
    for demand, extra, seconds, event in story:
        world.now += timedelta(seconds=seconds)
        if event == "lose":
            world.nodes = world.nodes[1:]
        if event == "ready":
            world.nodes = tuple(replace(node, state=State.READY) for node in world.nodes)
        decision = world.decide(demand, **extra)
        plan = place(
            world.policy,
            decision,
            world.fleet,
            world.market,
            PlacementLimits(),
            world.now,
            world.profiles,
            TYPICAL,
        )

        assert least <= decision.want <= most
        assert 0 <= (decision.need or 0) <= most
        if demand is None and not extra.get("held"):
            assert decision.verdict is Verdict.HOLD
        if demand is None or not decision.release_allowed:
            assert not plan.releases
        assert not (plan.launches and plan.releases)
        serving = {node.name for node in world.fleet.ready}
        taken = [release for release in plan.releases if release.node in serving]
        assert len(taken) <= max(1, len(serving) // 10)
        assert len(world.fleet.billing) + len(plan.launches) <= max(most, len(world.fleet.billing))
        assert len(plan.keeps) + len(plan.launches) >= min(least, len(plan.keeps))
        assert decision.reason
        assert all(rule.reason for rule in decision.recommendations)

        gone = {release.node for release in plan.releases}
        booting = tuple(
            make_node(made + index, State.BOOTING, created_at=world.now, offer=launch.offer)
            for index, launch in enumerate(plan.launches)
        )
        made += len(booting)
        world.nodes = (*(node for node in world.nodes if node.name not in gone), *booting)


@slow
@given(story=steps)
def test_the_same_inputs_give_the_same_bytes(
    world: World, story: list[tuple[float | None, dict[str, float], int, str]]
) -> None:
    outcomes = []
    for _ in range(2):
        world.restart(LawMemory())
        world.add(3)
        for demand, extra, seconds, _event in story:
            world.now += timedelta(seconds=seconds)
            world.decide(demand, **extra)
            world.memory = LawMemory.from_json(world.memory.to_json())
        outcomes.append(repr((world.decisions, world.memory)))

    assert outcomes[0] == outcomes[1]


@slow
@given(demand=st.floats(0.0, 15.0), more=st.floats(0.01, 5.0))
def test_more_demand_never_wants_less(world: World, demand: float, more: float) -> None:
    wants = []
    for asked in (demand, demand + more):
        world.restart(world.settled)
        world.add(4)
        wants.append(world.decide(asked).want)

    assert wants[0] <= wants[1]


def test_the_shipped_tables_are_read_once() -> None:
    assert Profiles.load() is Profiles.load()
