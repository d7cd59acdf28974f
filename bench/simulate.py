"""How long a backtest takes: a million requests over a week, about twenty nodes, on one core.

The trace is made from a seed: seven days as `trace generate` makes them, of sizes that keep twenty nodes of a 32B model
busy at the fullest. Times are of the processor: of the whole, of decisions, of placement, of the servers.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from autoscaler.cloud.mkinf.listed import listed_offers
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.policy import Policy
from autoscaler.simulate.job import job_of
from autoscaler.simulate.market import Boots, Market
from autoscaler.simulate.result import Result
from autoscaler.simulate.world import simulate
from autoscaler.traces.generator import Traffic, generate
from autoscaler.traces.request import TracedRequest

DAYS = 7
BOUND_S = 120.0
_DAY_S = 86_400.0
_TRAFFIC = Traffic(mean_per_s=1.82, prompt_tokens=1600, output_tokens=650)


def main(days: int = DAYS) -> int:
    """Print the times. Non-zero when the week takes longer than the bound."""
    requests = list(_week(days))
    policy = Policy.model_validate(
        {
            "model": "Qwen/Qwen3-32B-AWQ",
            "engine": "vllm",
            "slo": "95% of first tokens within 4s",
            "nodes": {"min": 0, "max": 40},
            "server": {"max_model_len": 32768},
            "hardware": {"types": ["*.1x"]},
        }
    )
    market = Market(listed_offers(load_prices()), Boots())
    began = time.process_time()
    result = simulate(job_of(policy, requests, market, length_s=days * _DAY_S))
    took_s = time.process_time() - began
    _print(result, took_s)
    return 0 if took_s <= BOUND_S * days / DAYS else 1


def _week(days: int) -> Iterator[TracedRequest]:
    for day in range(days):
        for request in generate(_TRAFFIC, seed=day):
            yield replace(request, arrival_s=request.arrival_s + day * _DAY_S)


def _print(result: Result, took_s: float) -> None:
    took, came = result.took, len(result.requests)
    most = max((sum(ready for _, _, ready, _ in m.fleet) for m in result.minutes), default=0)
    on_cpu = took_s / took.total_s  # this machine may have had other work
    parts = {
        "decide": took.decide_s * on_cpu,
        "place": took.place_s * on_cpu,
        "servers": took.server_s * on_cpu,
        "rest": took.rest_s * on_cpu,
    }
    print(
        f"{came:,} requests in {result.length_s / _DAY_S:.0f} days, up to {most} nodes, {result.launches} launches, "
        f"{result.passes:,} passes: {took_s:.1f} s of one core"
    )
    for name, part_s in parts.items():
        print(f"  {name:8} {part_s:6.1f} s")
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {took_s / max(1, came) * 1e6:.0f} µs a request, {memory_mb:.0f} MB")
    figures = {name: round(part_s, 2) for name, part_s in parts.items()}
    print(
        json.dumps(
            {
                "bench": "simulate",
                "requests": came,
                "nodes": most,
                "took_s": round(took_s, 2),
                **figures,
                "attained": round(result.attained.ttft, 4),
                "usd": f"{result.cost.usd:.2f}",
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else DAYS))
