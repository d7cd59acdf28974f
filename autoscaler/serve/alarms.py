"""The figures that alerts stand on: what holds the daemon up, and what a person forgot. Each has a runbook's rule.

What happened is counted here as it happens; how things stand is read when Prometheus asks. A counter that an alert
watches begins at 0, since the first sample of a series is no increase.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Node
from autoscaler.gauges import Gauge as Limit

_ALL = "(all)"
# The first word of a node's failure, where that says what to look at; any other is `other`: labels are bounded.
_KINDS = frozenset(
    {"condemned", "deadline", "host-key", "power", "reach", "register", "vanished", "verify"}
)


@dataclass(frozen=True, slots=True)
class ModelCondition:
    """How one model stands.

    Attributes:
        mode: `active`, `shadow`, `paused`, `retired` or `no policy`.
        paused_s: since when a person's pause holds it, 0 when none does.
        launches_stopped: its last launches failed alike, and it waits for a person.
    """

    model: ModelName
    mode: str
    paused_s: float = 0.0
    launches_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """How the daemon stands.

    Attributes:
        store_failing: its last write or read failed.
        leases_missing: models whose lease it does not hold.
        meters_differ: our meter and the cloud's were too far apart on the day last compared.
        meters_difference: by how much the cloud's was above ours, as a share of ours.
        authority_ends: when the authority of the nodes' certificates does; None where there is none.
        models: those with a policy; None while the store does not say how they stand.
        limits: those in money.
    """

    store_failing: bool
    leases_missing: int
    pass_period_s: float
    loop_lag_s: float
    condemnations_held: bool
    payment_required: bool
    launches_forbidden: bool
    oldest_draining_s: float
    models: Sequence[ModelCondition] | None = None
    limits: Sequence[Limit] = ()
    meters_differ: bool = False
    meters_difference: float = 0.0
    authority_ends: datetime | None = None


class Alarms:
    """These figures, in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"autoscaler_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"autoscaler_{name}", text, labels, registry=registry)

        self._store = gauge("store_failing", "1 while the store's last write or read failed")
        self._leases = gauge("leases_missing", "Models whose lease is not held")
        self._period = gauge("pass_period_seconds", "Time between two passes of a model")
        self._lag = gauge("loop_lag_seconds", "The event loop's longest lag of the last minute")
        self._held = gauge("condemnations_held", "1 while so many nodes fail that none is given up")
        self._payment = gauge("payment_required", "1 while the cloud wants payment")
        self._forbidden = gauge("launches_forbidden", "1 while nothing may be launched at all")
        self._differ = gauge("meters_differ", "1 while our meter and the cloud's are too far apart")
        self._difference = gauge(
            "meters_difference_ratio", "By how much the cloud's meter is above ours"
        )
        self._draining = gauge("oldest_draining_seconds", "Age of the oldest unfinished drain")
        self._authority = gauge(
            "node_authority_expiry_timestamp_seconds",
            "When the authority of the nodes' certificates ends, NaN without one",
        )
        self._mode = gauge("mode", "1 for the mode that a model is in", ("model", "mode"))
        self._paused = gauge("paused_seconds", "How long a person's pause has held", ("model",))
        self._stopped = gauge(
            "launches_stopped", "1 while launches that failed alike stop a model", ("model",)
        )
        limit = ("model", "limit")
        self._used = gauge(
            "limit_used_ratio", "Share of a spend limit that is spent or spoken for", limit
        )
        self._ahead = gauge("limit_ahead_ratio", "The same in 24 hours, as it runs now", limit)
        self._calls = counter(
            "cloud_calls_total", "Calls of the cloud, by what came of them", ("call", "outcome")
        )
        self._disagreed = counter(
            "balancer_disagreements_total",
            "Looks at a node that a balancer lists otherwise than recorded",
            ("model",),
        )
        self._failures = counter(
            "node_failures_total", "Nodes that failed, by the kind of failure", ("model", "kind")
        )
        self._keys = counter("host_key_mismatches_total", "Hosts that showed another key")

    def cloud_called(self, call: str, outcome: str) -> None:
        self._calls.labels(call, outcome).inc()

    def balancer_disagreed(self, model: ModelName) -> None:
        self._disagreed.labels(model).inc()

    def node_failed(self, node: Node) -> None:
        kind = (node.failure or "").partition(":")[0]
        self._failures.labels(node.model, kind if kind in _KINDS else "other").inc()
        if kind == "host-key":
            self._keys.inc()

    def show(self, condition: Condition) -> None:
        """Set the gauges to how things stand."""
        self._store.set(condition.store_failing)
        self._leases.set(condition.leases_missing)
        self._period.set(condition.pass_period_s)
        self._lag.set(condition.loop_lag_s)
        self._held.set(condition.condemnations_held)
        self._payment.set(condition.payment_required)
        self._forbidden.set(condition.launches_forbidden)
        self._draining.set(condition.oldest_draining_s)
        self._differ.set(condition.meters_differ)
        self._difference.set(condition.meters_difference)
        ends = condition.authority_ends
        self._authority.set(ends.timestamp() if ends is not None else math.nan)
        if condition.models is None:
            return
        for per_model in (self._mode, self._paused, self._stopped, self._used, self._ahead):
            per_model.clear()
        for one in condition.models:
            self._mode.labels(one.model, one.mode).set(1)
            self._paused.labels(one.model).set(one.paused_s)
            self._stopped.labels(one.model).set(one.launches_stopped)
            self._disagreed.labels(one.model)
        for limit in condition.limits:
            if not limit.most:
                continue  # no share can be told of nothing
            labels = (limit.model or _ALL, limit.key)
            self._used.labels(*labels).set(float(limit.committed / limit.most))
            self._ahead.labels(*labels).set(float(limit.ahead / limit.most))
