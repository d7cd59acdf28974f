"""The catalogue of faults, as things that can be done to a simulated world.

Each kind says which rows of the fault catalogue it is, how often it is drawn, and what it does. What lasts is undone by
the undo that it returns; `calm` undoes whatever is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoscaler.domain.node import CLOSED, Node, State
from tests.faults.world import World

Params = Mapping[str, float]
Undo = Callable[[], None]
Apply = Callable[[World, Params], Undo | None]
Draw = Callable[[random.Random], dict[str, float]]
Target = Callable[[World, Params], Node | None]

STATES = (
    State.PLANNED,
    State.CREATING,
    State.BOOTING,
    State.VERIFYING,
    State.READY,
    State.DRAINING,
    State.FAILED,
    State.TERMINATING,
)
_AIM = "state"  # a parameter: the place in STATES of what a fault waits for


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        rows: of the fault catalogue.
        weight: how often it comes at a random moment; 0: only aimed at a node's state.
        lasts: bounds of the seconds after which it is undone; None for what is over at once.
        target: the node that it would strike now, for what strikes one alone; None: it is for all to feel.
        of_machine: whether it is the node's machine that is struck.
    """

    name: str
    rows: tuple[str, ...]
    apply: Apply
    weight: int = 2
    lasts: tuple[float, float] | None = None
    draw: Draw = lambda rng: {}
    target: Target | None = None
    of_machine: bool = False


KINDS: dict[str, Kind] = {}


def kind(
    name: str,
    rows: str,
    apply: Apply,
    *,
    weight: int = 2,
    lasts: tuple[float, float] | None = None,
    draw: Draw = lambda rng: {},
    target: Target | None = None,
    of_machine: bool = False,
) -> None:
    KINDS[name] = Kind(name, tuple(rows.split()), apply, weight, lasts, draw, target, of_machine)


LONG = (600.0, 3600.0)
SHORT = (60.0, 600.0)


def open_rows(world: World) -> list[Node]:
    """Every row that is not closed."""
    return [row for row in world.store.rows().values() if row.state not in CLOSED]


def which(rng: random.Random) -> dict[str, float]:
    """Draw which one of several."""
    return {"which": rng.random()}


def pick(found: Sequence[Node], params: Params) -> Node | None:
    """The one that was drawn."""
    return found[int(params["which"] * len(found))] if found else None


def aimed_at(state: State) -> dict[str, float]:
    """Have a fault wait until a node is in that state, and strike that one if it strikes one alone."""
    return {_AIM: float(STATES.index(state))}


def aim_of(params: Params) -> State | None:
    """The state of nodes that a fault waits for, if any."""
    return STATES[int(params[_AIM])] if _AIM in params else None


def drawn(params: Params) -> dict[str, float]:
    """What a kind drew for itself."""
    return {key: value for key, value in params.items() if key != _AIM}
