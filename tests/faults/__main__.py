"""`make faults SCHEDULES=N SEED=S`: run schedules of faults, and say what they broke.

The last line is `N schedules, H simulated hours, F faults, V violations`. Each violation comes with the seed that
replays it and the shortened schedule. `--planted` breaks the daemon in every way of planted.py and says after how many
seeds that was seen; `--table` shows which faults met nodes in which state.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

from tests.faults.planted import BUGS, planted
from tests.faults.schedule import Result, run, schedule_of, shorten
from tests.faults.table import table

A = TypeVar("A")
T = TypeVar("T")

MOST_SEEDS = 100  # in which a planted bug must be seen


def one(hours: float | None, seed: int) -> Result:
    """Run one seed."""
    return run(schedule_of(seed, hours))


def seen_after(name: str) -> int | None:
    """How many seeds it takes until a check sees a planted bug; None when none does."""
    bug = BUGS[name]
    for seed in range(MOST_SEEDS):
        with planted(bug):
            violations = run(schedule_of(seed, hours=2.0)).violations
        if any(violation.invariant in bug.seen_by for violation in violations):
            return seed + 1
    return None


def _spread(work: Callable[[A], T], over: Sequence[A], jobs: int) -> Iterator[T]:
    if jobs == 1:
        yield from map(work, over)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, over)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule")
    parser.add_argument("--hours", type=float, default=None, help="of every schedule")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shorten", type=int, default=3, help="how many bad schedules to shorten")
    parser.add_argument("--table", action="store_true", help="show faults by nodes' states")
    parser.add_argument("--planted", nargs="*", metavar="BUG", help="run planted bugs, all or some")
    options = parser.parse_args(arguments)
    if options.planted is not None:
        return _planted(options.planted or list(BUGS), options.jobs)
    seeds = range(options.seed, options.seed + options.schedules)
    began = time.monotonic()
    results = _spread(partial(one, options.hours), seeds, options.jobs)
    total = _tell(results, options.shorten, show_table=options.table)
    print(f"{(time.monotonic() - began) / max(1, len(seeds)):.2f} s a schedule")
    print(total.line)
    return 1 if total.violations else 0


class Total:
    """What all schedules came to."""

    def __init__(self) -> None:
        self.schedules = self.violations = 0
        self.hours = 0.0
        self.struck: Counter[str] = Counter()
        self.met: Counter[tuple[str, str]] = Counter()

    def add(self, result: Result) -> None:
        self.schedules += 1
        self.violations += len(result.violations)
        self.hours += result.hours
        self.struck += result.struck
        self.met += result.met

    @property
    def line(self) -> str:
        return (
            f"{self.schedules} schedules, {self.hours:.0f} simulated hours, "
            f"{self.struck.total()} faults, {self.violations} violations"
        )


def _tell(results: Iterable[Result], most_shortened: int, *, show_table: bool) -> Total:
    total, bad = Total(), 0
    for result in results:
        total.add(result)
        if result.violations:
            bad += 1
            _show(result, is_shortened=bad <= most_shortened)
    if show_table:
        print(table(total.struck, total.met))
    return total


def _show(result: Result, *, is_shortened: bool) -> None:
    seed = result.schedule.seed
    print(f"seed {seed} (replay: make faults SCHEDULES=1 SEED={seed})")
    for violation in result.violations:
        print(f"    violated {violation}")
    if is_shortened:
        short = shorten(result.schedule, result.violations[0].invariant)
        print(f"  shortened from {len(result.schedule.faults)} faults to {len(short.faults)}:")
        for fault in short.faults:
            print(f"    {fault}")
    sys.stdout.flush()


def _planted(names: Sequence[str], jobs: int) -> int:
    missed = 0
    for name, seeds in zip(names, _spread(seen_after, names, jobs), strict=True):
        missed += seeds is None
        told = f"seen after {seeds}" if seeds is not None else f"NOT SEEN in {MOST_SEEDS} seeds"
        print(f"{name}: {told}", flush=True)
    print(f"{len(names)} planted bugs, {len(names) - missed} seen within {MOST_SEEDS} seeds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
