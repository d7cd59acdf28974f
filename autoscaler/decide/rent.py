"""Which offers to rent: the cheapest whole numbers of VMs that cover what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from autoscaler.decide.program import Program, Row, Variable, solve
from autoscaler.domain.money import Money
from autoscaler.domain.offer import OfferKey
from autoscaler.policy import Spread

SLACK = 0.1  # replicas
_MISS_WORTH = 9.0  # what a missed replica-hour costs in units of the price of serving it
_PRIOR_FAILED, _PRIOR_TRIED = 1.0, 20.0  # launches: one in twenty fails until something is known
_WELCOME_WORTH = 0.75  # of the cheapest work: below 1, or VMs would be rented for it alone
_PER_VM, _PER_NAME = 1e-4, 1e-7  # ties: fewer VMs, then a fixed order of names; far below a cent
_SPREAD_PENALTY, _SHORT_PENALTY = (
    1e2,
    1e4,
)  # in units of the dearest VM: cover first, then spread, then price


@dataclass(frozen=True, slots=True)
class Rented:
    """A node that stands: what it is worth and where."""

    units: float
    location: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer that may be rented now.

    Attributes:
        units: what one VM is worth in reference replicas.
        lead: how long it takes to serve.
        failures, boots: launches of it that failed lately and that succeeded.
        here: nodes that already stand in its location.
        horizon: it is priced as if kept this long, beside its boot.
        gpus: in one VM.
    """

    key: OfferKey
    price_per_hour: Money
    units: float
    replicas: int
    tensor_parallel: int
    concurrency: int
    lead: timedelta
    failures: int = 0
    boots: int = 0
    here: int = 0
    horizon: timedelta = timedelta(hours=1)
    gpus: int = 0

    @property
    def cost(self) -> float:
        """USD of its use for the horizon, its paid boot, and the risk that the launch fails."""
        price, lead_h = float(self.price_per_hour.usd), self.lead / timedelta(hours=1)
        chance = (_PRIOR_FAILED + self.failures) / (_PRIOR_TRIED + self.failures + self.boots)
        kept_h = self.horizon / timedelta(hours=1)
        return price * (kept_h + lead_h) + chance * price * lead_h * (1 + _MISS_WORTH)

    @property
    def usd_per_replica_hour(self) -> float:
        """The price of its work."""
        return float(self.price_per_hour.usd) / self.units


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the nodes that stand and the launches must give together.

    Attributes:
        need: capacity, in reference replicas; a tenth may be missing.
        welcome: capacity up to which more is worth something, though not a VM of its own: it decides between the
            cheapest VM that just covers the need and a slightly dearer one with cheaper work.
        nodes: the least number of nodes.
        spread: what must survive the loss of one node or location; None when that is not asked for.
        launches, usd_per_hour, gpus: the most that may be rented; None for no bound.
    """

    need: float
    welcome: float
    nodes: int
    spread: Spread | None
    launches: int | None
    usd_per_hour: float | None
    gpus: int | None = None


def choose_launches(
    candidates: Sequence[Candidate], rented: Sequence[Rented], wanted: Wanted
) -> list[Candidate]:
    """The offers to rent, one entry per VM, the cheapest work first. Deterministic."""
    if wanted.launches == 0 or not candidates:
        return []
    # Smaller VMs first, with no bound on their number. If what comes out keeps the bound it is the optimum of all,
    # since each larger VM has an equal in smaller ones; only otherwise are the larger ones needed.
    chosen = _solved(without_dominated(candidates), rented, replace(wanted, launches=None))
    if wanted.launches is not None and len(chosen) > wanted.launches:
        chosen = _solved(candidates, rented, wanted)
    return sorted(chosen, key=lambda one: (one.usd_per_replica_hour, one.key))


def _solved(
    candidates: Sequence[Candidate], rented: Sequence[Rented], wanted: Wanted
) -> list[Candidate]:
    groups = group(candidates, by_location=bool(wanted.spread and wanted.spread.survive_location))
    values = solve(launch_program(groups, rented, wanted))
    chosen: list[Candidate] = []
    for members, count in zip(groups, values, strict=False):
        # round robin, emptier locations first: a stock-out then hits fewer of them
        chosen.extend(members[turn % len(members)] for turn in range(round(count)))
    return chosen


def without_dominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leave out what several smaller VMs in the same place give for no more money.

    They come in finer steps, and the failure of one costs less.
    """
    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda c: (c.units, c.cost, c.key)):
        if not any(_dominates(smaller, one) for smaller in kept):
            kept.append(one)
    return kept


def _dominates(smaller: Candidate, larger: Candidate) -> bool:
    times = larger.units / smaller.units
    return (
        smaller.key.location == larger.key.location
        and smaller.key != larger.key
        and abs(times - round(times)) < 1e-9
        and round(times) > 1
        and round(times) * smaller.cost <= larger.cost * (1 + 1e-9)
    )


def group(candidates: Sequence[Candidate], *, by_location: bool) -> list[list[Candidate]]:
    """Put offers together that differ in nothing but their name: one variable each."""
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    ranked = sorted(candidates, key=lambda c: (c.failures, c.here, -c.boots, c.key))
    for one in ranked:
        place = one.key.location if by_location else ""
        alike = (round(one.units, 9), round(one.cost, 9), one.replicas, one.gpus, place)
        groups.setdefault(alike, []).append(one)
    return sorted(groups.values(), key=lambda members: members[0].key)


