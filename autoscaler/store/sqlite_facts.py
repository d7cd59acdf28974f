"""What is remembered beside the nodes, as SQL: models, offers, boots, lags, orphans, starts; what is forgotten when."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta

from autoscaler.domain.ids import MachineId, ModelName
from autoscaler.domain.node import NodeEvent
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.store.protocol import RESUMED, ListingLags, ModelRecord, Orphan, Promotion
from autoscaler.store.rows import OVERRIDE, PROMOTION, backoff_of, instant, iso
from autoscaler.store.sqlite_file import transaction
from autoscaler.store.sqlite_nodes import OPEN, add_event

_KEPT_BOOTS = 50
_KEPT_DAYS = 62  # of spending: the month before this one too
_KEPT_LAGS = 50  # the largest, for ever: as many as the settling time is learned from


def record(db: sqlite3.Connection, model: ModelName) -> ModelRecord:
    row = db.execute("SELECT * FROM models WHERE model = ?", (model,)).fetchone()
    if row is None:
        return ModelRecord(model)
    return ModelRecord(
        model=model,
        memory=row["memory"],
        paused_by=row["paused_by"],
        paused_at=instant(row["paused_at"]) if row["paused_at"] else None,
        retired_by=row["retired_by"],
        promotion=PROMOTION.validate_json(row["promotion"]) if row["promotion"] else None,
        override=OVERRIDE.validate_json(row["override"]) if row["override"] else None,
        shadow=row["shadow"],
    )


def promotions(db: sqlite3.Connection) -> dict[ModelName, Promotion]:
    rows = db.execute("SELECT model, promotion FROM models WHERE promotion IS NOT NULL")
    return {ModelName(row["model"]): PROMOTION.validate_json(row["promotion"]) for row in rows}


def mark(
    db: sqlite3.Connection, model: ModelName, column: str, doc: str | None, event: NodeEvent
) -> None:
    """Set one of a model's documents, and record who did."""
    with transaction(db):
        db.execute(
            f"INSERT INTO models (model, {column}) VALUES (?, ?) "
            f"ON CONFLICT (model) DO UPDATE SET {column} = excluded.{column}",
            (model, doc),
        )
        add_event(db, event)


def flag(
    db: sqlite3.Connection,
    name: str,
    model: ModelName,
    actor: str | None,
    now: datetime,
    event: NodeEvent | None,
) -> None:
    """Pause or retire a model, or take that back (no actor), and record who did."""
    with transaction(db):
        _set_flag(db, name, model, actor, now)
        if event is not None:
            add_event(db, event)


def resume(db: sqlite3.Connection, model: ModelName, event: NodeEvent) -> None:
    """Let a model go on, whatever held it, and record who did."""
    with transaction(db):
        for name in ("paused", "retired"):
            _set_flag(db, name, model, None, event.at)
        db.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"{RESUMED}{model}", iso(event.at))
        )
        add_event(db, event)


def _set_flag(
    db: sqlite3.Connection, name: str, model: ModelName, actor: str | None, now: datetime
) -> None:
    db.execute(
        f"INSERT INTO models (model, {name}_by, {name}_at) VALUES (?, ?, ?) "
        f"ON CONFLICT (model) DO UPDATE SET {name}_by = excluded.{name}_by, "
        f"{name}_at = excluded.{name}_at",
        (model, actor, iso(now) if actor else None),
    )


def backoffs(db: sqlite3.Connection) -> tuple[BackOff, ...]:
    query = "SELECT * FROM backoffs ORDER BY type, location"
    return tuple(map(backoff_of, db.execute(query)))


def boots(db: sqlite3.Connection, model: ModelName) -> dict[OfferKey, tuple[float, ...]]:
    """The newest boots of each offer, oldest first."""
    query = "SELECT type, location, seconds FROM boots WHERE model = ? ORDER BY id DESC LIMIT ?"
    found: dict[OfferKey, tuple[float, ...]] = {}
    for row in reversed(db.execute(query, (model, _KEPT_BOOTS * 20)).fetchall()):
        key = OfferKey(row["type"], row["location"])
        found[key] = (*found.get(key, ()), float(row["seconds"]))[-_KEPT_BOOTS:]
    return found


def listing_lags(db: sqlite3.Connection) -> ListingLags:
    row = db.execute("SELECT count(*) AS launches, max(seconds) AS s FROM listing_lags").fetchone()
    return ListingLags(row["launches"], row["s"] or 0.0)


def orphans(db: sqlite3.Connection) -> tuple[Orphan, ...]:
    rows = db.execute("SELECT * FROM orphans ORDER BY machine_id")
    return tuple(
        Orphan(MachineId(r["machine_id"]), r["name"], instant(r["first_seen"])) for r in rows
    )


def set_orphans(db: sqlite3.Connection, found: Sequence[Orphan]) -> None:
    with transaction(db):
        db.execute("DELETE FROM orphans")
        db.executemany(
            "INSERT INTO orphans VALUES (?, ?, ?)",
            [(o.machine_id, o.name, iso(o.first_seen)) for o in found],
        )


def add_start(db: sqlite3.Connection, now: datetime) -> tuple[datetime, ...]:
    """Remember a start, and return those of the last day."""
    with transaction(db):
        db.execute("INSERT OR IGNORE INTO starts VALUES (?)", (iso(now),))
        db.execute("DELETE FROM starts WHERE at < ?", (iso(now - timedelta(days=1)),))
    rows = db.execute("SELECT at FROM starts ORDER BY at")
    return tuple(instant(row["at"]) for row in rows)


def prune(db: sqlite3.Connection, before: datetime) -> int:
    """Forget what ended before an instant; returns rows removed.

    Intents stay for ever: their counters are why no name can be given twice, whatever went wrong with the rows.
    """
    limit = iso(before)
    longest = f"SELECT node FROM listing_lags ORDER BY seconds DESC LIMIT {_KEPT_LAGS}"
    told = f"SELECT name FROM nodes WHERE {OPEN}"  # an open node's story is kept whole
    with transaction(db):
        gone = [
            db.execute(f"DELETE FROM {table} WHERE {condition}", (limit,)).rowcount
            for table, condition in (
                ("nodes", "closed_at < ?"),
                ("events", f"at < ? AND (node IS NULL OR node NOT IN ({told}))"),
                ("decisions", "at < ?"),
                ("launches", "at < ?"),
                ("boots", "at < ?"),
                ("listing_lags", f"at < ? AND node NOT IN ({longest})"),
            )
        ]
        # Limits want whole months. The newest rows stay whatever the clock says: after a jump they still count.
        newest = f"SELECT date(max(day), '-{_KEPT_DAYS} days') FROM money"
        month = before.date().replace(day=1).isoformat()
        gone.append(
            db.execute(f"DELETE FROM money WHERE day < ? AND day < ({newest})", (month,)).rowcount
        )
    return sum(gone)
