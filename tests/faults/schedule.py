"""A schedule: one seed's world and its faults, run to its end and then to calm; and how to make one shorter.

All that is random in a run comes from its seed. A schedule that failed is shortened by leaving out what is not needed:
the faults' own draws stand in it, so that what is left is the same without the rest.
"""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from autoscaler.balance.presence import node_of
from autoscaler.domain.node import CLOSED, State
from tests.faults.ends import judge_end
from tests.faults.faults import KINDS, calm
from tests.faults.invariants import Invariant, Violation
from tests.faults.kinds import aimed_at
from tests.faults.options import Options, draw
from tests.faults.quiet import Heard, quiet
from tests.faults.strikes import Strikes
from tests.faults.table import CELLS
from tests.faults.virtual import Stuck
from tests.faults.virtual import run as run_virtually
from tests.faults.world import World

HOURS = 2.0
DAY_EVERY = 50  # one schedule in so many is a whole day
MEAN_GAP_S = 420.0  # between two faults
AIMED_PER_HOUR = 1.5  # besides
HEAL_S = 5400.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a schedule: what, when, for how long (None: at once), and its own draws."""

    at_s: float
    kind: str
    lasts_s: float | None
    params: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        told = ", ".join(f"{key}={value:.3g}" for key, value in self.params)
        lasts = f" for {self.lasts_s:.0f} s" if self.lasts_s is not None else ""
        return f"{self.at_s:6.0f} s  {self.kind}{lasts}{f' ({told})' if told else ''}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A world and what befalls it."""

    seed: int
    options: Options
    faults: tuple[Fault, ...]

    @property
    def length_s(self) -> float:
        return self.options.hours * 3600


@dataclass
class Result:
    """What became of a schedule.

    Attributes:
        struck: faults by kind; `met`: how often one of a kind met nodes in a state.
        trace: a hash of every step that the daemon took into the world.
        hours: simulated, calm included.
    """

    schedule: Schedule
    violations: list[Violation]
    trace: int
    hours: float
    struck: Counter[str] = field(default_factory=Counter)
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    crossings: int = 0
    served: int = 0


def schedule_of(seed: int, hours: float | None = None) -> Schedule:
    """The schedule that a seed stands for."""
    rng = random.Random(f"{seed}/schedule")
    if hours is None:
        hours = 24.0 if seed % DAY_EVERY == DAY_EVERY - 1 else HOURS
    options = draw(rng, hours)
    names = [name for name, kind in KINDS.items() for _ in range(kind.weight)]
    faults: list[Fault] = []
    at_s = rng.uniform(0, 600)
    while at_s < hours * 3600:
        kind = KINDS[rng.choice(names)]
        lasts = rng.uniform(*kind.lasts) if kind.lasts is not None else None
        faults.append(Fault(at_s, kind.name, lasts, tuple(sorted(kind.draw(rng).items()))))
        at_s += rng.expovariate(1 / MEAN_GAP_S)
    return Schedule(seed, options, (*faults, *_aimed(seed, hours)))


