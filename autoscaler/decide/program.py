"""A small integer program and its exact solution: whole variables with bounds, rows that must reach a least value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoscaler.errors import InvariantBroken


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


def solve(program: Program) -> tuple[float, ...]:
    """The cheapest values, exactly: no gap is allowed, one thread, so the same program gives the same values.

    Raises:
        InvariantBroken: the program has no solution; ours always have, by their shortfalls.
    """
    # Imported here: it costs 0.1 s and 40 MB that a daemon with nothing to place never pays.
    import highspy

    make: Any = highspy.Highs  # Any: highspy ships no types; it stays within this function
    solver = make()
    solver.silent()
    for option, value in (
        ("threads", 1),
        ("mip_rel_gap", 0.0),
        ("mip_abs_gap", 0.0),
        ("random_seed", 0),
    ):
        solver.setOptionValue(option, value)
    for variable in program.variables:
        solver.addVar(variable.low, variable.high)
    for index, variable in enumerate(program.variables):
        solver.changeColCost(index, variable.cost)
        if variable.is_whole:
            solver.changeColIntegrality(index, highspy.HighsVarType.kInteger)
    for row in program.rows:
        columns = [index for index, _ in row.weights]
        weights = [weight for _, weight in row.weights]
        solver.addRow(row.least, highspy.kHighsInf, len(columns), columns, weights)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        status = solver.modelStatusToString(solver.getModelStatus())
        raise InvariantBroken(f"the placement program was not solved: {status}")
    values = list(solver.getSolution().col_value)
    return tuple(
        float(round(value)) if variable.is_whole else max(0.0, value)
        for variable, value in zip(program.variables, values, strict=True)
    )
