"""What Prometheus scrapes. docs/metrics.md has a line for each; labels are bounded and never a node's name."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from datetime import datetime, timedelta

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from autoscaler.domain.decision import Decision, Verdict
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Node, State
from autoscaler.domain.plan import Plan
from autoscaler.market import MarketFeed
from autoscaler.nodes.inventory import Findings
from autoscaler.policy import Policy
from autoscaler.serve.alarms import Alarms, Condition
from autoscaler.store.protocol import Ledger

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not annotate it

_BOOT_EDGES_S = (5, 15, 30, 60, 90, 120, 180, 240, 300, 420, 600, 900, 1800)
_PASS_EDGES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.alarms = Alarms(registry)
        model = ("model",)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"autoscaler_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"autoscaler_{name}", text, labels, registry=registry)

        self._demand = gauge("demand_replicas", "Work asked for, in reference replicas", model)
        self._want = gauge("desired_replicas", "Capacity wanted, in reference replicas", model)
        self._ready = gauge("ready_replicas", "Capacity that serves, in reference replicas", model)
        self._held = gauge("signals_held", "1 while capacity is held for want of signals", model)
        self._shortfall = gauge(
            "shortfall_replicas", "Capacity wanted that no offer or limit allows", model
        )
        self._nodes = gauge("nodes", "Nodes that exist or may exist", ("model", "state"))
        self._rate = gauge("hourly_cost_usd", "What all that bills costs per hour", model)
        self._today = gauge("spent_today_usd", "Spent since midnight UTC", model)
        self._month = gauge("spent_month_usd", "Spent since the first of the month UTC", model)
        self._overdue = gauge("overdue_drains", "Nodes that drain beyond their deadline")
        self._absent = gauge("absent_balancers", "Balancers that did not answer when last asked")
        self._tunnels = gauge("tunnels_away", "1 while the process of the tunnels does not answer")
        self._stuck = gauge("oldest_terminating_seconds", "Age of the oldest unfinished delete")
        self._orphans = gauge("unaccounted_machines", "Machines with our mark that no row knows")
        self._foreign = gauge("foreign_machines", "Machines with our prefix and another owner")
        self._sweep_held = gauge("sweep_held", "1 while a guard forbids acting on the listing")
        self._swept = gauge("last_sweep_timestamp_seconds", "When the last sweep ended")
        self._passed = gauge("last_pass_timestamp_seconds", "When the last pass ended", model)
        self._market = gauge("market_age_seconds", "Age of what is known of offers")
        self._stock = gauge("offers_in_stock", "Offers said to be in stock")
        self._policies = gauge("policies_valid", "1 while the policy files are valid")
        self._safe = gauge("safe_mode", "1 while launches are off after too many starts")
        self._settling = gauge(
            "settling_time_seconds", "How long an unanswered create call is waited for"
        )
        self._policies.set(1)
        self._passes = counter("passes_total", "Passes that ended", model)
        self._failures = counter("pass_failures_total", "Passes cut short", ("model", "error"))
        self._decisions = counter("decisions_total", "Decisions", ("model", "verdict"))
        self._changes = counter(
            "node_changes_total", "Nodes that entered a state", ("model", "state")
        )
        self._cuts = counter(
            "requests_cut_total", "Drains that cut requests at their deadline", model
        )
        self._pass_s = Histogram(
            "autoscaler_pass_duration_seconds",
            "Length of a pass",
            model,
            buckets=_PASS_EDGES_S,
            registry=registry,
        )
        self._boot_s = Histogram(
            "autoscaler_boot_duration_seconds",
            "From the intent to ready",
            model,
            buckets=_BOOT_EDGES_S,
            registry=registry,
        )
        self._per_model = (
            *(self._demand, self._want, self._ready, self._held, self._shortfall, self._passed),
        )
        self._shown: frozenset[str] = frozenset()

    def decided(self, policy: Policy, decision: Decision, plan: Plan) -> None:
        """A pass settled on something."""
        model = policy.model
        if decision.demand is not None:
            self._demand.labels(model).set(decision.demand)
        self._want.labels(model).set(decision.want)
        self._ready.labels(model).set(decision.ready)
        self._held.labels(model).set(decision.verdict is Verdict.HOLD)
        self._shortfall.labels(model).set(plan.shortfall)
        self._decisions.labels(model, decision.verdict).inc()
        self._passed.labels(model).set(decision.at.timestamp())

    def pass_done(self, model: ModelName, seconds: float) -> None:
        self._passes.labels(model).inc()
        self._pass_s.labels(model).observe(seconds)

    def pass_failed(self, model: ModelName, error: str) -> None:
        self._failures.labels(model, error).inc()

    def node_changed(self, before: Node, after: Node) -> None:
        self._changes.labels(after.model, after.state).inc()
        if after.state is State.FAILED and before.state is not State.FAILED:
            self.alarms.node_failed(after)
        if after.state is State.READY and before.ready_at is None:
            self._boot_s.labels(after.model).observe(
                (after.since - after.created_at).total_seconds()
            )

    def requests_cut(self, model: ModelName) -> None:
        self._cuts.labels(model).inc()

    def settling_time(self, length: timedelta) -> None:
        self._settling.set(length.total_seconds())

    def swept(self, findings: Findings) -> None:
        self._orphans.set(len(findings.orphans))
        self._foreign.set(len(findings.foreign))
        self._sweep_held.set(findings.held is not None)
        self._swept.set_to_current_time()

    def market_read(self, feed: MarketFeed) -> None:
        if feed.last is not None:
            self._stock.set(sum(1 for offer in feed.last.offers if offer.in_stock))

    def reloaded(self, *, ok: bool) -> None:
        self._policies.set(ok)

    def page(
        self,
        ledger: Ledger | None,
        feed: MarketFeed,
        condition: Condition,
        *,
        safe_mode: bool,
        overdue_drains: int,
        absent_balancers: int,
        tunnels_away: bool,
        now: datetime,
    ) -> bytes:
        """The page, with the figures that are read from the store at this moment; None while it cannot be read."""
        self.alarms.show(condition)
        if condition.models is not None:
            self._forget({one.model for one in condition.models})
        self._safe.set(safe_mode)
        self._overdue.set(overdue_drains)
        self._absent.set(absent_balancers)
        self._tunnels.set(tunnels_away)
        if feed.age is not None:
            self._market.set(feed.age.total_seconds())
        if ledger is not None:
            self._tell(ledger, now)
        return generate_latest(self.registry)

    def _tell(self, ledger: Ledger, now: datetime) -> None:
        """What exists and what it costs."""
        self._nodes.clear()
        for (model, state), count in Tally((n.model, n.state) for n in ledger.nodes).items():
            self._nodes.labels(model, state).set(count)
        for per_model in (self._rate, self._today, self._month):
            per_model.clear()
        models = {node.model for node in ledger.nodes} | set(ledger.closed_month)
        for model in models:
            rate = sum(float(n.price_per_hour.usd) for n in ledger.nodes if n.model == model)
            self._rate.labels(model).set(rate)
            self._today.labels(model).set(float(ledger.spent_today(model).usd))
            self._month.labels(model).set(float(ledger.spent_month(model).usd))
        leaving = [n.since for n in ledger.nodes if n.state is State.TERMINATING]
        self._stuck.set((now - min(leaving)).total_seconds() if leaving else 0)

    def _forget(self, models: set[ModelName]) -> None:
        """Say no more of a model whose policy was taken away: its last pass would look like one that stands still."""
        for model in self._shown - models:
            for figure in self._per_model:
                figure.remove(model)
        for model in models:
            self._cuts.labels(model)  # from 0 on, so that the first one is an increase
        self._shown = frozenset(models)
