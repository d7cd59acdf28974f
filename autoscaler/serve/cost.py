"""What everything costs and will cost, as plain JSON values: money per model, every limit, the last receipts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from autoscaler.act import Limits, hourly
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import Node, State
from autoscaler.domain.offer import Offer
from autoscaler.gauges import Gauge, Outlook, gauges
from autoscaler.period import left_of_day, left_of_month
from autoscaler.serve.glance import mean_rate
from autoscaler.store.protocol import Ledger, Store
from autoscaler.usage_check import USAGE

Json = dict[str, object]
_RECENT = timedelta(hours=48)
_RECEIPTS = timedelta(days=30)


async def cost_view(store: Store, limits: Limits, offers: Sequence[Offer], now: datetime) -> Json:
    """All of it, from the store alone.

    Args:
        offers: what can be rented, as far as it is known: a limit bites before it is used up to the cent.
    """
    ledger = await store.ledger(now)
    nodes = await store.nodes(closed_since=now - _RECEIPTS)
    recent = [n for n in nodes if n.gone_at is None or now - n.gone_at < _RECENT]
    names = sorted(
        {*limits.policies, *(n.model for n in ledger.nodes), *ledger.closed_month},
    )
    cheapest = min((o.price_per_hour for o in offers if o.price_per_hour), default=ZERO)
    outlook = Outlook(lambda model: mean_rate(ledger, recent, model)[0], cheapest)
    usage = await store.meta(USAGE)
    return {
        "at": now.isoformat(),
        "all": _money(ledger, recent, None),
        "models": [{"model": name, **_money(ledger, recent, name)} for name in names],
        "stray_usd_per_hour": _usd(limits.stray_per_hour),
        "limits": [_gauge(each) for each in gauges(limits, ledger, outlook)],
        "receipts": [_receipt(node) for node in _closed(nodes)],
        "usage": json.loads(usage) if usage else None,
    }


def _money(ledger: Ledger, recent: Sequence[Node], model: ModelName | None) -> Json:
    running = [n for n in ledger.nodes if n.may_bill and model in (None, n.model)]
    today, month = ledger.spent_today(model), ledger.spent_month(model)
    rate, basis = mean_rate(ledger, recent, model)
    return {
        "nodes": len(running),
        "usd_per_hour": _usd(hourly(running)),
        "spent_today_usd": _usd(today),
        "spent_month_usd": _usd(month),
        "forecast_today_usd": _usd(today + rate.for_time(left_of_day(ledger.at))),
        "forecast_month_usd": _usd(month + rate.for_time(left_of_month(ledger.at))),
        "forecast_usd_per_hour": _usd(rate),
        "forecast_basis": basis,
    }


def _gauge(gauge: Gauge) -> Json:
    return {
        "model": gauge.model,
        "limit": gauge.key,
        "used": f"{gauge.used:.4f}" if gauge.is_money else int(gauge.used),
        "most": f"{gauge.most:.4f}" if gauge.is_money else int(gauge.most),
        "on_limit": gauge.action.value,
        "bites_at": _at(gauge.bites_at),
        "reached_at": _at(gauge.reached_at),
        "why": gauge.why,
    }


def _closed(nodes: Sequence[Node]) -> list[Node]:
    """Nodes that ended and cost something, the newest first."""
    ended = [node for node in nodes if node.state is State.GONE and node.sent_at is not None]
    return sorted(ended, key=lambda node: (node.gone_at or node.since, node.name), reverse=True)


def _receipt(node: Node) -> Json:
    end = node.gone_at or node.since
    length = max(end - node.sent_at, timedelta(0)) if node.sent_at else timedelta(0)
    return {
        "node": node.name,
        "model": node.model,
        "type": node.offer.type,
        "location": node.offer.location,
        "from": _at(node.sent_at),
        "until": _at(end),
        "hours": round(length / timedelta(hours=1), 4),
        "served_s": _served_s(node),
        "usd_per_hour": _usd(node.price_per_hour),
        "cost_usd": _usd(node.price_per_hour.for_time(length)),
        "why_ended": node.failure or node.reason,
    }


def _served_s(node: Node) -> float:
    if node.ready_at is None:
        return 0.0
    end = node.unregistered_at or node.gone_at or node.since
    return round(max(0.0, (end - node.ready_at).total_seconds()), 1)


def _usd(amount: Money) -> str:
    return f"{amount.usd:.4f}"


def _at(when: datetime | None) -> str | None:
    return when.isoformat(timespec="seconds") if when is not None else None
