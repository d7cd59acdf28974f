"""`make soak DAYS=30`: a month of days as they are, with a bad day a week. Nothing grows, and the meter is right.

The simulated world of the schedules, with the daily curve and bursts of `autoscaler.traces`. Six days of seven nothing
goes wrong; on the seventh something of the catalogue does every half an hour. Each midnight all is measured: what grows
beyond the retention fails the soak, and so does a broken promise. Each hour the daemon's meter is held against the
cloud's bill.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from operator import itemgetter

from autoscaler.domain.node import CLOSED
from autoscaler.emulator.meter import Account
from autoscaler.store import sqlite_nodes
from tests.faults import schedule as schedules
from tests.faults.ends import judge_end
from tests.faults.faults import KINDS, calm
from tests.faults.invariants import Violation
from tests.faults.options import MARK
from tests.faults.quiet import Heard, quiet
from tests.faults.schedule import Fault, seeded
from tests.faults.shop import Ended
from tests.faults.soak_days import DAY_S, HOUR_S, MOST_DAYS, Soak, soak_of
from tests.faults.soak_figures import (
    Sample,
    fds_of,
    growths,
    held_by,
    rows_of,
    rss_mb_of,
    store_kb,
)
from tests.faults.virtual import run as run_virtually
from tests.faults.world import World

_ROUNDED = Decimal("1e-9")  # of 28 digits


@dataclass(frozen=True, slots=True)
class Hour:
    """The daemon's meter and the cloud's bill at one moment."""

    at_s: float
    meter: Decimal
    bill: Decimal
    machine_minutes: Decimal
    was_able: bool

    @property
    def is_below(self) -> bool:
        return self.was_able and self.meter < self.bill - _ROUNDED

    @property
    def is_above(self) -> bool:
        return self.meter > max(self.bill * Decimal("1.01"), self.bill + self.machine_minutes)


@dataclass
class Outcome:
    """What became of a soak."""

    soak: Soak
    violations: list[Violation]
    samples: list[Sample] = field(default_factory=list)
    hours: list[Hour] = field(default_factory=list)
    failed: list[Ended] = field(default_factory=list)
    served: int = 0
    refused: int = 0
    launches: int = 0
    struck: int = 0

    def wrong(self) -> list[str]:
        """All that fails the soak."""
        retention_d = self.soak.retention / timedelta(days=1)
        found = [str(violation) for violation in self.violations]
        found += growths(self.samples, 0.5, retention_d, self.soak.days)
        if not self.served:
            found.append("no request was served: nothing was tried")
        below = [hour for hour in self.hours if hour.is_below]
        if below:
            found.append(f"the meter is below the bill in {len(below)} hours, first {below[0]}")
        if self.hours and self.hours[-1].is_above:
            found.append(f"the meter ends too far above the bill: {self.hours[-1]}")
        return found


class SoakWorld(World):
    """A world that lasts: what it remembers of machines long gone is folded away, so that what grows is the daemon."""

    def __init__(self, soak: Soak) -> None:
        super().__init__(soak.seed, soak.options)
        timings = self.config.timings.model_copy(update={"retention": soak.retention})
        self.config = self.config.model_copy(update={"timings": timings})
        self.cloud.emulator.cloud.ledger._events = deque(maxlen=1000)  # else a month of calls
        self.failed: list[Ended] = []
        self.shop.ended = self._ended
        self._folded_usd = self._folded_minutes = Decimal(0)
        self._ours: set[str] = set()

    def _ended(self, ended: Ended) -> None:
        self.failed.append(ended)
        self.judge.ended(ended)

    def bill(self) -> tuple[Decimal, Decimal]:
        """What the cloud bills for our machines and their disks, and what a minute of each machine costs."""
        usd, minutes = self._folded_usd, self._folded_minutes
        for account in self.cloud.emulator.cloud.books.meter.accounts():
            if self._is_ours(account):
                usd += account.usd("existence", self.time.now())
                minutes += account.usd_per_hour / 60
        return usd, minutes

    def _is_ours(self, account: Account) -> bool:
        if account.kind == "vm" and account.name.startswith(MARK):
            self._ours.add(account.id)
        vm_id = account.id if account.kind == "vm" else account.name.removeprefix("OS-disk-")
        return vm_id in self._ours

    def meter(self) -> Decimal:
        """What the daemon says that this month has cost."""
        return sqlite_nodes.ledger(self.store.db, self.clock.now()).spent_month().usd

    def fold(self) -> None:
        """Forget machines that are gone for a day, but not what they cost."""
        gone_before = self.time.now() - timedelta(days=1)
        accounts = self.cloud.emulator.cloud.books.meter._accounts
        for key, account in list(accounts.items()):
            ended = account.exists[-1].end
            if ended is None or ended > gone_before or key in self._open_machines():
                continue
            if self._is_ours(account):
                self._folded_usd += account.usd("existence", self.time.now())
                self._folded_minutes += account.usd_per_hour / 60
            del accounts[key]
            host = self.machines.hosts.pop(key, None)
            if host is not None and self.machines.by_address.get(host.spec.address) is host:
                del self.machines.by_address[host.spec.address]
        fresh = set(self.store.rows().values())
        self.store._docs = {d: row for d, row in self.store._docs.items() if row in fresh}

    def _open_machines(self) -> set[str | None]:
        return {row.machine_id for row in self.store.rows().values() if row.state not in CLOSED}


Told = Callable[[Outcome], None]


def run(soak: Soak, told: Told = lambda outcome: None) -> Outcome:
    """Run a soak to its end; `told` hears of each day."""
    with seeded(soak.seed), quiet() as heard:
        return run_virtually(_run(soak, told, heard))


async def _run(soak: Soak, told: Told, heard: Heard) -> Outcome:
    world = SoakWorld(soak)
    outcome = Outcome(soak, world.inspector.violations, failed=world.failed)
    for number in range(soak.options.strangers):
        world.strangers_rent(f"stranger-{number}")
    world.start()
    ticking = asyncio.create_task(world.tick(), name="tick")
    befalls = asyncio.create_task(_befall(world, soak.faults, outcome), name="faults")
    try:
        hours = int(soak.days * 24)
        for hour in range(1, hours + 1):
            # a moment before midnight: the month's last hour counts as this month's
            await _until(world, hour * HOUR_S - 15.0, ticking)
            outcome.hours.append(_meter(world))
            if hour % 24 == 0:
                world.fold()
                outcome.samples.append(_sample(world, hour / 24))
                outcome.served, outcome.refused = world.shop.served, world.shop.refused
                told(outcome)
        befalls.cancel()
        outcome.served, outcome.refused = world.shop.served, world.shop.refused
        await schedules._heal(world, ticking)
        await judge_end(world, heard)
    finally:
        for task in (befalls, ticking):
            task.cancel()
        await asyncio.wait({befalls, ticking})
        await world.close()
    for task in (befalls, ticking):
        if not task.cancelled():
            task.result()
    return outcome


async def _until(world: World, at_s: float, ticking: asyncio.Task[None]) -> None:
    while (left_s := at_s - world.time.seconds()) > 0 and not ticking.done():
        await asyncio.sleep(min(60.0, left_s))
        schedules._operator(world)


async def _reach(world: World, at_s: float) -> None:
    """Wait until a time of the world's, which hosts may have slept through."""
    left_s = at_s - world.time.seconds()
    while left_s > 0:
        await asyncio.sleep(left_s)
        left_s = at_s - world.time.seconds()


