"""Decisions, plans and limits to put into a store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from autoscaler.domain.decision import Decision, Verdict
from autoscaler.domain.ids import DecisionId
from autoscaler.domain.node import Node, NodeEvent
from autoscaler.domain.plan import Launch, Plan
from autoscaler.store.protocol import Admission, Lease, Ledger
from autoscaler.store.sqlite import SqliteStore
from tests.nodes.life_parts import KEY, MODEL, NOON, offer


def decision(id_: str = "d1", at: datetime = NOON, want: int = 1) -> Decision:
    return Decision(
        id=DecisionId(id_),
        model=MODEL,
        at=at,
        verdict=Verdict.KEEP,
        demand=1.0,
        raw=1.0,
        want=want,
        have=1.0,
        ready=1.0,
        binding="demand",
        reason="demand",
        recommendations=(),
    )


def plan(id_: str = "d1", launches: int = 0) -> Plan:
    launch = Launch(KEY, offer().price_per_hour or 0, 1.0, 1, 1, 8, "wanted")  # type: ignore[arg-type]
    return Plan(MODEL, DecisionId(id_), NOON, launches=(launch,) * launches)


def event(row: Node, kind: str = "node_moved") -> NodeEvent:
    return NodeEvent(row.since, kind, row.model, row.name, row.state, "test", "test")


def all_of_them(ledger: Ledger, rows: Sequence[Node]) -> Admission:
    return Admission(tuple(rows))


def none_of_them(ledger: Ledger, rows: Sequence[Node]) -> Admission:
    return Admission((), tuple((row, "limits.nodes is 0") for row in rows))


async def lease_on(store: SqliteStore) -> Lease:
    lease = await store.acquire(MODEL, "daemon-1", 1000.0)
    assert lease is not None
    return lease


async def commit(store: SqliteStore, lease: Lease, *rows: Node, id_: str = "d1") -> Admission:
    return await store.commit_plan(
        lease, decision(id_), plan(id_, len(rows)), rows, (), "{}", all_of_them
    )
