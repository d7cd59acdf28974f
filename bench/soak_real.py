"""`make soak-real HOURS=1`: the real daemon, gateway and emulator as processes, under load for an hour.

Days of generated traffic, each pressed into some minutes, one after the other: the fleet goes up and back to zero each
time. At each zero the processes are measured, and what would grow by more than half in such a time fails, as does a
request that failed, or a machine that still bills. `make soak` does a month on a virtual clock.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import time
from pathlib import Path

from autoscaler.demo.load import Load
from autoscaler.demo.verdict import CLOSED
from autoscaler.traces.compress import compress
from autoscaler.traces.generator import Traffic, generate
from bench.world import Plan, World, demo_timings, world
from tests.faults.soak_figures import Sample, fds_of, growths, rows_of, rss_mb_of
from tests.world.policies import SHORT_WINDOWS

PEAKS = {"soak/chat": 6.0, "soak/coder": 2.0}  # requests per second at the fullest
PROCESSES = ("daemon", "gateway")
_DAY_S = (60.0, 300.0)  # what a day is pressed into, at least and at most
_DAYS = 12
_TO_ZERO_S = 90.0


def soak(hours: float) -> int:
    """Print a line a day. Non-zero when something grew, failed or was left."""
    return asyncio.run(_soak(hours))


async def _soak(hours: float) -> int:
    day_s = min(max(hours * 3600 / _DAYS, _DAY_S[0]), _DAY_S[1])
    timings = {**demo_timings(), "retention": "1h"}
    load, samples, wrong = Load(), list[Sample](), list[str]()
    began = time.monotonic()
    print(f"{'min':>5} {'done':>6} {'failed':>6}  " + "  ".join(f"{p:>26}" for p in PROCESSES))
    async with world(Plan(list(PEAKS), timings, policy=SHORT_WINDOWS)) as there:
        await asyncio.sleep(2.0)
        while (passed_s := time.monotonic() - began) < hours * 3600 - day_s / 2 or not samples:
            await _day(there, load, day_s, seed=len(samples))
            wrong += await _to_zero(there)
            samples.append(_sample(there, time.monotonic() - began))
            _tell(load, samples[-1])
    wrong += [f"a request failed: {one.error}" for one in load.seen if one.failed]
    wrong += growths(samples, min(600.0, passed_s / 4) / 86_400, 1 / 24, span_d=hours / 24)
    for what in dict.fromkeys(wrong):
        print(f"    {what}")
    verdict = "BAD" if wrong else "good"
    print(f"{passed_s / 60:.0f} min, {load.done} requests, {load.failed} failed: {verdict}")
    return 1 if wrong else 0


async def _day(there: World, load: Load, day_s: float, seed: int) -> None:
    async with asyncio.TaskGroup() as clients:
        for number, (model, peak) in enumerate(PEAKS.items()):
            requests = compress(
                list(generate(Traffic(), seed * len(PEAKS) + number)),
                day_s,
                peak,
                seed,
                most_prompt_tokens=1000,
                most_output_tokens=200,
            )
            clients.create_task(load.play(requests, there.url, model))


async def _to_zero(there: World) -> list[str]:
    """Wait until nothing stands any more; says what does all the same."""
    deadline = time.monotonic() + _TO_ZERO_S
    while True:
        nodes = await there.daemon("/api/v1/nodes")
        billing = (await there.admin("GET", "/bill"))["still_billing"]
        left = [str(n["name"]) for n in nodes if n["state"] not in CLOSED]
        left += [str(item["name"]) for item in billing]
        if not left:
            return []
        if time.monotonic() > deadline:
            return [f"{name} is left" for name in left]
        await asyncio.sleep(1.0)


def _sample(there: World, passed_s: float) -> Sample:
    at_d = passed_s / 86_400
    figures = {}
    for name in PROCESSES:
        pid = there.pids[name]
        figures[f"{name} rss_mb"] = rss_mb_of(pid)
        figures[f"{name} fds"] = fds_of(pid)
        figures[f"{name} threads"] = float(len(list(Path(f"/proc/{pid}/task").iterdir())))
    return Sample(at_d, 1, at_d, figures, _rows(there))


def _rows(there: World) -> dict[str, float]:
    db = sqlite3.connect(f"file:{there.directory / 'state' / 'autoscaler.db'}?mode=ro", uri=True)
    try:
        return rows_of(db)
    finally:
        db.close()


def _tell(load: Load, one: Sample) -> None:
    parts = [
        f"{one.figures[f'{p} rss_mb']:6.0f} MB {one.figures[f'{p} fds']:4.0f} fds "
        f"{one.figures[f'{p} threads']:2.0f} thr"
        for p in PROCESSES
    ]
    rows = " ".join(f"{table} {count:.0f}" for table, count in one.rows.items() if count)
    print(
        f"{one.day * 1440:5.1f} {load.done:6} {load.failed:6}  {'  '.join(parts)}  {rows}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.soak_real", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    sys.exit(soak(parser.parse_args().hours))
