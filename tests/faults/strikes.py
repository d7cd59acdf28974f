"""What befalls a world: faults begin and end in it, and which nodes each one met is noted.

A fault comes at its time; one that is aimed at nodes of some state waits from then on until there is one. It meets the
node that it strikes, or every node where it is for all to feel, in each state that they are in while it lasts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import Node, State
from tests.faults.faults import KINDS
from tests.faults.kinds import STATES, Undo, aim_of, open_rows
from tests.faults.world import World

if TYPE_CHECKING:
    from tests.faults.schedule import Fault

_AGAIN_S = 10.0  # until a machine is looked for again in a state that its row has already


@dataclass(slots=True)
class _Standing:
    """A fault that lasts: `node` is the one that it struck alone."""

    kind: str
    node: NodeName | None
    undo: Undo
    met: set[State] = field(default_factory=set)


class Strikes:
    """The faults of one schedule, in one world.

    Attributes:
        struck: how often each kind began.
        met: how often one of a kind met nodes in a state.
    """

    def __init__(self, world: World, faults: Sequence[Fault], length_s: float) -> None:
        self.struck: Counter[str] = Counter()
        self.met: Counter[tuple[str, str]] = Counter()
        self._world = world
        self._faults = faults
        self._length_s = length_s
        self._standing: dict[int, _Standing] = {}
        self._waiting: dict[int, State] = {}
        world.store.moved = self._moved

    def agenda(self) -> list[tuple[float, Callable[[], object]]]:
        """Every beginning and end, in order of time."""
        entries: list[tuple[float, int, Callable[[], object]]] = [(self._length_s, -1, self._over)]
        for index, fault in enumerate(self._faults):
            aim = aim_of(dict(fault.params))
            if aim is not None:
                entries.append((fault.at_s, index, partial(self._await, index, aim)))
                continue
            entries.append((fault.at_s, index, partial(self._begin, index)))
            if fault.lasts_s is not None:
                ends_s = min(fault.at_s + fault.lasts_s, self._length_s)
                entries.append((ends_s, index, partial(self._end, index)))
        return [(at_s, act) for at_s, _, act in sorted(entries, key=lambda entry: entry[:2])]

    def _await(self, index: int, aim: State) -> None:
        if self._begin(index):
            return
        self._waiting[index] = aim
        if KINDS[self._faults[index].kind].target is not None:
            self._again(index)

    def _again(self, index: int) -> None:
        """A machine may come, or answer, later than its row's state."""
        if index in self._waiting and not self._begin(index):
            asyncio.get_running_loop().call_later(_AGAIN_S, self._again, index)

    def _begin(self, index: int) -> bool:
        """Begin it, if there is what it would strike."""
        fault, world = self._faults[index], self._world
        kind, params = KINDS[fault.kind], dict(fault.params)
        if kind.target is None:
            one, states = None, {row.state for row in open_rows(world)}
        else:
            one = kind.target(world, params)
            states = {one.state} if one is not None else set()
        aim = aim_of(params)
        if (aim is not None and aim not in states) or (kind.target is not None and one is None):
            return False
        self._waiting.pop(index, None)
        self.struck[kind.name] += 1
        for state in states:
            self.met[kind.name, state.value] += 1
        undo = kind.apply(world, params)
        if undo is not None and fault.lasts_s is not None:
            self._standing[index] = _Standing(kind.name, one.name if one else None, undo, states)
            if aim is not None:
                asyncio.get_running_loop().call_later(fault.lasts_s, self._end, index)
        return True

    def _end(self, index: int) -> None:
        standing = self._standing.pop(index, None)
        if standing is not None:
            standing.undo()

    def _over(self) -> None:
        """What waits comes no more, and what came late ends now."""
        self._waiting.clear()
        for index in list(self._standing):
            if aim_of(dict(self._faults[index].params)) is not None:
                self._end(index)

    def _moved(self, row: Node) -> None:
        """Hear of a row that may be in a new state."""
        if row.state not in STATES:
            return
        for standing in self._standing.values():
            if standing.node in (None, row.name) and row.state not in standing.met:
                standing.met.add(row.state)
                self.met[standing.kind, row.state.value] += 1
        for index in [i for i, aim in self._waiting.items() if aim is row.state]:
            self._begin(index)
