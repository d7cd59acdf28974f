"""Planted bugs of machines: operations and absence, deletes, the sweep, hosts and their keys."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.domain.machine import OperationState
from autoscaler.domain.node import State
from autoscaler.nodes import inventory, runner, sweep, terminate
from autoscaler.nodes.absence import AbsenceProof
from autoscaler.nodes.lifecycle import Effect, Sighting, Step
from autoscaler.nodes.look import Looker
from autoscaler.wakes import Wakes
from tests.faults import hosts
from tests.faults.invariants import Invariant as I
from tests.faults.options import OWNER
from tests.faults.planting import Fake, Patch, always, around, bug, nothing, step

# -- operations and absence


def _believes_failed(node: Any, seen: Any, real: Step) -> Step:
    operation = seen.operation
    failed = operation is not None and operation.state is OperationState.FAILED
    if node.state is State.CREATING and failed:
        return Step(State.CANCELLED, Effect.NONE, "FAILED, so nothing was made")
    return real


def _gone_when_asked(node: Any, seen: Any, real: Step) -> Step:
    if node.state is State.TERMINATING and node.deletes:
        return Step(State.GONE, Effect.NONE, "it was asked to go")
    return real


async def _all_404(self: object, machine_id: object) -> None:
    return None


bug("FAILED is believed", step(_believes_failed), by=[I.GONE_IS_ABSENT])
bug("an answered delete is gone", step(_gone_when_asked), by=[I.GONE_IS_ABSENT])
bug("one look proves absence", (AbsenceProof, "listings_agree", True), by=[I.GONE_IS_ABSENT])
bug(
    "a listing alone proves absence",
    (MkinfCloud, "machine", _all_404),
    (AbsenceProof, "listings_agree", True),
    by=[I.GONE_IS_ABSENT],
)


# -- deletes


def _gives_up(real: Fake) -> Fake:
    return lambda node, *rest: node.deletes < 3 and real(node, *rest)


async def _counted_only(cloud: Any, node: Any, listed: Any, now: Any) -> Any:
    return replace(node, last_delete_at=now, deletes=node.deletes + 1), False


bug(
    "deletes give up after three",
    around(terminate, "delete_due", _gives_up),
    by=[I.DELETE_NEVER_GIVES_UP, I.HEALS],
)
bug(
    "deletes are never sent",
    (terminate, "delete_due", always(False)),
    by=[I.DELETE_NEVER_GIVES_UP, I.HEALS],
)
bug(
    "deletes are counted and not sent",
    (terminate, "delete", _counted_only),
    by=[I.DELETE_NEVER_GIVES_UP],
)
bug(
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


bug("no sweep", _found(adopt=(), surplus=(), expired=(), orphans=()), by=[I.KNOWN, I.HEALS])
bug("orphans are left", _found(expired=()), by=[I.KNOWN, I.HEALS])
bug("surplus is left", _found(surplus=()), by=[I.KNOWN, I.HEALS])
bug("the sweep wakes once", around(Wakes, "every", _once), by=[I.KNOWN, I.HEALS])
bug(
    "another owner's is taken for ours",
    around(inventory, "parse_name", _everybodys),
    by=[I.ONLY_OURS],
)
bug(
    "the sweep deletes without a row",
    (sweep.Sweeper, "_doom", _deletes_at_once),
    by=[I.INTENT_FIRST],
)
bug("left disks are left", (sweep.Sweeper, "_clear_disks", nothing), by=[I.HEALS])


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


async def _any_key(self: Any, kind: str, node: Any) -> Any:
    host = await self._reach(kind, node)
    self._told(self._command(kind, node, host, "a relay's" if host.relayed else host.host_key))
    return host


bug("nothing is verified", around(Looker, "_verifying", _verifying), by=[I.VERIFIED])
bug("any host key is proven", (hosts, "is_proven", always(True)), by=[I.PINNED])
bug("a changed host key is gone on with", (hosts.HostProber, "_pinned", _any_key), by=[I.PINNED])
bug("the pin is not kept", around(runner, "entered", _unpinned), by=[I.HEALS, I.PINNED])
