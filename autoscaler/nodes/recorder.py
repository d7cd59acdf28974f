"""Writes what becomes of nodes: each step's row and event in one transaction, then what the step taught."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from autoscaler.clock import Clock
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.nodes.ages import Ages
from autoscaler.nodes.facts import receipt
from autoscaler.nodes.launch import Launcher
from autoscaler.nodes.leases import Leases
from autoscaler.policy import Policy
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records nodes under their models' leases. Every method may raise `StoreUnavailable` or `LeaseLost`.

    Attributes:
        changed: told of every recorded change of state.
    """

    store: Store
    clock: Clock
    leases: Leases
    ages: Ages
    launcher: Launcher
    policies: Callable[[], Mapping[ModelName, Policy]]
    changed: Callable[[Node, Node], None]

    async def record(self, before: Node, after: Node, cause: str, detail: str = "") -> None:
        """Write what changed: a new state with its event, new facts without one, nothing if nothing is new."""
        if after.state is not before.state:
            await self.advance(before, after, cause, detail)
            await self._learn_from(before, after)
        elif after != before:
            await self.update(before, after)

    async def update(self, before: Node, after: Node) -> None:
        """Write new facts of a node."""
        await self.store.update(self.leases.current(before.model), before, after)

    async def advance(self, before: Node, after: Node, cause: str, detail: str = "") -> None:
        """Write a node's new state and its event."""
        event = NodeEvent(
            at=after.since,
            kind=f"node_{after.state}",
            model=after.model,
            node=after.name,
            state=after.state,
            cause=cause,
            actor="daemon",
            detail=detail or receipt(after),
            decision=after.decision,
        )
        await self.store.advance(self.leases.current(before.model), before, after, event)
        self.ages.instant(after)
        log.info(event.kind, node=after.name, model=after.model, cause=cause)
        self.changed(before, after)

    async def say(self, node: Node, kind: str, cause: str, detail: str = "") -> None:
        """Write an event that changes nothing of the node."""
        await self.store.add_event(
            NodeEvent(
                at=self.clock.now(),
                kind=kind,
                model=node.model,
                node=node.name,
                state=node.state,
                cause=cause,
                actor="daemon",
                detail=detail,
                decision=node.decision,
            )
        )

    async def _learn_from(self, before: Node, after: Node) -> None:
        """What a launch taught about its offer."""
        if after.state is State.READY and before.ready_at is None:
            boot_s = (after.since - after.created_at).total_seconds()
            await self.store.add_boot(after.model, after.offer, boot_s, after.since)
            await self.store.clear_backoff(after.offer)
        elif after.state is State.FAILED and before.ready_at is None:
            policy = self.policies().get(after.model)
            # A create call that was refused has backed its offer off already.
            refused = before.failure is not None
            if policy is not None and not refused:
                await self.launcher.note_failure(after, policy, after.failure or "failed")
