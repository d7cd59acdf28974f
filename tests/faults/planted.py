"""Planted bugs: what each promise is worth. Every one breaks one real function, and some check must see it.

`python -m tests.faults --planted` runs them all; each must be caught within 100 seeds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from autoscaler import act, reconcile
from autoscaler.balance.group import BalancerGroup
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.session import Call
from autoscaler.decide.memory import LawMemory
from autoscaler.domain.machine import OperationState
from autoscaler.domain.money import ZERO
from autoscaler.domain.node import State
from autoscaler.domain.signals import Figure
from autoscaler.errors import OutcomeUnknown
from autoscaler.nodes import drain, facts, inventory, recorder, register, runner, sweep, terminate
from autoscaler.nodes.absence import AbsenceProof
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.lifecycle import Effect, Sighting, Step
from autoscaler.nodes.liveness import Witnesses
from autoscaler.nodes.look import Looker
from autoscaler.nodes.recorder import Recorder
from autoscaler.observe import draft, feed, merge
from autoscaler.observe.feed import SignalFeed
from autoscaler.observe.ranges import REQUIRED
from autoscaler.store import sqlite_nodes
from autoscaler.wakes import Wakes
from tests.faults import hosts
from tests.faults.cloud import KEY
from tests.faults.invariants import Invariant
from tests.faults.options import OWNER

Patch = tuple[object, str, object]
Fake = Any  # stands where a function of any shape stood


@dataclass(frozen=True, slots=True)
class Bug:
    """One planted bug, and the invariants of which one must see it."""

    name: str
    patches: tuple[Patch, ...]
    seen_by: frozenset[Invariant]


BUGS: dict[str, Bug] = {}


def _bug(name: str, *patches: Patch, by: Sequence[Invariant]) -> None:
    BUGS[name] = Bug(name, patches, frozenset(by))


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Break it for a while."""
    with ExitStack() as stack:
        for target, name, fake in bug.patches:
            stack.enter_context(patch.object(target, name, fake))
        yield


def _around(target: object, name: str, make: Callable[[Fake], Fake]) -> Patch:
    """A patch that calls what stood there."""
    return (target, name, make(getattr(target, name)))


def _always(value: object) -> Fake:
    return lambda *args, **kwargs: value


def _never(*args: object, **kwargs: object) -> None:
    return None


async def _nothing(*args: object, **kwargs: object) -> None:
    return None


def _step(make: Callable[[Any, Any, Step], Step]) -> Patch:
    real: Fake = getattr(runner, "next_step")  # noqa: B009  # imported there, exported elsewhere

    def fake(node: Any, seen: Any, rules: Any, now: Any) -> Step:
        return make(node, seen, real(node, seen, rules, now))

    return (runner, "next_step", fake)


I = Invariant  # noqa: E741  # read a hundred times below


# -- intents and names


def _unrecorded(real: Fake) -> Fake:
    async def advance(self: Any, before: Any, after: Any, *rest: Any) -> None:
        if after.state is not State.CREATING:
            await real(self, before, after, *rest)

    return advance


def _twice(real: Fake) -> Fake:
    async def create(self: Any, request: Any) -> Any:
        try:
            return await real(self, request)
        except OutcomeUnknown:
            return await real(self, request)

    return create


def _no_reason(real: Fake) -> Fake:
    return lambda *args: tuple(replace(row, reason="") for row in real(*args))


_bug("no intent before the create", _around(Recorder, "advance", _unrecorded), by=[I.INTENT_FIRST])
_bug("a lost create is sent again", _around(MkinfCloud, "create", _twice), by=[I.ONE_PER_INTENT])
_bug("the client repeats a create", (Call, "may_repeat", True), by=[I.ONE_PER_INTENT])
_bug("no fencing check", (sqlite_nodes, "check_epoch", _never), by=[I.ONE_ACTOR])
_bug("no reason is kept", _around(act, "drafts", _no_reason), by=[I.EXPLAINED])
_bug("leases are not renewed", (Leases, "renew_all", lambda self: _empty()), by=[I.HEALS])


async def _empty() -> list[str]:
    return []


# -- limits


def _doubled(real: Fake) -> Fake:
    def intents(plan: Any, *args: Any, **kwargs: Any) -> Any:
        once = real(plan, *args, **kwargs)
        return (*once, *real(plan, *args, **{**kwargs, "open_intents": ()}))

    return intents


def _only_ready(real: Fake) -> Fake:
    def ledger(db: Any, now: Any) -> Any:
        found = real(db, now)
        return replace(found, nodes=tuple(n for n in found.nodes if n.state is State.READY))

    return ledger