async def _befall(world: SoakWorld, faults: Sequence[Fault], outcome: Outcome) -> None:
    """Begin and end every fault in its time; each bad day ends in calm."""
    ends: list[tuple[float, int, Callable[[], None]]] = []
    pending = sorted(faults, key=lambda fault: fault.at_s)
    while pending or ends:
        ends.sort(key=itemgetter(0, 1))
        next_s = min([f.at_s for f in pending[:1]] + [at_s for at_s, _, _ in ends[:1]])
        await _reach(world, next_s)
        if ends and ends[0][0] <= next_s:
            ends.pop(0)[2]()
            continue
        fault = pending.pop(0)
        outcome.struck += 1
        undo = KINDS[fault.kind].apply(world, dict(fault.params))
        if undo is not None and fault.lasts_s is not None:
            ends.append((fault.at_s + fault.lasts_s, outcome.struck, undo))
        is_last = not pending or pending[0].at_s - fault.at_s > DAY_S
        if is_last and fault.kind != "killed":
            ends.append((fault.at_s + 2 * HOUR_S, outcome.struck, lambda: calm(world)))


def _meter(world: SoakWorld) -> Hour:
    world.cloud.emulator.settle()
    bill, minutes = world.bill()
    return Hour(world.time.seconds(), world.meter(), bill, minutes, world.is_able())


