"""What the daemon and the gateway cost while nothing happens: CPU and memory, with 10 models.

Measured at the default timings (a pass per model each 15 s) and at the demo's (each second), with every model at zero
nodes and then with one idle node each. CPU is a share of one core; the bounds hold for the daemon at the defaults.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass

from bench.world import Plan, World, demo_timings, world
from tests.world.files import Table

MODELS = 10
CPU_BOUND = 0.03
RSS_BOUND_MB = 150.0
_SETTLE_S = 5.0
_BOOTED_S = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """One set of timings: whether the bounds hold for it, and for how long it is watched."""

    name: str
    timings: Table | None
    watch_s: float
    is_bound: bool


def main(watch_s: float = 30.0) -> int:
    """Print CPU share and memory. Non-zero when a bound is missed.

    Args:
        watch_s: how long the daemon is watched at the default timings: two of its intervals.
    """
    print(f"{'timings':9} {'nodes':>5}  {'process':8} {'cpu %':>6} {'rss MB':>7}", flush=True)
    paces = (
        Pace("defaults", None, watch_s, is_bound=True),
        Pace("demo", demo_timings(), watch_s / 3, is_bound=False),
    )
    lines: list[str] = []
    results = [asyncio.run(_measure(pace, lines)) for pace in paces]
    print("\n".join(lines))
    return 0 if all(results) else 1


async def _measure(pace: Pace, lines: list[str]) -> bool:
    models = [f"bench/m{number:02}" for number in range(MODELS)]
    async with world(Plan(models, pace.timings)) as there:
        await asyncio.sleep(_SETTLE_S)
        good = await _watch(there, pace, 0, lines)
        async with asyncio.timeout(_BOOTED_S), asyncio.TaskGroup() as clients:
            for model in models:
                clients.create_task(_ask(there, model))
        await asyncio.sleep(2 * _SETTLE_S)
        good &= await _watch(there, pace, MODELS, lines)
        nodes = await there.daemon("/api/v1/nodes")
        assert len(nodes) == MODELS, f"{len(nodes)} nodes: nothing was idle"
    return good


async def _ask(there: World, model: str) -> None:
    """Have one node rented for the model; the defaults keep it for a quarter of an hour."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    async with there.session.post(f"{there.url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        await answer.read()


async def _watch(there: World, pace: Pace, nodes: int, lines: list[str]) -> bool:
    names = ("daemon", "gateway")
    before = {name: there.cpu_s(name) for name in names}
    began = time.monotonic()
    await asyncio.sleep(pace.watch_s)
    took_s = time.monotonic() - began
    good = True
    for name in names:
        share, rss_mb = (there.cpu_s(name) - before[name]) / took_s, there.rss_mb(name)
        if name == "daemon":
            good = not pace.is_bound or (share <= CPU_BOUND and rss_mb <= RSS_BOUND_MB)
        print(f"{pace.name:9} {nodes:5}  {name:8} {share:6.2%} {rss_mb:7.0f}", flush=True)
        fact = {
            "bench": "idle", "timings": pace.name, "models": MODELS, "nodes": nodes, "process": name,
            "cpu_share": round(share, 4), "rss_mb": round(rss_mb, 1),
        }  # fmt: skip
        lines.append(json.dumps(fact))
    return good


if __name__ == "__main__":
    sys.exit(main())
