"""What the gateway tells of itself, as plain JSON values: state, signals, history."""

from __future__ import annotations

import math
import time
from dataclasses import asdict

from autoscaler.gateway.figures import EDGES_S, Histogram
from autoscaler.gateway.pool import Pool
from autoscaler.gateway.pools import Pools


def state(pools: Pools) -> dict[str, object]:
    """Describe all pools and endpoints."""
    return {
        **_instant(pools),
        "started_at": pools.started_at,
        "generation": pools.generation,
        "stopping": pools.is_stopping,
        "pools": {model: pool_state(pool) for model, pool in pools.by_model.items()},
    }


def pool_state(pool: Pool) -> dict[str, object]:
    settings = pool.settings
    return {
        "aliases": list(settings.aliases),
        "hold": asdict(settings.hold),
        "queue": asdict(settings.queue),
        "retry_after_s": settings.retry_after_s,
        "sse_comment_s": settings.sse_comment_s,
        "affinity": asdict(settings.affinity) if settings.affinity is not None else None,
        "expected_in_s": _expected_in_s(pool),
        "connect_timeout_s": settings.connect_timeout_s,
        "read_timeout_s": settings.read_timeout_s,
        "max_model_len": settings.max_model_len,
        "demand_generation": pool.demand_generation,
        "waiting": pool.waiting + pool.waiting_elsewhere,
        "waiting_bytes": pool.waiting_bytes,
        "oldest_wait_s": pool.oldest_wait_s(),
        "running": pool.in_flight + pool.running_elsewhere,
        "endpoints": {
            e.id: {
                "url": e.url,
                "host_name": e.trust.host_name if e.trust is not None else None,
                "weight": e.weight,
                "max_inflight": e.max_inflight,
                "state": e.state.value,
                "in_flight": e.load,
                "drained_at": None if e.elsewhere else e.drained_at,
                "last_request_ended_at": e.last_request_ended_at,
                "requests_total": e.requests_total,
                "ejected": pool.is_ejected(e),
                "connect_failures": e.connect_failures,
            }
            for e in pool.endpoints.values()
        },
    }


def signals(pools: Pools, pool: Pool) -> dict[str, object]:
    """Give one pool's counters since the start, its gauges now, and its histograms."""
    figures = pool.figures
    return {
        **_instant(pools),
        "started_at": pools.started_at,
        "model": pool.settings.model,
        "arrivals_total": figures.arrivals_total,
        "completed_total": figures.completed_total,
        "failed_total": figures.failed_total,
        "client_gone_total": figures.client_gone_total,
        "rejected_total": dict(figures.rejected_total),
        "cold_starts_total": figures.cold_starts_total,
        "connect_failures_total": figures.connect_failures_total,
        "prompt_tokens_total": figures.prompt_tokens_total,
        "output_tokens_total": figures.output_tokens_total,
        "in_flight": pool.in_flight + pool.running_elsewhere,
        "waiting": pool.waiting + pool.waiting_elsewhere,
        "waiting_bytes": pool.waiting_bytes,
        "oldest_wait_s": pool.oldest_wait_s(),
        "active_endpoints": sum(1 for e in pool.endpoints.values() if e.state == "active"),
        "endpoints": {e.id: e.load for e in pool.endpoints.values()},
        "edges_s": list(EDGES_S),
        "ttft": _histogram(figures.ttft),
        "e2e": _histogram(figures.e2e),
        "queue_time": _histogram(figures.queue_time),
        "inter_token": _histogram(figures.inter_token),
    }


def history(pools: Pools, pool: Pool, seconds: int) -> dict[str, object]:
    """Give the last `seconds` seconds, oldest first; the last one is still running."""
    pool.tick()
    first, slots = pool.ring.window(seconds)
    ring = pool.ring
    return {
        **_instant(pools),
        "model": pool.settings.model,
        "from_monotonic_s": first,
        "from_unix_s": time.time() - (time.monotonic() - first),
        "arrivals": [ring.arrivals[at] for at in slots],
        "prompt_tokens": [ring.prompt_tokens[at] for at in slots],
        "output_tokens": [ring.output_tokens[at] for at in slots],
        "in_system_max": [ring.in_system_max[at] for at in slots],
    }


def _expected_in_s(pool: Pool) -> float | None:
    left_s = pool.outlook.likely_at - time.monotonic()
    return left_s if math.isfinite(left_s) else None


def _instant(pools: Pools) -> dict[str, object]:
    return {
        "boot_id": pools.boot_id,
        "unix_s": time.time(),
        "monotonic_s": time.monotonic(),
    }


def _histogram(histogram: Histogram) -> dict[str, object]:
    """Cumulative counts at `edges_s`, then the count of all."""
    return {"cumulative": histogram.cumulative(), "sum_s": histogram.total_s}
