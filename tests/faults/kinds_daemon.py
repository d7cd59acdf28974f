"""Faults of the daemon itself, of its clock, of its policies, and what people do."""

from __future__ import annotations

import random
from datetime import timedelta

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Node, State
from autoscaler.errors import ConfigError
from autoscaler.policy import NodeBounds
from tests.faults.kinds import (
    LONG,
    SHORT,
    Apply,
    Params,
    Undo,
    aim_of,
    kind,
    open_rows,
    pick,
    which,
)
from tests.faults.options import ModelOptions, policy_of
from tests.faults.shop import Demand
from tests.faults.world import World

# -- the daemon and its clock


def _kill(world: World, params: Params) -> None:
    run = world.run
    world.down_until_s = world.time.seconds() + params["down_s"]
    if run is not None:
        run.life.kill()


def _stop(world: World, params: Params) -> None:
    """An upgrade: it ends by itself and is started again."""
    if world.run is not None:
        world.run.daemon.stop()
        world.shop.told_to_come_again()


def _another_project(world: World, params: Params) -> Undo:
    """It is started again with a key of another project: its listing there looks empty."""
    world.cloud.network.is_elsewhere = True
    _kill(world, params)
    return lambda: setattr(world.cloud.network, "is_elsewhere", False)


def _kill_at(where: str) -> Apply:
    """Kill it at one of its next steps into the world: before the effect, or between effect and answer."""

    def apply(world: World, params: Params) -> None:
        run = world.run
        if run is not None:
            run.life.die_where, run.life.die_after = where, int(params["steps"])

    return apply


def _steps(rng: random.Random) -> dict[str, float]:
    return {"steps": float(rng.choice((1, 1, 2, 3, 5, 20)))}


def _crash_loop(world: World, params: Params) -> Undo:
    world.crash_every_s = 45.0
    return lambda: setattr(world, "crash_every_s", 0.0)


_WRITES = frozenset({"advance", "update", "commit_plan"})


def _freeze(world: World, params: Params) -> Undo | None:
    run = world.run
    if run is None:
        return None
    wait_s = 0.0
    if params["at_write"]:
        # with a write on its way, which lands when it thaws, under a lease that is another's by then
        run.life.freeze_before, wait_s = _WRITES, 75.0
    else:
        run.life.freeze()
    if params["heir"]:
        world.heir_at_s = world.time.seconds() + wait_s + params["heir_s"]

    def thaw() -> None:
        world.heir_at_s = float("inf")
        run.life.thaw()
        if world.run is not run and not run.life.is_dead:
            world.zombies[run.life.number] = world.time.seconds() + 120.0

    return thaw


def _step_clock(world: World, params: Params) -> None:
    world.clock.off_by += timedelta(seconds=params["by_s"])
    world.clock_stepped_at_s = world.time.seconds()
    world.stepped_s += abs(params["by_s"])


def _suspend(world: World, params: Params) -> None:
    world.time.asleep_s += params["for_s"]


kind(
    "killed",
    "D1",
    _kill,
    weight=8,
    draw=lambda rng: {"down_s": rng.choice((5.0, 5.0, 30.0, 300.0))},
)
kind("killed at a commit", "D1", _kill_at("store answered"), weight=5, draw=_steps)
kind("killed before a commit", "D1", _kill_at("store commits"), weight=3, draw=_steps)
kind("killed before a call", "D1", _kill_at("cloud sent"), weight=4, draw=_steps)
kind("killed before an answer", "D1", _kill_at("cloud answered"), weight=4, draw=_steps)
kind("killed at a balancer", "D1", _kill_at("balancer answered"), weight=4, draw=_steps)
kind("killed at a node", "D1", _kill_at("node"), weight=2, draw=_steps)
kind("crashes in a loop", "D4", _crash_loop, weight=2, lasts=(300.0, 600.0))
kind("down for long", "D5", _kill, weight=2, draw=lambda rng: {"down_s": rng.uniform(1200, 5400)})
kind(
    "frozen",
    "D2 X1",
    _freeze,
    weight=4,
    lasts=(20.0, 500.0),
    draw=lambda rng: {
        "at_write": float(rng.random() < 0.5),
        "heir": float(rng.random() < 0.7),
        "heir_s": rng.uniform(31, 60),
    },
)
kind(
    "wall clock steps",
    "K1",
    _step_clock,
    weight=4,
    draw=lambda rng: {"by_s": rng.choice((-7200.0, -600.0, -30.0, 30.0, 600.0, 7200.0))},
)
kind(
    "host suspended",
    "K1",
    _suspend,
    weight=3,
    draw=lambda rng: {"for_s": rng.choice((30.0, 600.0, 3600.0))},
)
kind("stopped and started", "B8", _stop, weight=0)
kind(
    "a key of another project",
    "C10",
    _another_project,
    weight=0,
    lasts=SHORT,
    draw=lambda rng: {"down_s": 10.0},
)