def launch_program(
    groups: Sequence[Sequence[Candidate]], rented: Sequence[Rented], wanted: Wanted
) -> Program:
    """Minimise cost; cover the need and the least nodes first, the spread next, whatever they cost.

    Variables: one count per group; shortfalls of capacity, nodes and spread; the welcome surplus; one 0/1 variable per
    group whose single VM is so large that losing it could break the spread.
    """
    stands = sum(one.units for one in rented)
    target = wanted.need - SLACK
    dearest = max(members[0].cost for members in groups)
    worth = _WELCOME_WORTH * min(members[0].cost / members[0].units for members in groups)
    counts = [
        _count(index, members, wanted, target - stands, len(rented))
        for index, members in enumerate(groups)
    ]
    first = len(groups)
    short = [
        Variable("short of capacity", dearest * _SHORT_PENALTY, 0.0, math.inf, is_whole=False),
        Variable("short of nodes", dearest * _SHORT_PENALTY, 0.0, math.inf, is_whole=False),
        Variable("short of spread", dearest * _SPREAD_PENALTY, 0.0, math.inf, is_whole=False),
        Variable("welcome", -worth, 0.0, max(0.0, wanted.welcome - target), is_whole=False),
    ]
    units = tuple((index, members[0].units) for index, members in enumerate(groups))
    ones = tuple((index, 1.0) for index in range(first))
    rows = [
        Row("capacity", (*units, (first, 1.0), (first + 3, -1.0)), target - stands),
        Row("nodes", (*ones, (first + 1, 1.0)), float(wanted.nodes - len(rented))),
    ]
    if wanted.launches is not None:
        rows.append(Row("launches", tuple((i, -1.0) for i, _ in ones), -float(wanted.launches)))
    if wanted.usd_per_hour is not None:
        prices = tuple(
            (i, -float(members[0].price_per_hour.usd)) for i, members in enumerate(groups)
        )
        rows.append(Row("USD per hour", prices, -wanted.usd_per_hour - 1e-9))
    if wanted.gpus is not None:
        gpus = tuple((i, -float(members[0].gpus)) for i, members in enumerate(groups))
        rows.append(Row("GPUs", gpus, -float(wanted.gpus)))
    used, spread_rows = _spread(groups, rented, wanted, counts, first + 4)
    return Program((*counts, *short, *used), (*rows, *spread_rows))


def _count(
    index: int, members: Sequence[Candidate], wanted: Wanted, missing: float, stand: int
) -> Variable:
    one = members[0]
    most = math.ceil(max(0.0, missing) / one.units) + max(0, wanted.nodes - stand) + 2
    if wanted.spread is not None:
        most += math.ceil(wanted.need / one.units)
    if wanted.launches is not None:
        most = min(most, wanted.launches)
    return Variable(str(one.key), one.cost + _PER_VM + index * _PER_NAME, 0.0, float(most))


def _spread(
    groups: Sequence[Sequence[Candidate]],
    rented: Sequence[Rented],
    wanted: Wanted,
    counts: Sequence[Variable],
    first_used: int,
) -> tuple[list[Variable], list[Row]]:
    """What is left without any one node, or any one location, must still carry its share of the need."""
    if wanted.spread is None:
        return [], []
    stands = sum(one.units for one in rented)
    slack = (len(groups) + 2, 1.0)
    units = tuple((index, members[0].units) for index, members in enumerate(groups))
    used: list[Variable] = []
    rows: list[Row] = []
    node_share = wanted.spread.survive_node * wanted.need - SLACK
    if wanted.spread.survive_node > 0:
        largest = max((one.units for one in rented), default=0.0)
        rows.append(Row("without the largest node", (*units, slack), node_share - stands + largest))
        for index, members in enumerate(groups):
            size = members[0].units
            if size <= (1 - wanted.spread.survive_node) * wanted.need:
                continue  # the rest carries its share whenever the need is covered
            flag = first_used + len(used)
            used.append(Variable(f"uses {counts[index].name}", 0.0, 0.0, 1.0))
            rows.append(
                Row("used at all", ((flag, max(1.0, counts[index].high)), (index, -1.0)), 0.0)
            )
            rows.append(
                Row("without one of it", (*units, slack, (flag, -size - node_share)), -stands)
            )
    if wanted.spread.survive_location > 0:
        rows.extend(_location_rows(groups, rented, wanted, slack))
    return used, rows


def _location_rows(
    groups: Sequence[Sequence[Candidate]],
    rented: Sequence[Rented],
    wanted: Wanted,
    slack: tuple[int, float],
) -> list[Row]:
    assert wanted.spread is not None
    share = wanted.spread.survive_location * wanted.need - SLACK
    places = {one.location for one in rented} | {members[0].key.location for members in groups}
    rows = []
    for place in sorted(places):
        elsewhere = tuple(
            (index, members[0].units)
            for index, members in enumerate(groups)
            if members[0].key.location != place
        )
        stands = sum(one.units for one in rented if one.location != place)
        rows.append(Row(f"without {place}", (*elsewhere, slack), share - stands))
    return rows
