"""What the cheapest fleet would have cost that knew the whole trace: no law can do better at that attainment.

Both bounds are of autoscaling by levels of demand, in replicas of the cheapest work; they know no stock-outs, no limits
and no whole machines, unless asked for whole levels. The work of a request is in replica-seconds, from the backtest's
own model of a server: a request that takes w of them in a slot of 60 s is a demand of w/60 replicas there.

Symbols: d_t demand in slot t, n_t replicas that stand, l the least billed boot in slots, alpha the share served in
time, omega the slots within which a request is in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

SLOT_S = 60.0
_FINE = 0.02  # replicas: the height of a level where parts of machines are allowed


@dataclass(frozen=True, slots=True)
class Start:
    """What a start costs, beyond the work that it is for.

    Attributes:
        slots: the least billed boot, in slots.
    """

    slots: float

    @classmethod
    def of_boot(cls, boot_s: float) -> Start:
        return cls(boot_s / SLOT_S)


def demand(work: Iterable[tuple[float, float]], length_s: float) -> list[float]:
    """Replicas that each slot's arrivals keep busy.

    Args:
        work: (arrival in seconds since the beginning, replica-seconds) of each request, in any order.
        length_s: of the trace; what arrives later counts in the last slot.
    """
    slots = [0.0] * max(1, math.ceil(length_s / SLOT_S))
    for arrival_s, busy_s in work:
        slots[min(int(arrival_s / SLOT_S), len(slots) - 1)] += busy_s / SLOT_S
    return slots


def strict(demanded: Sequence[float], start: Start, *, whole: bool = False) -> float:
    """Replica-hours of the cheapest plan that serves each slot's work in its slot.

    min sum n_t + l (n_t - n_{t-1})^+ with n_t >= d_t splits by level: a level stands while d_t reaches it, and in a gap
    it is kept where that is cheaper than to start again. Levels of one replica are the exact optimum for whole ones;
    thin levels, each counted where demand fills it, are a lower bound for any fleet.
    """
    height = 1.0 if whole else _FINE
    most = max(demanded, default=0.0)
    levels = math.ceil(most - 1e-9) if whole else math.floor(most / height)
    total = 0.0
    on: Sequence[tuple[int, float]] = list(enumerate(demanded))
    for level in range(levels):
        reached = level + 1e-9 if whole else (level + 1) * height
        on = [slot for slot in on if slot[1] >= reached]  # who reaches a level reached those below
        total += height * _stands([t for t, _ in on], start.slots)
    return total * SLOT_S / 3600


def _stands(on: Sequence[int], start_slots: float) -> float:
    """For how many slots a level is paid that is needed in these."""
    if not on:
        return 0.0
    gaps = sum(min(b - a - 1, start_slots) for a, b in pairwise(on))
    return len(on) + gaps + start_slots


def relaxed(
    demanded: Sequence[float], start: Start, *, attained: float = 1.0, late_slots: int = 1
) -> float:
    """Replica-hours of the cheapest plan that serves a share of the work in time, by a linear program.

    Variables per slot: n_t replicas, y_t starts, S_t and V_t the work served and dropped so far.

        min sum n_t + l y_t    y_t >= n_t - n_{t-1}    S_t - S_{t-1} <= n_t    V_T <= (1 - alpha) D_T
        S_t + V_t <= D_t <= S_{t+omega} + V_t

    Args:
        attained: the share of the work that is served in time, 0..1.
        late_slots: omega: work may be served so many slots after its own and still be in time.

    Raises:
        RuntimeError: the solver gave no optimum; there always is one.
    """
    from highspy._core import HighsLp, MatrixFormat, _Highs, kHighsInf  # 0.1 s of import

    if not demanded or max(demanded) <= 0:
        return 0.0
    count = len(demanded)
    so_far = list(accumulate(demanded))
    rows = _Rows()
    n, y, served, dropped = (kind * count for kind in range(4))
    for t in range(count):
        before = [(n + t - 1, 1.0)] if t else []
        rows.add([(y + t, 1.0), (n + t, -1.0), *before], 0.0, kHighsInf)
        earlier = [(served + t - 1, 1.0)] if t else []
        rows.add([(n + t, 1.0), (served + t, -1.0), *earlier], 0.0, kHighsInf)
        if t:
            rows.add([(served + t, 1.0), (served + t - 1, -1.0)], 0.0, kHighsInf)
            rows.add([(dropped + t, 1.0), (dropped + t - 1, -1.0)], 0.0, kHighsInf)
        rows.add([(served + t, 1.0), (dropped + t, 1.0)], -kHighsInf, so_far[t])
        by = served + min(t + late_slots, count - 1)
        rows.add([(by, 1.0), (dropped + t, 1.0)], so_far[t], kHighsInf)
    program: Any = HighsLp()
    program.num_col_, program.num_row_ = 4 * count, len(rows.low)
    program.col_cost_ = [1.0] * count + [start.slots] * count + [0.0] * (2 * count)
    program.col_lower_ = [0.0] * (4 * count)
    most_dropped = (1.0 - attained) * so_far[-1]
    program.col_upper_ = [kHighsInf] * (3 * count) + [most_dropped] * count
    program.row_lower_, program.row_upper_ = rows.low, rows.high
    program.a_matrix_.format_ = MatrixFormat.kRowwise
    program.a_matrix_.start_ = rows.starts
    program.a_matrix_.index_, program.a_matrix_.value_ = rows.columns, rows.weights
    solver: Any = _Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("solver", "ipm")  # a week in seconds; the simplex takes minutes
    solver.setOptionValue("run_crossover", "off")  # only the cost is asked for, not a vertex
    solver.passModel(program)
    solver.run()
    status = solver.modelStatusToString(solver.getModelStatus())
    if status != "Optimal":
        raise RuntimeError(f"the bound's program was not solved: {status}")
    return float(solver.getInfo().objective_function_value) * SLOT_S / 3600


class _Rows:
    """Rows of a sparse matrix, one after the other."""

    def __init__(self) -> None:
        self.starts, self.columns = [0], list[int]()
        self.weights, self.low, self.high = list[float](), list[float](), list[float]()

    def add(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        self.columns += [column for column, _ in terms]
        self.weights += [weight for _, weight in terms]
        self.starts.append(len(self.columns))
        self.low.append(low)
        self.high.append(high)
