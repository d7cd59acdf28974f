"""The catalogue of faults, as things that can be done to a simulated world.

Each kind says which rows of the fault catalogue it is, how often it is drawn, and what it does. What lasts is undone by
the undo that it returns; `calm` undoes whatever is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autoscaler.domain.node import CLOSED, Node
from tests.faults.world import World

Params = Mapping[str, float]
Undo = Callable[[], None]
Apply = Callable[[World, Params], Undo | None]
Draw = Callable[[random.Random], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        rows: of the fault catalogue.
        lasts: bounds of the seconds after which it is undone; None for what is over at once.
    """

    name: str
    rows: tuple[str, ...]
    apply: Apply
    weight: int = 2
    lasts: tuple[float, float] | None = None
    draw: Draw = lambda rng: {}


KINDS: dict[str, Kind] = {}


def kind(
    name: str,
    rows: str,
    apply: Apply,
    *,
    weight: int = 2,
    lasts: tuple[float, float] | None = None,
    draw: Draw = lambda rng: {},
) -> None:
    KINDS[name] = Kind(name, tuple(rows.split()), apply, weight, lasts, draw)


LONG = (600.0, 3600.0)
SHORT = (60.0, 600.0)


def open_rows(world: World) -> list[Node]:
    """Every row that is not closed."""
    return [row for row in world.store.rows().values() if row.state not in CLOSED]


def which(rng: random.Random) -> dict[str, float]:
    """Draw which one of several."""
    return {"which": rng.random()}