def _aimed(seed: int, hours: float) -> Iterator[Fault]:
    """Faults that wait for a node in a state: each pair of the two in its turn, whatever else is drawn."""
    rng = random.Random(f"{seed}/aimed")
    for number in range(round(hours * AIMED_PER_HOUR)):
        kind, state = CELLS[round(seed * HOURS * AIMED_PER_HOUR + number) % len(CELLS)]
        at_s = rng.uniform(0, hours * 1800)
        lasts = rng.uniform(*kind.lasts) if kind.lasts is not None else None
        params = kind.draw(rng) | aimed_at(state)
        yield Fault(at_s, kind.name, lasts, tuple(sorted(params.items())))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Names, nonces and decision ids from the seed, where a real daemon draws them from the system."""
    rng = random.Random(f"{seed}/secrets")
    kept = secrets.choice, secrets.token_hex
    secrets.choice = rng.choice
    secrets.token_hex = lambda nbytes=None: rng.randbytes(nbytes or 32).hex()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        secrets.choice, secrets.token_hex = kept
        if collecting:
            gc.enable()


def run(schedule: Schedule, watch: Callable[[World], None] | None = None) -> Result:
    """Run one schedule to its end."""
    with seeded(schedule.seed), quiet() as heard:
        return run_virtually(_run(schedule, watch, heard))


async def _run(schedule: Schedule, watch: Callable[[World], None] | None, heard: Heard) -> Result:
    world = World(schedule.seed, schedule.options)
    result = Result(schedule, world.inspector.violations, 0, 0.0)
    if watch is not None:
        watch(world)
    strikes = Strikes(world, schedule.faults, schedule.length_s)
    for number in range(schedule.options.strangers):
        world.strangers_rent(f"stranger-{number}")
    world.start()
    ticking = asyncio.create_task(world.tick(), name="tick")
    try:
        for at_s, act in strikes.agenda():
            await asyncio.sleep(max(0.0, at_s - world.time.seconds() + world.time.asleep_s))
            if ticking.done():
                break
            act()
        await _heal(world, ticking)
        await judge_end(world, heard)
    except Stuck:
        world.inspector.violated(Invariant.BOUNDED, world.time.now(), "stuck", "nothing moves")
    finally:
        ticking.cancel()
        await asyncio.wait({ticking})
        await world.close()
    if not ticking.cancelled() and ticking.exception() is not None:
        ticking.result()
    result.trace, result.hours = world.trace, world.time.seconds() / 3600
    result.struck, result.met = strikes.struck, strikes.met
    result.crossings, result.served = world.crossings, world.shop.served
    return result


async def _heal(world: World, ticking: asyncio.Task[None]) -> None:
    """Faults off: 18 says that all comes right by itself, or by what an alert tells a person to type."""
    calm(world)
    until_s = world.time.seconds() + HEAL_S
    well = 0
    left = ["nothing was seen yet"]
    while world.time.seconds() < until_s and not ticking.done():
        await asyncio.sleep(60.0)
        _operator(world)
        left = what_is_left(world)
        well = 0 if left else well + 1
        if well >= 3:
            return
    if not ticking.done():
        world.inspector.violated(
            Invariant.HEALS, world.time.now(), "left", f"not healed: {'; '.join(left[:4])}"
        )


def _operator(world: World) -> None:
    """What the alerts ask of a person: confirm a held sweep, resume what stopped."""
    run = world.run
    if run is None or not run.daemon.started.is_set():
        return
    if run.daemon.health.held is not None:
        run.daemon.sweeper.confirm()
        run.daemon.wakes.now("sweep")
    for model in world.policies:
        thought = run.daemon.reconciler.last.get(model)
        if (
            thought is not None
            and thought.why_no_launch
            and "failed alike" in thought.why_no_launch
        ):
            world.person("resume", model)


def what_is_left(world: World) -> list[str]:
    """What is not as it should be."""
    run = world.run
    if run is None or not run.daemon.started.is_set():
        return ["no daemon runs"]
    left: list[str] = []
    if run.daemon.health.forbidden():
        left.append(f"launches are forbidden: {run.daemon.health.forbidden()}")
    rows = world.store.rows()
    by_machine = {row.machine_id for row in rows.values() if row.state not in CLOSED}
    for machine in world.booked():
        ours = machine.name.startswith(world.inspector.rules.mark)
        if ours and machine.gone_at is None and machine.id not in by_machine:
            left.append(f"{machine.name} bills and stands in no open row")
    rented = {row.machine_id for row in rows.values()}
    left += [
        f"{disk.name} is left behind"
        for disk in world.cloud.emulator.cloud.books.disks.values()
        if disk.is_os and not disk.vm_id and disk.name.removeprefix("OS-disk-") in rented
    ]
    for row in rows.values():
        if row.state not in CLOSED and row.state is not State.READY:
            left.append(f"{row.name} is {row.state}: {row.reason}")
        elif row.state is State.READY:
            left += [
                f"{one.name} does not place requests on {row.name}"
                for one in world.balancers
                if not any(e.endpoint.id == row.name for e in one.takers(row.model))
            ]
    left += [
        f"{one.name} lists {key}, which is gone"
        for one in world.balancers
        for entries in one.entries.values()
        for key in entries
        if (listed := rows.get(node_of(key))) is not None and listed.state in CLOSED
    ]
    for model, policy in world.policies.items():
        thought = run.daemon.reconciler.last.get(model)
        if thought is None:
            left.append(f"{model}: no pass has ended")
            continue
        plan = thought.plan
        refused = {index for index, _ in thought.refused}
        if plan.releases or any(i not in refused for i in range(len(plan.launches))):
            left.append(f"{model}: its plan is not empty: {thought.decision.reason}")
        ready = sum(1 for row in rows.values() if row.model == model and row.state is State.READY)
        if ready > policy.nodes.max and thought.decision.release_allowed:
            left.append(f"{model}: {ready} serve, at most {policy.nodes.max} may")
    return left


def shorten(schedule: Schedule, wanted: Invariant, tries: int = 60) -> Schedule:
    """Leave out every fault without which it fails all the same."""

    def fails(one: Schedule) -> bool:
        return any(v.invariant is wanted for v in run(one).violations)

    faults = list(schedule.faults)
    size = max(1, len(faults) // 2)
    while tries > 0 and faults:
        index, dropped = 0, False
        while index < len(faults) and tries > 0:
            tries -= 1
            fewer = faults[:index] + faults[index + size :]
            if fails(replace(schedule, faults=tuple(fewer))):
                faults, dropped = fewer, True
            else:
                index += size
        if size == 1 and not dropped:
            break
        size = max(1, size // 2)
    return replace(schedule, faults=tuple(faults))
