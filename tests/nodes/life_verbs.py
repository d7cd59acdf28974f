"""What happens to a node in many tests: it comes up, a pass gives it back, its story is read."""

from __future__ import annotations

from dataclasses import replace

from autoscaler.domain.node import Node, State
from tests.nodes.life_parts import MODEL, Life, intent_id, node


async def ready(alive: Life, number: int = 0) -> Node:
    """A node that serves."""
    row = await alive.add(node(intent=intent_id(number)))
    return await alive.until(row.name, State.READY)


async def release(alive: Life, row: Node, **changes: object) -> Node:
    """What a pass records when it gives a ready node back."""
    after = replace(row, state=State.DRAINING, since=alive.clock.now(), reason="idle", **changes)  # type: ignore[arg-type]
    await alive.store.update(alive.leases.current(MODEL), row, after)
    return after


async def kinds(alive: Life, row: Node) -> list[str]:
    """The kinds of the node's events, in order."""
    return [event.kind for event in await alive.store.events(node=row.name)]
