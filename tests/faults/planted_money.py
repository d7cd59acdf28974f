"""Planted bugs of limits and of the meter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autoscaler import act, reconcile, think
from autoscaler.brakes.proof import Proof
from autoscaler.domain.money import ZERO
from autoscaler.domain.node import State
from autoscaler.nodes import facts, sweep
from autoscaler.store import sqlite_nodes
from tests.faults.invariants import Invariant as I
from tests.faults.planting import Fake, Patch, always, around, bug, never

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


def _without(**forgotten: object) -> Patch:
    """The ledger as limits read it, without something."""
    real: Fake = sqlite_nodes.ledger
    return (sqlite_nodes, "ledger", lambda db, now: replace(real(db, now), **forgotten))


def _roomy(real: Fake) -> Fake:
    """Plans are made to fit into what limits leave, so that a limit must be forgotten there too."""
    return lambda inputs: replace(
        real(inputs), nodes_left=99, gpus_left=None, usd_per_hour_left=None, why_none=None
    )


_NO_LIMITS: Patch = (act.Limits, "why_not", never)
_DOUBLED = around(reconcile, "intents", _doubled)
bug("no limit is checked", _NO_LIMITS, around(think, "_room", _roomy), by=[I.MONEY, I.CAP])
bug("a pass rents twice", _DOUBLED, _NO_LIMITS, by=[I.CAP])
bug(
    "limits forget what boots",
    around(sqlite_nodes, "ledger", _only_ready),
    _DOUBLED,
    by=[I.CAP, I.MONEY],
)
bug("GPUs are not counted", (act.Limits, "gpus_of", always(0)), by=[I.MONEY])
bug("launches are not counted", _without(launches=()), by=[I.MONEY])
bug("the day has no limit", (act.Limits, "periods", always(())), by=[I.MONEY])
bug("deletes need no proof", (Proof, "most_nodes", never), by=[I.CAP])


# -- the meter


def _cheap(real: Fake) -> Fake:
    return lambda node, now: replace(real(node, now), cost=ZERO)


def _from_boot(real: Fake) -> Fake:
    def closed(node: Any, now: Any) -> Any:
        return real(
            replace(node, sent_at=now - (now - node.sent_at) / 2 if node.sent_at else None), now
        )

    return closed


def _on_and_on(real: Fake) -> Fake:
    def closed(node: Any, now: Any) -> Any:
        return replace(real(node, now), cost=node.price_per_hour * 3)

    return closed


bug("the meter shows nothing", around(facts, "closed", _cheap), by=[I.METERED])
bug("the meter runs half as fast", around(facts, "closed", _from_boot), by=[I.METERED])
bug("the meter charges three hours", around(facts, "closed", _on_and_on), by=[I.METERED])
bug("orphans cost nothing", (sweep, "price_of", always(ZERO)), by=[I.METERED])
bug("what ended cost nothing", _without(closed_today={}, closed_month={}), by=[I.METERED, I.MONEY])