_NO_LIMITS: Patch = (act.Limits, "why_not", _never)
_DOUBLED = _around(reconcile, "intents", _doubled)
_bug("no limit is checked", _NO_LIMITS, by=[I.MONEY, I.CAP])
_bug("a pass rents twice", _DOUBLED, _NO_LIMITS, by=[I.CAP])
_bug(
    "limits forget what boots",
    _around(sqlite_nodes, "ledger", _only_ready),
    _DOUBLED,
    by=[I.CAP, I.MONEY],
)


# -- operations and absence


def _believes_failed(node: Any, seen: Any, step: Step) -> Step:
    operation = seen.operation
    failed = operation is not None and operation.state is OperationState.FAILED
    if node.state is State.CREATING and failed:
        return Step(State.CANCELLED, Effect.NONE, "FAILED, so nothing was made")
    return step


def _gone_when_asked(node: Any, seen: Any, step: Step) -> Step:
    if node.state is State.TERMINATING and node.deletes:
        return Step(State.GONE, Effect.NONE, "it was asked to go")
    return step


def _gives_up(real: Fake) -> Fake:
    return lambda node, *rest: node.deletes < 3 and real(node, *rest)


async def _all_404(self: object, machine_id: object) -> None:
    return None


_bug("FAILED is believed", _step(_believes_failed), by=[I.GONE_IS_ABSENT])
_bug("an answered delete is gone", _step(_gone_when_asked), by=[I.GONE_IS_ABSENT])
_bug("one look proves absence", (AbsenceProof, "listings_agree", True), by=[I.GONE_IS_ABSENT])
_bug(
    "a listing alone proves absence",
    (MkinfCloud, "machine", _all_404),
    (AbsenceProof, "listings_agree", True),
    by=[I.GONE_IS_ABSENT],
)
_bug(
    "deletes give up after three",
    _around(terminate, "delete_due", _gives_up),
    by=[I.DELETE_NEVER_GIVES_UP, I.HEALS],
)
_bug(
    "deletes are never sent",
    (terminate, "delete_due", _always(False)),
    by=[I.DELETE_NEVER_GIVES_UP, I.HEALS],
)
_bug(
    "deletes whatever is listed",
    (terminate, "machines_to_delete", lambda node, listing: listing.machines),
    by=[I.ONLY_OURS, I.INTENT_FIRST],
)


# -- the sweep


def _found(**changes: Any) -> Patch:
    real: Fake = getattr(sweep, "compare")  # noqa: B009
    return (sweep, "compare", lambda *args, **kwargs: replace(real(*args, **kwargs), **changes))


def _everybodys(real: Fake) -> Fake:
    def parse(name: str) -> Any:
        parts = real(name)
        return parts and replace(parts, owner=OWNER)

    return parse


async def _deletes_at_once(self: Any, machine: Any, *rest: Any) -> None:
    await self._cloud.delete(machine.id)


def _once(real: Fake) -> Fake:
    def every(self: Any, name: str, interval: timedelta) -> None:
        real(self, name, timedelta(days=9) if name == "sweep" else interval)

    return every


_bug("no sweep", _found(adopt=(), surplus=(), expired=(), orphans=()), by=[I.KNOWN, I.HEALS])
_bug("orphans are left", _found(expired=()), by=[I.KNOWN, I.HEALS])
_bug("surplus is left", _found(surplus=()), by=[I.KNOWN, I.HEALS])
_bug("the sweep wakes once", _around(Wakes, "every", _once), by=[I.KNOWN, I.HEALS])
_bug(
    "another owner's is taken for ours",
    _around(inventory, "parse_name", _everybodys),
    by=[I.ONLY_OURS],
)
_bug(
    "the sweep deletes without a row",
    (sweep.Sweeper, "_doom", _deletes_at_once),
    by=[I.INTENT_FIRST],
)
_bug("left disks are left", (sweep.Sweeper, "_clear_disks", _nothing), by=[I.HEALS])


# -- balancers and drains


def _cuts(node: Any, seen: Any, step: Step) -> Step:
    if node.state is State.DRAINING and step.effect in (Effect.DRAIN, Effect.REMOVE):
        return Step(State.DRAINING, Effect.CUT, node.reason)
    return step


def _skips_drain(node: Any, seen: Any, step: Step) -> Step:
    return (
        Step(State.TERMINATING, Effect.NONE, node.reason) if node.state is State.DRAINING else step
    )


def _forced(real: Fake) -> Fake:
    async def remove(self: Any, node: Any, *, force: bool) -> None:
        await real(self, node, force=True)

    return remove


async def _engine_idle(self: object, *args: object) -> int:
    return 0


