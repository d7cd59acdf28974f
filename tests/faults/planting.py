"""How a bug is planted: what it breaks for a while, and which invariants must see it.

The bugs stand in `planted_*.py`, by theme; `planted.py` is all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from autoscaler.nodes import runner
from autoscaler.nodes.lifecycle import Step
from tests.faults.invariants import Invariant

Patch = tuple[object, str, object]
Fake = Any  # stands where a function of any shape stood


@dataclass(frozen=True, slots=True)
class Bug:
    """One planted bug, and the invariants of which one must see it."""

    name: str
    patches: tuple[Patch, ...]
    seen_by: frozenset[Invariant]


BUGS: dict[str, Bug] = {}


def bug(name: str, *patches: Patch, by: Sequence[Invariant]) -> None:
    """Enter one."""
    assert name not in BUGS, name
    BUGS[name] = Bug(name, patches, frozenset(by))


@contextmanager
def planted(one: Bug) -> Iterator[None]:
    """Break it for a while."""
    with ExitStack() as stack:
        for target, name, fake in one.patches:
            stack.enter_context(patch.object(target, name, fake))
        yield


def around(target: object, name: str, make: Callable[[Fake], Fake]) -> Patch:
    """A patch that calls what stood there."""
    return (target, name, make(getattr(target, name)))


def always(value: object) -> Fake:
    """A function that gives this, whatever it is given."""
    return lambda *args, **kwargs: value


def never(*args: object, **kwargs: object) -> None:
    """Stands where a check stood, and finds nothing wrong."""


async def nothing(*args: object, **kwargs: object) -> None:
    """Stands where an effect stood, and has none."""


def step(make: Callable[[Any, Any, Step], Step]) -> Patch:
    """A patch of the table of a node's life: what stood there says one step, and another is taken."""
    real: Fake = getattr(runner, "next_step")  # noqa: B009  # imported there, exported elsewhere

    def fake(node: Any, seen: Any, rules: Any, now: Any) -> Step:
        return make(node, seen, real(node, seen, rules, now))

    return (runner, "next_step", fake)
