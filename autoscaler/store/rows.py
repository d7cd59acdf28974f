"""Domain values as rows and back. Times are stored as UTC ISO text, which sorts as time does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from pydantic import TypeAdapter

from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import DecisionId, ModelName, NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import CLOSED, Node, NodeEvent, State
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.domain.override import Override
from autoscaler.domain.plan import Plan
from autoscaler.store.protocol import Promotion

NODE = TypeAdapter(Node)
DECISION = TypeAdapter(Decision)
PLAN = TypeAdapter(Plan)
PROMOTION = TypeAdapter(Promotion)
OVERRIDE = TypeAdapter(Override)


def iso(at: datetime) -> str:
    """A UTC instant as text of fixed width."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def node_of(row: sqlite3.Row) -> Node:
    return _node(row["doc"])


@lru_cache(maxsize=4096)
def _node(doc: str) -> Node:
    """Each row is read many times between two of its changes; what it says is frozen, so one copy does."""
    return NODE.validate_json(doc)


def closed_at(node: Node) -> str | None:
    """When the node was closed, None while it is open."""
    return iso(node.gone_at or node.since) if node.state in CLOSED else None


def event_of(row: sqlite3.Row) -> NodeEvent:
    return NodeEvent(
        at=instant(row["at"]),
        kind=row["kind"],
        model=ModelName(row["model"]) if row["model"] else None,
        node=NodeName(row["node"]) if row["node"] else None,
        state=State(row["state"]) if row["state"] else None,
        cause=row["cause"],
        actor=row["actor"],
        detail=row["detail"],
        decision=DecisionId(row["decision"]) if row["decision"] else None,
    )


def event_values(event: NodeEvent) -> tuple[str | None, ...]:
    return (
        iso(event.at),
        event.kind,
        event.model,
        event.node,
        event.state.value if event.state else None,
        event.cause,
        event.actor,
        event.detail,
        event.decision,
    )


def backoff_of(row: sqlite3.Row) -> BackOff:
    return BackOff(
        key=OfferKey(row["type"], row["location"]),
        until=instant(row["until"]),
        reason=row["reason"],
        failures=row["failures"],
    )


def cost_by_day(node: Node) -> Iterator[tuple[str, Money]]:
    """Split what a closed node cost by UTC day: from the create call to its proven absence.

    A lost attempt cost nothing that is known: should its machine surface, it is counted from the call on.
    """
    if node.sent_at is None or node.state is State.LOST:
        return
    end = (node.gone_at or node.since).astimezone(UTC)
    at = node.sent_at.astimezone(UTC)
    while at < end:
        midnight = (at + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        until = min(midnight, end)
        yield at.date().isoformat(), node.price_per_hour.for_time(until - at)
        at = until
