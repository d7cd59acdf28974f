"""One answer to Prometheus: how all parts stand at this moment. It is given while the store is broken, too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import State
from autoscaler.errors import StoreUnavailable
from autoscaler.gauges import Gauge, as_it_runs, gauges
from autoscaler.policy import Mode
from autoscaler.serve.alarms import Condition, ModelCondition
from autoscaler.store.protocol import Ledger, ModelRecord
from autoscaler.ways import authority_ends

if TYPE_CHECKING:
    from autoscaler.daemon import Daemon


async def scrape(daemon: Daemon) -> bytes:
    """The page. Figures that only the store knows stay as they were while it cannot be read."""
    now = daemon.clock.now()
    ledger: Ledger | None = None
    records: tuple[ModelRecord, ...] | None = None
    try:
        ledger = await daemon.store.ledger(now)
        records = await _records(daemon)
    except StoreUnavailable:
        pass  # said by the page itself
    condition = _condition(daemon, ledger, records, now)
    return daemon.metrics.page(
        ledger,
        daemon.market,
        condition,
        safe_mode=daemon.health.safe_mode,
        overdue_drains=daemon.runner.overdue_drains,
        absent_balancers=len(daemon.balancers.troubles),
        tunnels_away=daemon.health.way_trouble is not None,
        now=now,
    )


async def _records(daemon: Daemon) -> tuple[ModelRecord, ...]:
    return tuple([await daemon.store.record(model) for model in tuple(daemon.book.policies)])


def _condition(
    daemon: Daemon, ledger: Ledger | None, records: Sequence[ModelRecord] | None, now: datetime
) -> Condition:
    health, usage = daemon.health, daemon.usage.last
    models = None
    if records is not None:
        models = [_model(daemon, one, now) for one in records if one.model in daemon.book.policies]
    draining = [n.since for n in ledger.nodes if n.state is State.DRAINING] if ledger else []
    return Condition(
        store_failing=ledger is None or health.store_trouble is not None,
        leases_missing=len(set(daemon.book.policies) - daemon.leases.models),
        pass_period_s=daemon.config.timings.reconcile.total_seconds(),
        loop_lag_s=daemon.lag.longest_s,
        condemnations_held=daemon.runner.held is not None,
        payment_required=health.payment_trouble is not None,
        launches_forbidden=health.forbidden() is not None,
        oldest_draining_s=(now - min(draining)).total_seconds() if draining else 0.0,
        models=models,
        meters_differ=usage is not None and usage.differs,
        meters_difference=usage.difference if usage is not None else 0.0,
        authority_ends=authority_ends(daemon.reach),
        limits=_spending(daemon, ledger) if ledger else (),
    )


def _spending(daemon: Daemon, ledger: Ledger) -> tuple[Gauge, ...]:
    """The limits in money, as it runs now."""
    limits = daemon.reconciler.limits()
    found = gauges(limits, ledger, as_it_runs(limits, ledger))
    return tuple(each for each in found if each.is_money)


def _model(daemon: Daemon, record: ModelRecord, now: datetime) -> ModelCondition:
    paused = (now - record.paused_at).total_seconds() if record.paused_at else 0.0
    return ModelCondition(
        record.model,
        _mode(daemon, record),
        max(0.0, paused),
        _launches_stopped(daemon, record.model),
    )


def _mode(daemon: Daemon, record: ModelRecord) -> str:
    if record.retired_by is not None:
        return "retired"
    if record.paused_by is not None:
        return "paused"
    return (daemon.book.policies[record.model].mode or Mode.SHADOW).value


def _launches_stopped(daemon: Daemon, model: ModelName) -> bool:
    """Whether this model's own launches must stop; what stops those of all models is told elsewhere."""
    thought = daemon.reconciler.last.get(model)
    stopped = thought is not None and thought.why_no_launch is not None
    return stopped and daemon.health.forbidden() is None
