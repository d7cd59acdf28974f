"""How long a node has been in its state, whatever the wall clock does.

Rows carry wall-clock times, so that a successor can go on with them. Within one process their ages grow with the boot
clock: a wall clock that jumps an hour ahead would else let every deadline pass at once.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from autoscaler.clock import Clock
from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import Node

_JUMP = timedelta(seconds=1)  # less is a clock that is slewed
_LATELY_S = 120.0  # rows are looked at every few seconds: what is first seen is not older


class Ages:
    """Remembers for each node by how much the wall clock had jumped when its state was first seen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epoch = self._offset()
        self._jumped = self._last_jump = timedelta(0)
        self._jumped_s = float("-inf")  # when that jump was noticed, since boot
        self._seen: dict[NodeName, tuple[datetime, timedelta]] = {}

    def instant(self, node: Node) -> datetime:
        """The instant at which to judge the node: now, less what the clock jumped since it entered its state."""
        jumped = self._notice()
        since, before = self._seen.get(node.name, (None, jumped))
        if since != node.since:
            before = jumped - self._jump_since(node)
            self._seen[node.name] = (node.since, before)
        return self._clock.now() - (jumped - before)

    def forget(self, name: NodeName) -> None:
        """The node is closed."""
        self._seen.pop(name, None)

    def _notice(self) -> timedelta:
        """How far the wall clock has jumped in this process."""
        jumped = self._offset() - self._epoch
        if abs(jumped - self._jumped) >= _JUMP:
            self._last_jump, self._jumped_s = jumped - self._jumped, self._clock.boot_s()
            self._jumped = jumped
        return jumped

    def _jump_since(self, node: Node) -> timedelta:
        """What the clock jumped between a state that somebody else recorded and our first look at it."""
        age = self._clock.now() - node.since
        if self._clock.boot_s() - self._jumped_s >= _LATELY_S:
            return timedelta(0)
        is_before = age >= self._last_jump if self._last_jump > timedelta(0) else age < timedelta(0)
        return self._last_jump if is_before else timedelta(0)

    def _offset(self) -> timedelta:
        return timedelta(
            seconds=self._clock.now().timestamp() - self._clock.boot_s(),
        )
