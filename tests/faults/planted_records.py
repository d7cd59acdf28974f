"""Planted bugs of what is recorded: intents and names, epochs, reasons, secrets, and what a process remembers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from autoscaler import act, reconcile
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.session import Call, Session
from autoscaler.domain.node import State
from autoscaler.errors import OutcomeUnknown
from autoscaler.nodes import recorder
from autoscaler.nodes.ages import Ages
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.recorder import Recorder
from autoscaler.observe.feed import SignalFeed
from autoscaler.store import sqlite_nodes
from tests.faults.cloud import KEY
from tests.faults.invariants import Invariant as I
from tests.faults.planting import Fake, always, around, bug, never

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


bug("no intent before the create", around(Recorder, "advance", _unrecorded), by=[I.INTENT_FIRST])
bug("a lost create is sent again", around(MkinfCloud, "create", _twice), by=[I.ONE_PER_INTENT])
bug("the client repeats a create", (Call, "may_repeat", True), by=[I.ONE_PER_INTENT])


# -- who may write


async def _empty() -> list[str]:
    return []


bug("no fencing check", (sqlite_nodes, "check_epoch", never), by=[I.ONE_ACTOR])
bug("leases are not renewed", (Leases, "renew_all", lambda self: _empty()), by=[I.HEALS])


# -- reasons


def _no_reason(real: Fake) -> Fake:
    return lambda *args: tuple(replace(row, reason="") for row in real(*args))


def _released_silently(real: Fake) -> Fake:
    return lambda *args: [(b, replace(a, reason=""), e) for b, a, e in real(*args)]


def _causeless(real: Fake) -> Fake:
    async def advance(self: Any, before: Any, after: Any, cause: str, *rest: Any) -> None:
        await real(self, before, after, "" if after.state is State.TERMINATING else cause, *rest)

    return advance


def _unkept(real: Fake) -> Fake:
    def record_decision(db: Any, lease: Any, decision: Any, *rest: Any, **more: Any) -> None:
        real(db, lease, decision, *rest, **{**more, "acted": False})

    return record_decision


bug("no reason is kept", around(act, "drafts", _no_reason), by=[I.EXPLAINED])
bug(
    "a release has no reason",
    around(reconcile, "released_rows", _released_silently),
    by=[I.EXPLAINED],
)
bug("an event has no cause", around(Recorder, "advance", _causeless), by=[I.EXPLAINED])
bug(
    "the decision to rent is not kept",
    around(sqlite_nodes, "record_decision", _unkept),
    by=[I.EXPLAINED],
)


# -- secrets


def _telling(real: Fake) -> Fake:
    def failure(self: Any, call: Any, response: Any) -> Any:
        found = real(self, call, response)
        found.args = (f"{found}; sent: {KEY}",)
        return found

    return failure


bug("the key is in a receipt", (recorder, "receipt", always(f"with {KEY}")), by=[I.SILENT])
bug("the key is in a refusal's words", around(Session, "_failure", _telling), by=[I.SILENT])


# -- what grows


def _leaks(real: Fake) -> Fake:
    async def read(self: Any, *args: Any) -> Any:
        self.leaked = [*getattr(self, "leaked", []), asyncio.ensure_future(asyncio.sleep(1e9))]
        return await real(self, *args)

    return read


bug("each reading leaves a task", around(SignalFeed, "read", _leaks), by=[I.BOUNDED])
bug("nodes that ended are remembered", (Ages, "forget", never), by=[I.BOUNDED])
