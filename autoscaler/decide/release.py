"""Which nodes to give back: the set whose keeping costs most, within the pace and what must stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoscaler.decide.program import Program, Row, Variable, solve
from autoscaler.decide.rent import SLACK
from autoscaler.domain.node import Node, State
from autoscaler.policy import Spread

SCALE_IN = "scale-in"  # how the reason of every release begins: only such a drain may be taken back
_DRAIN_H = 2 / 60  # what a node bills while it drains
_PACE = 0.1  # share of the serving nodes that one pass may take
_ORDER = 1e-7


@dataclass(frozen=True, slots=True)
class Held:
    """A node that stands, with what it is worth and the chance that its like cannot be rented again."""

    node: Node
    units: float
    lead: timedelta
    gone_chance: float
    horizon: timedelta = timedelta(hours=1)

    @property
    def serves(self) -> bool:
        return self.node.state is State.READY

    def keep_cost(self, now: datetime) -> float:
        """USD of keeping it for the horizon instead of giving it back."""
        price, lead_h = float(self.node.price_per_hour.usd), self.lead / timedelta(hours=1)
        regret = self.gone_chance * price * lead_h
        kept_h = self.horizon / timedelta(hours=1)
        if self.serves:
            return price * kept_h - price * _DRAIN_H - regret
        rest_h = max(0.0, lead_h - (now - self.node.created_at) / timedelta(hours=1))
        return price * (kept_h + rest_h) - regret


@dataclass(frozen=True, slots=True)
class Keep:
    """What must be left: capacity, nodes and spread."""

    need: float
    nodes: int
    spread: Spread | None


def choose_releases(held: Sequence[Held], keep: Keep, now: datetime) -> list[Held]:
    """The nodes to give back in this pass, booting before serving, the newest of equals first. Deterministic."""
    if len(held) <= keep.nodes or not held:
        return []
    if sum(one.units for one in held) - min(one.units for one in held) < keep.need - 1e-9:
        return []
    groups = group(held, now)
    values = solve(release_program(groups, keep, now))
    chosen: list[Held] = []
    for members, kept in zip(groups, values, strict=False):
        chosen.extend(members[: len(members) - round(kept)])
    return sorted(chosen, key=lambda one: (one.serves, -one.keep_cost(now), one.node.name))


def group(held: Sequence[Held], now: datetime) -> list[list[Held]]:
    """Put nodes together that are alike, the newest first."""
    groups: dict[tuple[object, ...], list[Held]] = {}
    newest_first = sorted(held, key=lambda one: one.node.name)
    newest_first.sort(key=lambda one: one.node.created_at, reverse=True)
    for one in newest_first:
        node = one.node
        age = None if one.serves else node.created_at
        alike = (node.offer, one.serves, one.units, node.price_per_hour.usd, age)
        groups.setdefault(alike, []).append(one)
    return sorted(groups.values(), key=lambda g: (g[0].serves, g[0].node.offer, g[0].node.name))


def release_program(groups: Sequence[Sequence[Held]], keep: Keep, now: datetime) -> Program:
    """Minimise the cost of what is kept. Variables: how many of each group to keep, then whether any is kept.

    What serves must carry the need by itself: capacity that still boots is no reason to let go of any that serves.
    """
    counts = tuple(
        Variable(
            str(members[0].node.offer),
            members[0].keep_cost(now) - index * _ORDER,
            0.0,
            float(len(members)),
        )
        for index, members in enumerate(groups)
    )
    serving = [one for members in groups for one in members if one.serves]
    ready = sum(one.units for one in serving)
    pace = max(1, int(len(serving) * _PACE))
    rows = [
        Row("capacity", _units(groups), keep.need),
        Row("serving capacity", _units(groups, serving_only=True), min(keep.need, ready)),
        Row("nodes", tuple((index, 1.0) for index in range(len(groups))), float(keep.nodes)),
        Row(
            "pace",
            tuple((index, 1.0) for index, members in enumerate(groups) if members[0].serves),
            float(len(serving) - pace),
        ),
    ]
    used, spread_rows = _spread(groups, keep)
    return Program((*counts, *used), (*(row for row in rows if row.weights), *spread_rows))


def _units(
    groups: Sequence[Sequence[Held]], *, serving_only: bool = False
) -> tuple[tuple[int, float], ...]:
    return tuple(
        (index, members[0].units)
        for index, members in enumerate(groups)
        if members[0].serves or not serving_only
    )


def _spread(groups: Sequence[Sequence[Held]], keep: Keep) -> tuple[tuple[Variable, ...], list[Row]]:
    """The spread that holds now must hold after; one that does not hold now forbids nothing here."""
    if keep.spread is None:
        return (), []
    total = sum(one.units for members in groups for one in members)
    used: list[Variable] = []
    rows: list[Row] = []
    share = keep.spread.survive_node * keep.need - SLACK
    largest = max(members[0].units for members in groups)
    if share > 0 and total - largest >= share:
        for index, members in enumerate(groups):
            flag = len(groups) + len(used)
            used.append(Variable(f"keeps {members[0].node.offer}", 0.0, 0.0, 1.0))
            rows.append(Row("kept at all", ((flag, float(len(members))), (index, -1.0)), 0.0))
            loss = members[0].units + share
            rows.append(Row("without one of it", (*_units(groups), (flag, -loss)), 0.0))
    share = keep.spread.survive_location * keep.need - SLACK
    places = sorted({members[0].node.offer.location for members in groups})
    for place in places:
        elsewhere = tuple(
            (index, members[0].units)
            for index, members in enumerate(groups)
            if members[0].node.offer.location != place
        )
        now_elsewhere = sum(weight * len(groups[index]) for index, weight in elsewhere)
        if share > 0 and now_elsewhere >= share:
            rows.append(Row(f"without {place}", elsewhere, share))
    return tuple(used), rows
