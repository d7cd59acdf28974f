"""Planted bugs that clients would feel: balancers and drains, who is given up, what figures say, and at what pace."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

from autoscaler import reconcile
from autoscaler.balance.group import BalancerGroup
from autoscaler.decide.memory import LawMemory
from autoscaler.domain.node import State
from autoscaler.domain.signals import Figure
from autoscaler.nodes import drain, register
from autoscaler.nodes.lifecycle import Effect, Step
from autoscaler.nodes.liveness import Witnesses
from autoscaler.nodes.look import Looker
from autoscaler.observe import draft, feed, merge
from autoscaler.observe.ranges import REQUIRED
from tests.faults.invariants import Invariant as I
from tests.faults.planting import Fake, Patch, always, around, bug, nothing, step

# -- balancers and drains


def _cuts(node: Any, seen: Any, real: Step) -> Step:
    if node.state is State.DRAINING and real.effect in (Effect.DRAIN, Effect.REMOVE):
        return Step(State.DRAINING, Effect.CUT, node.reason)
    return real


def _skips_drain(node: Any, seen: Any, real: Step) -> Step:
    draining = node.state is State.DRAINING
    return Step(State.TERMINATING, Effect.NONE, node.reason) if draining else real


def _forced(real: Fake) -> Fake:
    async def remove(self: Any, node: Any, *, force: bool) -> None:
        await real(self, node, force=True)

    return remove


async def _engine_idle(self: object, *args: object) -> int:
    return 0


_OLD_IGNORED: tuple[Patch, ...] = (
    (drain, "_no_old_process", always(True)),
    (Looker, "_engine_in_flight", _engine_idle),
)
bug("a drain cuts", step(_cuts), by=[I.NO_CUT])
bug("no drain at all", step(_skips_drain), by=[I.NO_CUT])
bug(
    "nothing is ever in flight",
    (drain, "_in_flight", always(0)),
    *_OLD_IGNORED,
    around(BalancerGroup, "remove", _forced),
    by=[I.NO_CUT],
)
bug("registered is not read again", (register, "is_registered", always(True)), by=[I.VERIFIED])
bug(
    "unregistered is not read again",
    (register, "is_unregistered", always(True)),
    by=[I.NO_CUT, I.VERIFIED, I.HEALS],  # a drain that is held to be over is never begun
)
bug("balancers are not told to drain", (BalancerGroup, "drain", nothing), by=[I.HEALS, I.NO_CUT])
bug("what was forgotten is not told again", (register, "is_known", always(True)), by=[I.HEALS])


# -- who is given up


def _doubting(self: Any) -> tuple[str, ...]:
    word = self.daemon or self.balancer or self.cloud
    return (word, word) if word else ()


bug("one witness condemns", (Witnesses, "against", property(_doubting)), by=[I.NO_CUT])


# -- figures, restarts, pace


def _zeros(real: Fake) -> Fake:
    def merged(answers: Any, now: Any, previous: Any = None) -> Any:
        signals = real(answers, now, previous)
        lacking = [name for name in REQUIRED if signals.get(name) is None]
        zeros = [(name, Figure(0.0, now, "nobody")) for name in lacking]
        return replace(signals, figures=tuple(sorted((*signals.figures, *zeros))), gaps=())

    return merged


def _finite(real: Fake) -> Fake:
    return lambda name, value: None if math.isfinite(value) else real(name, value)


def _all_at_once(real: Fake) -> Fake:
    def releases(fleet: Any, plan: Any, now: Any) -> Any:
        if not plan.releases:
            return real(fleet, plan, now)
        reason = plan.releases[0].reason
        every = tuple(replace(plan.releases[0], node=n.name, reason=reason) for n in fleet.ready)
        return real(fleet, replace(plan, releases=every), now)

    return releases


bug("no figure is zero", around(feed, "merge", _zeros), by=[I.DATA])
bug(
    "absurd figures are believed",
    around(draft, "absurdity", _finite),
    around(merge, "absurdity", _finite),
    by=[I.DATA],
)
bug("old figures are believed", (Figure, "age", lambda self, now: timedelta(0)), by=[I.DATA])
bug(
    "a start is not cautious",
    (LawMemory, "restarted", lambda self, now, caution: self),
    by=[I.RESTART_KILLS_NOTHING],
)
bug("everything is released at once", around(reconcile, "released_rows", _all_at_once), by=[I.PACE])