# -- policies and people


def _policy_broken(world: World, params: Params) -> Undo:
    world.files = ConfigError("chat.toml: half-written")
    _reload_policies(world)
    return lambda: policies_back(world)


def _policy_vanishes(world: World, params: Params) -> Undo:
    world.files = {}
    _reload_policies(world)
    return lambda: policies_back(world)


def policies_back(world: World) -> None:
    """The files are as they should be."""
    world.files = dict(world.policies)
    _reload_policies(world)


def _reload_policies(world: World) -> None:
    if world.run is not None:
        world.run.daemon.wakes.now("policies")


def _model(world: World, params: Params) -> ModelName:
    models = list(world.policies)
    return models[int(params["which"] * len(models))]


def _bounds_change(world: World, params: Params) -> None:
    name = _model(world, params)
    least, most = int(params["least"]), int(params["most"])
    policy = world.policies[name].model_copy(update={"nodes": NodeBounds(min=least, max=most)})
    world.change_policy(policy)


def _spec_changes(world: World, params: Params) -> None:
    policy = world.policies[_model(world, params)]
    server = policy.server.model_copy(update={"max_num_seqs": int(params["seqs"])})
    world.change_policy(policy.model_copy(update={"server": server}))


def _added(world: World, params: Params) -> None:
    late = ModelOptions(ModelName("test/late"), int(params["least"]), 2, "wait", Demand(()))
    if late.name not in world.policies:
        world.shop.open(late.name)
        world.change_policy(policy_of(late))


def _paused(world: World, params: Params) -> Undo:
    name = _model(world, params)
    world.person("pause", name)
    return lambda: world.person("resume", name)


def _any_of(world: World, params: Params) -> Node | None:
    """One that serves, unless it is another's turn: then the person is told that it cannot be."""
    wanted = aim_of(params) or State.READY
    return pick([row for row in open_rows(world) if row.state is wanted], params)


def _drained(world: World, params: Params) -> None:
    row = _any_of(world, params)
    if row is not None:
        world.person("drain", row.name)


def _foreign(world: World, params: Params) -> None:
    world.strangers_rent("as1-otherone-aaaaaaaaaaaaa-1-test-chat")


def _unknown(world: World, params: Params) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tail = "".join(letters[int(params[f"l{i}"] * 26)] for i in range(13))
    world.strangers_rent(f"as1-simulate-{tail}-1-test-chat")


kind("policy half-written", "P1", _policy_broken, weight=2, lasts=LONG)
kind("policy vanishes", "P1", _policy_vanishes, weight=3, lasts=LONG)
kind(
    "a model is added",
    "P1",
    _added,
    weight=3,
    draw=lambda rng: {"least": float(rng.randint(0, 1))},
)
kind(
    "bounds change",
    "P2",
    _bounds_change,
    weight=4,
    draw=lambda rng: {
        "which": rng.random(),
        "least": float(rng.randint(0, 1)),
        "most": float(rng.randint(1, 6)),
    },
)
kind(
    "spec changes",
    "P3",
    _spec_changes,
    weight=2,
    draw=lambda rng: {"which": rng.random(), "seqs": float(rng.choice((64, 128)))},
)
kind("paused", "U1", _paused, weight=2, lasts=LONG, draw=which)
kind("drained by a person", "U1", _drained, weight=3, draw=which, target=_any_of)
kind("another deployment rents", "P4", _foreign, weight=2)
kind(
    "an unknown machine of ours",
    "S5 P4",
    _unknown,
    weight=3,
    draw=lambda rng: {f"l{i}": rng.random() for i in range(13)},
)
