"""`python -m tests.faults.record`: run schedules, and write into the page of guarantees which faults met which nodes.

After the schedules of so many seeds, short worlds go through the cells that are still empty, a few at a time. A world
that breaks a promise is told, and nothing is written.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from autoscaler.domain.node import State
from tests.faults.kinds import KINDS, aimed_at
from tests.faults.schedule import Fault, Result, Schedule, run, schedule_of
from tests.faults.table import empty_cells, table, written

ROUNDS = 8
EACH = 5  # empty cells in one short world
HOURS = 0.7


def short(seed: int, cells: list[tuple[str, State]]) -> Schedule:
    """A short world in which these are tried, and afterwards enough else that nodes come to every state."""
    rng = random.Random(f"{seed}/record")
    half_s = HOURS * 1800
    faults = [
        _fault(rng, name, rng.uniform(0, half_s), KINDS[name].draw(rng) | aimed_at(state))
        for name, state in cells
    ]
    if any(
        state is State.CREATING for _, state in cells
    ):  # so that machines run while their rows are there
        faults.append(_fault(rng, "listing lags", 0.0, {"count": 8.0, "lag_s": 200.0}))
    later = [*("crashes", "drained by a person") * 2, "a GPU too few"]
    faults += [
        _fault(rng, name, rng.uniform(half_s, 1.7 * half_s), KINDS[name].draw(rng))
        for name in later
    ]
    return replace(schedule_of(seed, hours=HOURS), faults=tuple(faults))


def _fault(rng: random.Random, name: str, at_s: float, params: dict[str, float]) -> Fault:
    bounds = KINDS[name].lasts
    lasts = rng.uniform(*bounds) if bounds is not None else None
    return Fault(at_s, name, lasts, tuple(sorted(params.items())))


def worlds(seeds: range, met: Counter[tuple[str, str]]) -> Iterator[Result]:
    """The results of all schedules; `met` is the caller's to count, and is looked at between them."""
    for seed in seeds:
        yield run(schedule_of(seed))
    seed = seeds.stop
    for _ in range(ROUNDS):
        left = empty_cells(met)
        for first in range(0, len(left), EACH):
            seed += 1
            yield run(short(seed, left[first : first + EACH]))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.record", description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    struck: Counter[str] = Counter()
    met: Counter[tuple[str, str]] = Counter()
    count = broken = 0
    for result in worlds(range(options.seed, options.seed + options.schedules), met):
        count += 1
        struck += result.struck
        met.update(result.met)
        broken += len(result.violations)
        for violation in result.violations:
            print(f"seed {result.schedule.seed}: {violation}", flush=True)
    for name, state in empty_cells(met):
        print(f"never met: {name} while {state}")
    if not broken:
        more = count - options.schedules
        written(f"{options.schedules} schedules, {more} short worlds.\n\n{table(struck, met)}")
    return 1 if broken or empty_cells(met) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
