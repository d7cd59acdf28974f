"""What a person may do to a running daemon: pause, resume, retire, drain. Each is an event with its actor."""

from __future__ import annotations

from dataclasses import replace

import structlog

from autoscaler.clock import Clock
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.errors import ConfigError
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.runner import NodeRunner
from autoscaler.serve.views import marked
from autoscaler.store.protocol import Store
from autoscaler.wakes import Wakes

log = structlog.get_logger(__name__)


class Operations:
    """Carries out what operators ask for."""

    def __init__(
        self, store: Store, leases: Leases, runner: NodeRunner, wakes: Wakes, clock: Clock
    ) -> None:
        self._store = store
        self._leases = leases
        self._runner = runner
        self._wakes = wakes
        self._clock = clock

    async def pause(self, model: ModelName, actor: str) -> None:
        """Stop launching and releasing for a model; deletes and limits go on."""
        await self._store.set_paused(model, actor, self._clock.now())
        await self._audit(model, "model_paused", actor)

    async def resume(self, model: ModelName, actor: str) -> None:
        """Let a model go on, also after its launches were stopped or it was retired."""
        now = self._clock.now()
        await self._store.set_paused(model, None, now)
        await self._store.set_retired(model, None, now)
        await self._store.set_meta(f"resumed:{model}", now.isoformat())
        await self._audit(model, "model_resumed", actor)

    async def retire(self, model: ModelName, actor: str) -> None:
        """Drain every node of a model and rent no more for it."""
        await self._store.set_retired(model, actor, self._clock.now())
        await self._audit(model, "model_retired", actor)

    async def drain(self, name: NodeName, actor: str) -> Node:
        """Drain one node now.

        Raises:
            ConfigError: there is no such node, or it does not serve.
        """
        node = await self._store.node(name)
        if node is None:
            raise ConfigError(f"{name}: no such node (autoscaler nodes lists them)")
        if node.state is not State.READY:
            raise ConfigError(f"{name} is {node.state}: only a ready node can be drained")
        now = self._clock.now()
        after = replace(node, state=State.DRAINING, since=now, reason=f"drained by {actor}")
        event = NodeEvent(
            at=now,
            kind="node_draining",
            model=node.model,
            node=name,
            state=State.DRAINING,
            cause=after.reason,
            actor=actor,
        )
        await self._store.advance(self._leases.current(node.model), node, after, event)
        self._runner.wake(name)
        return after

    async def _audit(self, model: ModelName, kind: str, actor: str) -> None:
        await self._store.add_event(marked(model, kind, actor, self._clock.now()))
        log.info(kind, model=model, actor=actor)
        self._wakes.now(f"model {model}")
