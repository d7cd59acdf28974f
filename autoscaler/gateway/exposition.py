"""The gateway's metrics page, made from the pools' figures at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from autoscaler.gateway.figures import EDGES_S, Histogram
from autoscaler.gateway.front_page import FrontPage
from autoscaler.gateway.pool import Pool
from autoscaler.gateway.pools import Pools

_PREFIX = "autoscaler_gateway"
# All edges times all models would be too many series: the page has a third, signals have all.
_SHOWN_S = frozenset(
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
)


def render(pools: Pools, front: FrontPage | None = None) -> tuple[bytes, str]:
    """Write the page; return it with its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(pools))
    registry.register(front or FrontPage())
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Page:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        pools = self._pools.by_model
        for name, help_text, read in _COUNTERS:
            family = CounterMetricFamily(f"{_PREFIX}_{name}", help_text, labels=["model"])
            for model, pool in pools.items():
                family.add_metric([model], read(pool))
            yield family
        for name, help_text, read in _GAUGES:
            gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", help_text, labels=["model"])
            for model, pool in pools.items():
                gauge.add_metric([model], read(pool))
            yield gauge
        yield self._rejected()
        yield self._endpoints()
        for name, help_text, choose in _HISTOGRAMS:
            shown = HistogramMetricFamily(f"{_PREFIX}_{name}_seconds", help_text, labels=["model"])
            for model, pool in pools.items():
                histogram = choose(pool)
                shown.add_metric([model], _buckets(histogram), histogram.total_s)
            yield shown
        yield CounterMetricFamily(
            f"{_PREFIX}_unmatched_requests",
            "Requests that named a model which nobody serves.",
            value=self._pools.unmatched_total,
        )

    def _rejected(self) -> Metric:
        family = CounterMetricFamily(
            f"{_PREFIX}_rejected_requests",
            "Requests answered 503 because the line was full, too slow, or the gateway stopping.",
            labels=["model", "reason"],
        )
        for model, pool in self._pools.by_model.items():
            for reason, count in pool.figures.rejected_total.items():
                family.add_metric([model, reason], count)
        return family

    def _endpoints(self) -> Metric:
        family = GaugeMetricFamily(
            f"{_PREFIX}_endpoints", "Endpoints, by state.", labels=["model", "state"]
        )
        for model, pool in self._pools.by_model.items():
            states = [e.state.value for e in pool.endpoints.values()]
            for state in ("active", "draining"):
                family.add_metric([model, state], states.count(state))
            ejected = sum(pool.is_ejected(e) for e in pool.endpoints.values())
            family.add_metric([model, "ejected"], ejected)
        return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    cumulative = histogram.cumulative()
    shown = [
        (str(edge), float(count))
        for edge, count in zip(EDGES_S, cumulative, strict=False)
        if edge in _SHOWN_S
    ]
    return [*shown, ("+Inf", float(cumulative[-1]))]


_COUNTERS: tuple[tuple[str, str, Callable[[Pool], float]], ...] = (
    ("arrivals", "Requests that arrived.", lambda p: p.figures.arrivals_total),
    (
        "completed_requests",
        "Requests answered whole, below status 500.",
        lambda p: p.figures.completed_total,
    ),
    ("failed_requests", "Requests that a node failed.", lambda p: p.figures.failed_total),
    (
        "client_gone_requests",
        "Requests whose client went away first.",
        lambda p: p.figures.client_gone_total,
    ),
    (
        "cold_start_requests",
        "Requests that waited while there was no node.",
        lambda p: p.figures.cold_starts_total,
    ),
    (
        "connect_failures",
        "Connections that an endpoint did not accept.",
        lambda p: p.figures.connect_failures_total,
    ),
    ("prompt_tokens", "Tokens of the prompts answered.", lambda p: p.figures.prompt_tokens_total),
    ("output_tokens", "Tokens generated.", lambda p: p.figures.output_tokens_total),
)

_GAUGES: tuple[tuple[str, str, Callable[[Pool], float]], ...] = (
    (
        "requests_in_flight",
        "Requests at the endpoints.",
        lambda p: p.in_flight + p.running_elsewhere,
    ),
    (
        "requests_waiting",
        "Requests held or queued here.",
        lambda p: p.waiting + p.waiting_elsewhere,
    ),
    ("waiting_bytes", "Bodies of the requests held or queued.", lambda p: p.waiting_bytes),
    ("oldest_wait_seconds", "Age of the request that waits longest.", lambda p: p.oldest_wait_s()),
)

_HISTOGRAMS: tuple[tuple[str, str, Callable[[Pool], Histogram]], ...] = (
    ("time_to_first_token", "From arrival to the first event.", lambda p: p.figures.ttft),
    ("request_duration", "From arrival to the end of the answer.", lambda p: p.figures.e2e),
    ("queue_time", "From arrival to an endpoint.", lambda p: p.figures.queue_time),
    ("inter_token", "Between two events of an answer.", lambda p: p.figures.inter_token),
)
