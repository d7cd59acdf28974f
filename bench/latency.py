"""How fast the daemon itself is: demand seen → create call sent, and warm-up answered → first request served.

Many models at zero nodes, each asked again and again: one request is held at the gateway, the daemon rents a machine
for it, proves that it serves, registers it, and the request is answered; then the model falls back to zero. The cloud
is the emulator, so what is measured is the daemon and not a boot.

*demand*: from the moment the client sends to the moment the cloud has answered the create call (both ends lie outside
of what the daemon could answer for, so the figure errs on the high side). *first request*: from the recorded answer of
the warm-up to the first byte that the held request's client reads from that node.

Every machine that boots runs real processes here, so few may boot at a time: a run in which they starve the daemon of
CPU measures nothing. How busy the cores were is printed with the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bench.world import Plan, World, demo_timings, quantile, world
from tests.world.files import Json
from tests.world.policies import SHORT_WINDOWS

RECONCILE_S = 1.0  # the demo's
DEMAND_BOUND_S = RECONCILE_S + 0.1
FIRST_BOUND_S = 1.0
CHECK_S = 1.0  # HAProxy's check interval, as the config has it by default
MODELS, ROUNDS = 8, 13
HAPROXY_MODELS, HAPROXY_ROUNDS = 7, 3
BOOTS_AT_ONCE = 4
RUN_LIMIT_S = 178.0
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Cold:
    """One held request: when it was sent and when the first byte of its answer came, and from which node."""

    model: str
    sent: float
    first: float
    node: str


@dataclass(slots=True)
class Run:
    """What one run saw."""

    colds: list[Cold] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    boots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BOOTS_AT_ONCE))


def main(models: int = MODELS, rounds: int = ROUNDS) -> int:
    """Measure through the gateway and through HAProxy. Non-zero when a bound is missed or a request failed.

    Args:
        models: how many models are asked side by side, through the gateway.
        rounds: how often each.
    """
    good = asyncio.run(_measure(models, rounds, with_haproxy=False))
    if shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin"):
        few = min(models, HAPROXY_MODELS), min(rounds, HAPROXY_ROUNDS)
        good &= asyncio.run(_measure(*few, with_haproxy=True))
    else:
        print("haproxy is missing: apt-get install haproxy", file=sys.stderr)
        good = False
    return 0 if good else 1


async def _measure(models: int, rounds: int, *, with_haproxy: bool) -> bool:
    names = [f"bench/m{number:02}" for number in range(models)]
    plan = Plan(names, demo_timings(), SHORT_WINDOWS, with_haproxy=with_haproxy)
    way = "haproxy" if with_haproxy else "gateway"
    print(f"{models} models, {rounds} launches each, through {way}", flush=True)
    run = Run()
    async with world(plan) as there:
        began, idle_s = time.monotonic(), _idle_s()
        try:
            async with asyncio.timeout(RUN_LIMIT_S), asyncio.TaskGroup() as clients:
                for number, name in enumerate(names):
                    clients.create_task(_again_and_again(there, name, rounds, number, run))
        except TimeoutError:
            run.failures.append(f"not all launches were seen within {RUN_LIMIT_S:g} s")
        took_s = time.monotonic() - began
        busy = 1 - (_idle_s() - idle_s) / took_s / (os.cpu_count() or 1)
        print(f"  {len(run.colds)} launches in {took_s:.0f} s; the cores were {busy:.0%} busy")
        creates = await there.creates()
        nodes: list[Json] = await there.daemon("/api/v1/nodes?all=1")
        if run.failures:
            print(there.log_tail("daemon"), file=sys.stderr)
    return _print(way, run, creates, {str(node["name"]): node for node in nodes})


async def _again_and_again(there: World, model: str, rounds: int, number: int, run: Run) -> None:
    dice = random.Random(number)
    await asyncio.sleep(dice.uniform(0, RECONCILE_S))
    for _ in range(rounds):
        await _ask(there, model, run)
        await _until_zero(there, model)
        await asyncio.sleep(
            dice.uniform(0.5, 0.5 + RECONCILE_S)
        )  # at any phase of the daemon's interval


async def _ask(there: World, model: str, run: Run) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 2,
        "stream": True,
    }
    sent = time.time()
    async with there.session.post(f"{there.url}/v1/chat/completions", json=body) as answer:
        await answer.content.readany()
        first = time.time()
        text = await answer.text()
    if answer.status != 200:
        run.failures.append(f"{model}: HTTP {answer.status} {text[:200]}")
        return
    node = answer.headers.get("x-autoscaler-endpoint", "").partition(".")[0]
    run.colds.append(Cold(model, sent, first, node))


async def _until_zero(there: World, model: str) -> None:
    """Wait until the gateway has no node of the model any more: the next request is held again."""
    while (await there.gateway("/v1/state"))["pools"][model]["endpoints"]:  # noqa: ASYNC110 -- over a socket
        await asyncio.sleep(_LOOK_S)


def _print(way: str, run: Run, creates: dict[str, float], nodes: dict[str, Json]) -> bool:
    demand = [creates[cold.node] - cold.sent for cold in run.colds if cold.node in creates]
    served = [cold for cold in run.colds if cold.node in nodes]
    first = [cold.first - _unix(nodes[cold.node]["verified_at"]) for cold in served]
    listed = [
        _unix(node["ready_at"]) - _unix(node["verified_at"])
        for node in (nodes[cold.node] for cold in served)
        if node["ready_at"]
    ]
    slack = CHECK_S if way == "haproxy" else 0.0
    rows = (
        ("demand seen -> create call", demand, DEMAND_BOUND_S),
        ("warm-up answered -> first byte", first, FIRST_BOUND_S + slack),
        ("warm-up answered -> every balancer has it", listed, FIRST_BOUND_S + slack),
    )
    print(f"  {'s':42} {'n':>4} {'p50':>7} {'p99':>7} {'max':>7} {'bound':>6}")
    good = not run.failures
    lines = []
    for name, values, bound in rows:
        p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
        good &= bool(values) and p99 <= bound
        print(
            f"  {name:42} {len(values):4} {p50:7.3f} {p99:7.3f} {max(values, default=0):7.3f} {bound:6.1f}"
        )
        fact = {
            "bench": "latency", "way": way, "figure": name, "n": len(values), "p50_s": round(p50, 4),
            "p99_s": round(p99, 4), "max_s": round(max(values, default=0.0), 4), "bound_s": bound,
        }  # fmt: skip
        lines.append(json.dumps(fact))
    for failure in run.failures:
        print(f"  failed: {failure}")
    print("\n".join(lines), flush=True)
    return good


def _idle_s() -> float:
    """How long all cores together have been idle since the machine started."""
    return float(Path("/proc/uptime").read_text().split()[1])


def _unix(text: object) -> float:
    return datetime.fromisoformat(str(text)).timestamp()


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=MODELS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    asked = arguments()
    sys.exit(main(asked.models, asked.rounds))
