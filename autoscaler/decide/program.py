"""A small integer program and its exact solution: whole variables with bounds, rows that must reach a least value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from autoscaler.errors import InvariantBroken

_MOST_NODES = 20_000  # of the search: a freak instance gets a good answer in bounded time, the same one each time


@dataclass(frozen=True, slots=True)
class Variable:
    """How many of one thing: at least `low`, at most `high`, at `cost` each.

    `is_whole` False is for shortfalls, which may be any amount.
    """

    name: str
    cost: float
    low: float
    high: float
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A condition: the sum of weight × variable is at least `least`. Weights are by the variable's index."""

    name: str
    weights: tuple[tuple[int, float], ...]
    least: float


@dataclass(frozen=True, slots=True)
class Program:
    """Minimise the total cost under every row."""

    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    def cost(self, values: tuple[float, ...]) -> float:
        """What a solution costs."""
        return sum(v.cost * x for v, x in zip(self.variables, values, strict=True))


@lru_cache(maxsize=128)  # while an offer is out of stock each pass asks the same
def solve(program: Program) -> tuple[float, ...]:
    """The cheapest values: no gap is allowed, one thread, so the same program gives the same values.

    Raises:
        InvariantBroken: the program has no solution; ours always have, by their shortfalls.
    """
    # Imported here: it costs 0.1 s and 40 MB that a daemon with nothing to place never pays. The core class, since the
    # public one prints a banner to stdout as it is made, before it can be told not to: fatal for `plan --json`.
    import highspy
    from highspy._core import _Highs

    make: Any = _Highs  # Any: highspy ships no types for it; it stays within this function
    solver = make()
    for option, value in (
        ("output_flag", False),
        ("threads", 1),
        ("mip_rel_gap", 0.0),
        ("mip_abs_gap", 0.0),
        ("random_seed", 0),
        ("mip_max_nodes", _MOST_NODES),
    ):
        solver.setOptionValue(option, value)
    for index, variable in enumerate(program.variables):
        solver.addVar(variable.low, variable.high)
        solver.changeColCost(index, variable.cost)
        if variable.is_whole:
            solver.changeColIntegrality(index, highspy.HighsVarType.kInteger)
    for row in program.rows:
        columns = [index for index, _ in row.weights]
        weights = [weight for _, weight in row.weights]
        solver.addRow(row.least, highspy.kHighsInf, len(columns), columns, weights)
    solver.run()
    usable = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kSolutionLimit)
    values = list(solver.getSolution().col_value)
    if solver.getModelStatus() not in usable or len(values) != len(program.variables):
        status = solver.modelStatusToString(solver.getModelStatus())
        raise InvariantBroken(f"the placement program was not solved: {status}")
    return tuple(
        float(round(value)) if variable.is_whole else max(0.0, value)
        for variable, value in zip(program.variables, values, strict=True)
    )
