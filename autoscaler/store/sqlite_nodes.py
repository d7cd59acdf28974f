"""Nodes, intents, decisions and money as SQL. Each function runs inside its caller's transaction."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import CLOSED, Node, NodeEvent, State
from autoscaler.domain.plan import Plan
from autoscaler.errors import InvariantBroken, LeaseLost, StoreUnavailable
from autoscaler.store.protocol import LAUNCH_MEMORY, RESUMED, Lease, Ledger
from autoscaler.store.rows import (
    DECISION,
    NODE,
    PLAN,
    closed_at,
    cost_by_day,
    event_values,
    instant,
    iso,
    node_of,
)

OPEN = "closed_at IS NULL"


def check_epoch(db: sqlite3.Connection, lease: Lease) -> None:
    row = db.execute("SELECT holder, epoch FROM leases WHERE model = ?", (lease.model,)).fetchone()
    if row is None or row["epoch"] != lease.epoch or row["holder"] != lease.holder:
        raise LeaseLost(f"{lease.model}: epoch {lease.epoch} is over")


def write(db: sqlite3.Connection, before: Node, after: Node, event: NodeEvent | None) -> None:
    """Replace a row that still equals `before`; whoever changed it in between wins.

    Rows are compared as values: one that an older version wrote lacks what nodes have learned to say since.
    """
    row = db.execute("SELECT doc FROM nodes WHERE name = ?", (before.name,)).fetchone()
    if row is None or node_of(row) != before:
        raise StoreUnavailable(f"{before.name}: changed meanwhile; look at it again")
    if before.state is State.PLANNED and after.state is State.CREATING:
        _check_may_launch(db, after)
    db.execute(
        "UPDATE nodes SET state = ?, closed_at = ?, doc = ? WHERE name = ?",
        (after.state.value, closed_at(after), _doc(after), before.name),
    )
    if event is not None:
        add_event(db, event)
    if before.state in CLOSED and after.state not in CLOSED:
        later = db.execute(
            "SELECT 1 FROM intents WHERE id = ? AND last_attempt > ?",
            (before.intent, before.attempt),
        ).fetchone()
        if later is not None:
            raise StoreUnavailable(f"{before.name}: a later attempt of its intent was recorded")
        # Its machine surfaced: the running meter counts it whole, from its create call on.
        db.execute("DELETE FROM money WHERE node = ?", (after.name,))
    if after.state in CLOSED and before.state not in CLOSED:
        db.executemany(
            "INSERT OR REPLACE INTO money VALUES (?, ?, ?, ?)",
            [(after.name, after.model, day, str(c.usd)) for day, c in cost_by_day(after)],
        )


def _check_may_launch(db: sqlite3.Connection, node: Node) -> None:
    """A pause is a promise: once it is recorded, no create call of the model is made any more."""
    row = db.execute(
        "SELECT coalesce(paused_by, retired_by) AS who FROM models WHERE model = ?", (node.model,)
    ).fetchone()
    if row is not None and row["who"] is not None:
        raise StoreUnavailable(f"{node.name}: not sent: {row['who']} stopped the model meanwhile")


def insert(db: sqlite3.Connection, node: Node) -> None:
    db.execute(
        "INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            node.name,
            node.model,
            node.intent,
            node.attempt,
            node.state.value,
            node.epoch,
            iso(node.created_at),
            closed_at(node),
            _doc(node),
        ),
    )


def insert_intent(db: sqlite3.Connection, node: Node) -> None:
    """Record an attempt. Attempt numbers of an intent only grow, from the intent's own counter."""
    row = db.execute(
        "INSERT INTO intents VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "last_attempt = excluded.last_attempt WHERE excluded.last_attempt > last_attempt "
        "RETURNING last_attempt",
        (node.intent, node.model, node.attempt),
    ).fetchone()
    if row is None:
        raise InvariantBroken(f"{node.name}: attempt {node.attempt} of its intent was used before")
    insert(db, node)
    db.execute(
        "INSERT INTO launches VALUES (?, ?, ?)", (node.name, node.model, iso(node.created_at))
    )
    add_event(
        db,
        NodeEvent(
            at=node.created_at,
            kind="node_planned",
            model=node.model,
            node=node.name,
            state=node.state,
            cause=node.reason,
            actor="daemon",
            decision=node.decision,
        ),
    )


def add_event(db: sqlite3.Connection, event: NodeEvent) -> None:
    db.execute(
        "INSERT INTO events (at, kind, model, node, state, cause, actor, detail, decision) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        event_values(event),
    )


def record_decision(
    db: sqlite3.Connection,
    lease: Lease,
    decision: Decision,
    plan: Plan,
    memory: str,
    *,
    acted: bool,
    shadow: str | None = None,
) -> None:
    """Keep the decision. One that repeats an idle predecessor replaces it, so that neither calm nor a limit that
    refuses every launch for days costs rows; one that rows refer to stays.
    """
    last = db.execute(
        "SELECT id, seq, verdict, acted, json_extract(decision, '$.binding') AS binding, "
        "json_extract(decision, '$.want') AS want FROM decisions WHERE model = ? "
        "ORDER BY seq DESC LIMIT 1",
        (lease.model,),
    ).fetchone()
    seq = last["seq"] + 1 if last else 1
    same = last and (last["verdict"], last["binding"], last["want"]) == (
        decision.verdict.value,
        decision.binding,
        decision.want,
    )
    if same and not acted and not last["acted"]:
        db.execute("DELETE FROM decisions WHERE id = ?", (last["id"],))
    db.execute(
        "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            decision.id,
            seq,
            lease.model,
            iso(decision.at),
            lease.epoch,
            decision.verdict.value,
            int(acted),
            DECISION.dump_json(decision).decode(),
            PLAN.dump_json(plan).decode(),
        ),
    )
    db.execute(
        "INSERT INTO models (model, memory) VALUES (?, ?) "
        "ON CONFLICT (model) DO UPDATE SET memory = excluded.memory",
        (lease.model, memory),
    )
    if shadow is not None:
        db.execute("UPDATE models SET shadow = ? WHERE model = ?", (shadow, lease.model))


def ledger(db: sqlite3.Connection, now: datetime) -> Ledger:
    nodes = tuple(map(node_of, db.execute(f"SELECT doc FROM nodes WHERE {OPEN}")))
    launches = db.execute(
        "SELECT model, at FROM launches WHERE at >= ? ORDER BY at", (iso(now - LAUNCH_MEMORY),)
    )
    ended = db.execute("SELECT doc FROM nodes WHERE closed_at >= ?", (iso(now - LAUNCH_MEMORY),))
    resumed = db.execute("SELECT key, value FROM meta WHERE key LIKE ?", (f"{RESUMED}%",))
    return Ledger(
        at=now,
        nodes=nodes,
        closed_today=_closed(db, now.date().isoformat()),
        closed_month=_closed(db, now.date().replace(day=1).isoformat()),
        launches=tuple((ModelName(row["model"]), instant(row["at"])) for row in launches),
        ended=tuple(map(node_of, ended)),
        resumed={
            ModelName(row["key"].removeprefix(RESUMED)): instant(row["value"]) for row in resumed
        },
    )


def _closed(db: sqlite3.Connection, first_day: str) -> dict[ModelName, Money]:
    spent: dict[ModelName, Money] = {}
    for row in db.execute("SELECT model, usd FROM money WHERE day >= ?", (first_day,)):
        model = ModelName(row["model"])
        spent[model] = spent.get(model, ZERO) + Money.of(row["usd"])
    return spent


def _doc(node: Node) -> str:
    return NODE.dump_json(node).decode()