_OLD_IGNORED: tuple[Patch, ...] = (
    (drain, "_no_old_process", _always(True)),
    (Looker, "_engine_in_flight", _engine_idle),
)
_bug("a drain cuts", _step(_cuts), by=[I.NO_CUT])
_bug("no drain at all", _step(_skips_drain), by=[I.NO_CUT])
_bug(
    "nothing is ever in flight",
    (drain, "_in_flight", _always(0)),
    *_OLD_IGNORED,
    _around(BalancerGroup, "remove", _forced),
    by=[I.NO_CUT],
)
_bug("registered is not read again", (register, "is_registered", _always(True)), by=[I.VERIFIED])
_bug(
    "unregistered is not read again",
    (register, "is_unregistered", _always(True)),
    by=[I.NO_CUT, I.VERIFIED],
)
_bug("balancers are not told to drain", (BalancerGroup, "drain", _nothing), by=[I.HEALS, I.NO_CUT])
_bug("what was forgotten is not told again", (register, "is_known", _always(True)), by=[I.HEALS])


# -- hosts


def _verifying(real: Fake) -> Fake:
    async def look(self: Any, node: Any, *rest: Any) -> Any:
        return (
            Sighting(verified=True) if node.verified_at is None else await real(self, node, *rest)
        )

    return look


def _unpinned(real: Fake) -> Fake:
    def entered(*args: Any) -> Any:
        after = real(*args)
        return replace(after, host_key=None) if after.state is State.VERIFYING else after

    return entered


_bug("nothing is verified", _around(Looker, "_verifying", _verifying), by=[I.VERIFIED])
_bug("any host key is proven", (hosts, "is_proven", _always(True)), by=[I.PINNED])
_bug("the pin is not kept", _around(runner, "entered", _unpinned), by=[I.HEALS, I.PINNED])
_bug(
    "one witness condemns",
    (
        Witnesses,
        "against",
        property(
            lambda self: (
                (self.daemon or self.balancer or self.cloud,) * 2
                if self.daemon or self.balancer or self.cloud
                else ()
            )
        ),
    ),
    by=[I.NO_CUT],
)


# -- signals, restarts, pace


def _zeros(real: Fake) -> Fake:
    def merged(answers: Any, now: Any, previous: Any = None) -> Any:
        signals = real(answers, now, previous)
        lacking = [name for name in REQUIRED if signals.get(name) is None]
        zeros = [(name, Figure(0.0, now, "nobody")) for name in lacking]
        return replace(signals, figures=tuple(sorted((*signals.figures, *zeros))), gaps=())

    return merged


def _finite(real: Fake) -> Fake:
    return lambda name, value: None if math.isfinite(value) else real(name, value)


def _leaks(real: Fake) -> Fake:
    async def read(self: Any, *args: Any) -> Any:
        self.leaked = [*getattr(self, "leaked", []), asyncio.ensure_future(asyncio.sleep(1e9))]
        return await real(self, *args)

    return read


def _all_at_once(real: Fake) -> Fake:
    def releases(fleet: Any, plan: Any, now: Any) -> Any:
        if not plan.releases:
            return real(fleet, plan, now)
        reason = plan.releases[0].reason
        every = tuple(replace(plan.releases[0], node=n.name, reason=reason) for n in fleet.ready)
        return real(fleet, replace(plan, releases=every), now)

    return releases


_bug("no figure is zero", _around(feed, "merge", _zeros), by=[I.DATA])
_bug(
    "absurd figures are believed",
    _around(draft, "absurdity", _finite),
    _around(merge, "absurdity", _finite),
    by=[I.DATA],
)
_bug("old figures are believed", (Figure, "age", lambda self, now: timedelta(0)), by=[I.DATA])
_bug(
    "a start is not cautious",
    (LawMemory, "restarted", lambda self, now, caution: self),
    by=[I.RESTART_KILLS_NOTHING],
)
_bug(
    "everything is released at once", _around(reconcile, "released_rows", _all_at_once), by=[I.PACE]
)
_bug("each reading leaves a task", _around(SignalFeed, "read", _leaks), by=[I.BOUNDED])


# -- money and silence


def _cheap(real: Fake) -> Fake:
    return lambda node, now: replace(real(node, now), cost=ZERO)


def _from_boot(real: Fake) -> Fake:
    def closed(node: Any, now: Any) -> Any:
        return real(
            replace(node, sent_at=now - (now - node.sent_at) / 2 if node.sent_at else None), now
        )

    return closed


_bug("the meter shows nothing", _around(facts, "closed", _cheap), by=[I.METERED])
_bug("the meter runs half as fast", _around(facts, "closed", _from_boot), by=[I.METERED])
_bug("orphans cost nothing", (sweep, "price_of", _always(ZERO)), by=[I.METERED])
_bug("the key is in a receipt", (recorder, "receipt", _always(f"with {KEY}")), by=[I.SILENT])


__all__ = ["BUGS", "Bug", "planted"]