def _sample(world: SoakWorld, day: float) -> Sample:
    gc.collect()
    run = world.run
    beyond: list[object] = [world, world.store, world.cloud, world.shop, world.judge, world.time]
    beyond += [world.machines, world.inspector, world.clock, world.options, *world.balancers]
    beyond += [world.cloud.emulator, world.cloud.emulator.cloud, world.store.store, world.store.db]
    held = held_by(run.daemon, beyond) if run is not None else None
    return Sample(
        day=day,
        life=run.life.number if run is not None else 0,
        age_d=(world.time.seconds() - run.began_s) / DAY_S if run is not None else 0.0,
        figures={
            "tasks": float(len(asyncio.all_tasks())),
            "fds": fds_of(),
            "rss_mb": rss_mb_of(),
            "objects": float(held.objects if held is not None else 0),
            "queued": float(held.queued if held is not None else 0),
            "store_kb": store_kb(world.store.db),
        },
        rows=rows_of(world.store.db),
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--days", type=int, default=MOST_DAYS, choices=range(1, MOST_DAYS + 1))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    soak = soak_of(options.days, options.seed)
    began = time.monotonic()
    print(
        f"{options.days} days, {len(soak.faults)} faults, rows kept for {soak.retention}\n"
        f"{'day':>3} {'life':>4} {'tasks':>5} {'fds':>4} {'rss MB':>6} {'objects':>7} {'queued':>6} "
        f"{'store kB':>8} {'served':>7} {'failed':>6} {'meter $':>9} {'bill $':>9}  rows",
        flush=True,
    )
    outcome = run(soak, _tell)
    wrong = outcome.wrong()
    for what in wrong:
        print(f"    {what}")
    last = outcome.hours[-1]
    print(
        f"{options.days} simulated days, {outcome.struck} faults, {outcome.served} requests served, "
        f"{len(outcome.failed)} failed by faults, {outcome.refused} gave up waiting, "
        f"{len(outcome.violations)} violations, meter ${last.meter:.2f} for a bill of "
        f"${last.bill:.2f}, {time.monotonic() - began:.0f} s: {'BAD' if wrong else 'good'}"
    )
    return 1 if wrong else 0


def _tell(outcome: Outcome) -> None:
    one, hour = outcome.samples[-1], outcome.hours[-1]
    figures = one.figures
    rows = " ".join(f"{table} {count:.0f}" for table, count in one.rows.items() if count)
    print(
        f"{one.day:3.0f} {one.life:4} {figures['tasks']:5.0f} {figures['fds']:4.0f} "
        f"{figures['rss_mb']:6.0f} {figures['objects']:7.0f} {figures['queued']:6.0f} "
        f"{figures['store_kb']:8.0f} {outcome.served:7} {len(outcome.failed):6} "
        f"{hour.meter:9.2f} {hour.bill:9.2f}  {rows}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
