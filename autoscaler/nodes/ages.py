"""How long a node has been in its state, whatever the wall clock does.

Rows carry wall-clock times, so that a successor can go on with them. Within one process their ages grow with the boot
clock: a wall clock that jumps an hour ahead would else let every deadline pass at once.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from autoscaler.clock import Clock
from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import Node


class Ages:
    """Remembers for each node by how much the wall clock had jumped when its state was first seen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epoch = self._offset()
        self._seen: dict[NodeName, tuple[datetime, timedelta]] = {}

    def instant(self, node: Node) -> datetime:
        """The instant at which to judge the node: now, less what the clock jumped since it entered its state."""
        jumped = self._offset() - self._epoch
        since, before = self._seen.get(node.name, (None, jumped))
        if since != node.since:
            before = jumped
            self._seen[node.name] = (node.since, before)
        return self._clock.now() - (jumped - before)

    def forget(self, name: NodeName) -> None:
        """The node is closed."""
        self._seen.pop(name, None)

    def _offset(self) -> timedelta:
        return timedelta(
            seconds=self._clock.now().timestamp() - self._clock.boot_s(),
        )
