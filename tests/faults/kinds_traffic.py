"""Faults of balancers and of signals."""

from __future__ import annotations

import random

from tests.faults.kinds import LONG, SHORT, Apply, Params, Undo, kind, which
from tests.faults.world import World

# -- balancers


def _balancer(world: World, params: Params) -> int:
    return int(params["which"] * len(world.balancers))


def _away(world: World, params: Params) -> Undo:
    one = world.balancers[_balancer(world, params)]
    one.away = True

    def undo() -> None:
        one.away, one.back_s = False, world.time.seconds()

    return undo


def _balancer_dies(world: World, params: Params) -> Undo:
    one = world.balancers[_balancer(world, params)]
    one.dead = True
    world.shop.balancer_died(one)

    def back() -> None:
        if one.dead:
            one.dead = False
            one.restart(forget=params["forget"] > 0.5)

    return back


def _reload(world: World, params: Params) -> None:
    one = world.balancers[_balancer(world, params)]
    if not one.dead:
        one.restart(forget=params["forget"] > 0.5)


def _lies(world: World, params: Params) -> Undo:
    one = world.balancers[_balancer(world, params)]
    one.lies = True
    return lambda: setattr(one, "lies", False)


def _slow_balancer(world: World, params: Params) -> Undo:
    one = world.balancers[_balancer(world, params)]
    one.slow_s = 6.0
    return lambda: setattr(one, "slow_s", 0.0)


def _forgets(rng: random.Random) -> dict[str, float]:
    return {"which": rng.random(), "forget": rng.choice((0.0, 1.0))}


kind("balancer lies", "B1", _lies, weight=3, lasts=SHORT, draw=which)
kind("balancer reloads", "B2 B3", _reload, weight=6, draw=_forgets)
kind("balancer away", "B4 B7 B9", _away, weight=4, lasts=(60.0, 2400.0), draw=which)
kind("balancer dies", "B6 B7", _balancer_dies, weight=3, lasts=(20.0, 1200.0), draw=_forgets)
kind("balancer slow", "B4", _slow_balancer, lasts=SHORT, draw=which)


# -- signals


def _figures(kind: str) -> Apply:
    def apply(world: World, params: Params) -> Undo:
        models = list(world.shop.troubles)
        trouble = world.shop.troubles[models[int(params["which"] * len(models))]]
        trouble.kind, trouble.until_s = kind, float("inf")

        def over() -> None:
            trouble.until_s = -1.0

        return over

    return apply


kind("figures vanish", "T1", _figures("silent"), weight=4, lasts=LONG, draw=which)
kind("figures are slow", "T1", _figures("slow"), lasts=SHORT, draw=which)
kind("zeros are missing", "T2", _figures("zeros are missing"), weight=3, lasts=LONG, draw=which)
kind("figures are absurd", "T3", _figures("absurd"), weight=4, lasts=LONG, draw=which)
kind("figures are stale", "T4", _figures("stale"), weight=3, lasts=LONG, draw=which)
kind("engines are silent", "T1", _figures("engines silent"), lasts=LONG, draw=which)
kind("probes are counted", "T5", _figures("probes counted"), weight=0, lasts=LONG, draw=which)
kind(
    "what was refused is not counted",
    "T5",
    _figures("refused not counted"),
    weight=0,
    lasts=LONG,
    draw=which,
)


def _poison(world: World, params: Params) -> Undo:
    world.shop.poisoned = True
    return lambda: setattr(world.shop, "poisoned", False)


kind("a poison request", "M6", _poison, weight=0, lasts=SHORT)
