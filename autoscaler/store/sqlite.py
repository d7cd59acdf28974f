"""The embedded store: one SQLite file, one process, one thread that writes it.

Each method is one function run in that thread, so that a cancelled caller never leaves a transaction open.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import IntentId, ModelName, NodeName
from autoscaler.domain.node import Fleet, Node, NodeEvent, State
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.domain.override import Override
from autoscaler.domain.plan import Plan
from autoscaler.errors import LeaseLost, StoreUnavailable
from autoscaler.store import sqlite_facts, sqlite_nodes
from autoscaler.store.protocol import (
    Admission,
    Admit,
    Lease,
    Ledger,
    ListingLags,
    ModelRecord,
    OpenIntent,
    Orphan,
    Promotion,
)
from autoscaler.store.rows import OVERRIDE, PROMOTION, event_of, iso, node_of
from autoscaler.store.sqlite_file import FileLock, copy_to, open_database, transaction
from autoscaler.store.sqlite_nodes import OPEN

T = TypeVar("T")


class SqliteStore:
    """A `Store` in one SQLite file. Holds the file's lock from `open` to `close`."""

    def __init__(self, db: sqlite3.Connection, lock: FileLock, lease_time: timedelta) -> None:
        self._db = db
        self._db.row_factory = sqlite3.Row
        self._lock = lock
        self._lease_s = lease_time.total_seconds()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    @classmethod
    def open(
        cls,
        path: Path,
        lease_time: timedelta = timedelta(seconds=30),
        wait: timedelta = timedelta(seconds=5),
    ) -> SqliteStore:
        """Open or make the file.

        Raises:
            StoreUnavailable: another process holds it, or it is unreadable, damaged or too new.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(path.with_suffix(".lock"))
            lock.acquire()
        except OSError as exc:
            raise StoreUnavailable(f"{path.parent}: cannot write there: {exc}") from exc
        try:
            return cls(open_database(path, wait), lock, lease_time)
        except BaseException:
            lock.release()
            raise

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._thread.shutdown()
        self._lock.release()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def guarded() -> T:
            try:
                return work(self._db)
            except sqlite3.Error as exc:
                raise StoreUnavailable(f"the store could not commit: {exc}") from exc

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    # leases

    async def acquire(self, model: ModelName, holder: str, boot_s: float) -> Lease | None:
        """Take the lease. The file's lock proves that any other holder is dead, so there is nobody to wait for."""

        def work(db: sqlite3.Connection) -> Lease:
            with transaction(db):
                row = db.execute(
                    "INSERT INTO leases VALUES (?, ?, 1, 1) ON CONFLICT (model) DO UPDATE SET "
                    "holder = excluded.holder, epoch = epoch + 1, beat = beat + 1 RETURNING epoch",
                    (model, holder),
                ).fetchone()
            return Lease(model, holder, int(row["epoch"]), boot_s + self._lease_s * 2 / 3)

        return await self._run(work)

    async def renew(self, lease: Lease, boot_s: float) -> Lease:
        def work(db: sqlite3.Connection) -> Lease:
            with transaction(db):
                done = db.execute(
                    "UPDATE leases SET beat = beat + 1 WHERE model = ? AND holder = ? AND epoch = ?",
                    (lease.model, lease.holder, lease.epoch),
                )
                if done.rowcount != 1:
                    raise LeaseLost(f"{lease.model}: epoch {lease.epoch} is over")
            return replace(lease, good_until_boot_s=boot_s + self._lease_s * 2 / 3)

        return await self._run(work)

    # nodes

    async def fleet(self, model: ModelName) -> Fleet:
        return Fleet(await self._nodes(f"model = ? AND {OPEN}", (model,)))

    async def nodes(self, *, closed_since: datetime | None = None) -> tuple[Node, ...]:
        if closed_since is None:
            return await self._nodes(OPEN, ())
        return await self._nodes(f"{OPEN} OR closed_at >= ?", (iso(closed_since),))

    async def _nodes(self, where: str, values: tuple[str, ...]) -> tuple[Node, ...]:
        query = f"SELECT doc FROM nodes WHERE {where} ORDER BY created_at, name"
        return await self._run(lambda db: tuple(map(node_of, db.execute(query, values))))

    async def node(self, name: NodeName) -> Node | None:
        found = await self._nodes("name = ?", (name,))
        return found[0] if found else None

    async def ledger(self, now: datetime) -> Ledger:
        return await self._run(lambda db: sqlite_nodes.ledger(db, now))

    async def commit_plan(
        self,
        lease: Lease,
        decision: Decision,
        plan: Plan,
        intents: Sequence[Node],
        releases: Sequence[tuple[Node, Node, NodeEvent]],
        memory: str,
        admit: Admit,
        shadow: str | None = None,
    ) -> Admission:
        def work(db: sqlite3.Connection) -> Admission:
            with transaction(db):
                sqlite_nodes.check_epoch(db, lease)
                for before, after, event in releases:
                    sqlite_nodes.write(db, before, after, event)
                admission = (
                    admit(sqlite_nodes.ledger(db, decision.at), intents)
                    if intents
                    else Admission(())
                )
                for node in admission.admitted:
                    sqlite_nodes.insert_intent(db, node)
                acted = bool(releases or admission.admitted)
                sqlite_nodes.record_decision(
                    db, lease, decision, plan, memory, acted=acted, shadow=shadow
                )
            return admission

        return await self._run(work)

    async def advance(self, lease: Lease, before: Node, after: Node, event: NodeEvent) -> None:
        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                sqlite_nodes.check_epoch(db, lease)
                sqlite_nodes.write(db, before, after, event)

        await self._run(work)

    async def update(self, lease: Lease, before: Node, after: Node) -> None:
        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                sqlite_nodes.check_epoch(db, lease)
                sqlite_nodes.write(db, before, after, None)

        await self._run(work)

    async def insert(self, lease: Lease, node: Node, event: NodeEvent) -> None:
        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                sqlite_nodes.check_epoch(db, lease)
                sqlite_nodes.insert(db, node)
                sqlite_nodes.add_event(db, event)

        await self._run(work)

    async def open_intents(self, model: ModelName) -> tuple[OpenIntent, ...]:
        query = (
            "SELECT i.id, i.last_attempt FROM intents i JOIN nodes n "
            "ON n.intent = i.id AND n.attempt = i.last_attempt "
            "WHERE i.model = ? AND n.state = ? ORDER BY n.created_at DESC LIMIT 100"
        )

        def work(db: sqlite3.Connection) -> tuple[OpenIntent, ...]:
            rows = db.execute(query, (model, State.LOST.value))
            return tuple(OpenIntent(IntentId(row["id"]), row["last_attempt"]) for row in rows)

        return await self._run(work)

    async def last_attempt(self, intent: IntentId) -> int:
        def work(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT last_attempt FROM intents WHERE id = ?", (intent,)).fetchone()
            return int(row["last_attempt"]) if row else 0

        return await self._run(work)

    # events and decisions

    async def add_event(self, event: NodeEvent) -> None:
        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                sqlite_nodes.add_event(db, event)

        await self._run(work)

    async def events(
        self, *, node: NodeName | None = None, model: ModelName | None = None, limit: int = 200
    ) -> tuple[NodeEvent, ...]:
        where = "node = ?" if node else "model = ?" if model else "? IS NULL"
        query = f"SELECT * FROM events WHERE {where} ORDER BY id DESC LIMIT ?"

        def work(db: sqlite3.Connection) -> tuple[NodeEvent, ...]:
            rows = db.execute(query, (node or model, limit)).fetchall()
            return tuple(event_of(row) for row in reversed(rows))

        return await self._run(work)

    async def last_decision(self, model: ModelName) -> tuple[str, str] | None:
        query = "SELECT decision, plan FROM decisions WHERE model = ? ORDER BY seq DESC LIMIT 1"

        def work(db: sqlite3.Connection) -> tuple[str, str] | None:
            row = db.execute(query, (model,)).fetchone()
            return (row["decision"], row["plan"]) if row else None

        return await self._run(work)

    async def decisions(self, model: ModelName, limit: int) -> tuple[str, ...]:
        query = "SELECT decision FROM decisions WHERE model = ? ORDER BY seq DESC LIMIT ?"

        def work(db: sqlite3.Connection) -> tuple[str, ...]:
            rows = db.execute(query, (model, limit)).fetchall()
            return tuple(row["decision"] for row in reversed(rows))

        return await self._run(work)

    # models

    async def record(self, model: ModelName) -> ModelRecord:
        return await self._run(lambda db: sqlite_facts.record(db, model))

    async def set_paused(
        self, model: ModelName, actor: str | None, now: datetime, event: NodeEvent | None = None
    ) -> None:
        await self._run(lambda db: sqlite_facts.flag(db, "paused", model, actor, now, event))

    async def set_retired(
        self, model: ModelName, actor: str | None, now: datetime, event: NodeEvent | None = None
    ) -> None:
        await self._run(lambda db: sqlite_facts.flag(db, "retired", model, actor, now, event))

    async def set_resumed(self, model: ModelName, event: NodeEvent) -> None:
        await self._run(lambda db: sqlite_facts.resume(db, model, event))

    async def set_promotion(
        self, model: ModelName, promotion: Promotion | None, event: NodeEvent
    ) -> None:
        doc = PROMOTION.dump_json(promotion).decode() if promotion else None
        await self._run(lambda db: sqlite_facts.mark(db, model, "promotion", doc, event))

    async def promotions(self) -> Mapping[ModelName, Promotion]:
        return await self._run(sqlite_facts.promotions)

    async def set_override(
        self, model: ModelName, override: Override | None, event: NodeEvent
    ) -> None:
        doc = OVERRIDE.dump_json(override).decode() if override else None
        await self._run(lambda db: sqlite_facts.mark(db, model, "override", doc, event))

    # market

    async def backoffs(self) -> tuple[BackOff, ...]:
        return await self._run(sqlite_facts.backoffs)

    async def set_backoff(self, backoff: BackOff) -> None:
        await self._execute(
            "INSERT OR REPLACE INTO backoffs VALUES (?, ?, ?, ?, ?)",
            (
                backoff.key.type,
                backoff.key.location,
                iso(backoff.until),
                backoff.reason,
                backoff.failures,
            ),
        )

    async def clear_backoff(self, key: OfferKey) -> None:
        await self._execute(
            "DELETE FROM backoffs WHERE type = ? AND location = ?", (key.type, key.location)
        )

    async def add_boot(
        self, model: ModelName, key: OfferKey, seconds: float, now: datetime
    ) -> None:
        await self._execute(
            "INSERT INTO boots (model, type, location, seconds, at) VALUES (?, ?, ?, ?, ?)",
            (model, key.type, key.location, seconds, iso(now)),
        )

    async def boots(self, model: ModelName) -> Mapping[OfferKey, tuple[float, ...]]:
        return await self._run(lambda db: sqlite_facts.boots(db, model))

    async def add_listing_lag(self, node: NodeName, seconds: float, now: datetime) -> None:
        await self._execute(
            "INSERT OR IGNORE INTO listing_lags VALUES (?, ?, ?)", (node, seconds, iso(now))
        )

    async def listing_lags(self) -> ListingLags:
        return await self._run(sqlite_facts.listing_lags)

    # the deployment

    async def orphans(self) -> tuple[Orphan, ...]:
        return await self._run(sqlite_facts.orphans)

    async def set_orphans(self, orphans: Sequence[Orphan]) -> None:
        await self._run(lambda db: sqlite_facts.set_orphans(db, orphans))

    async def add_start(self, now: datetime) -> tuple[datetime, ...]:
        return await self._run(lambda db: sqlite_facts.add_start(db, now))

    async def meta(self, key: str) -> str | None:
        def work(db: sqlite3.Connection) -> str | None:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return str(row["value"]) if row else None

        return await self._run(work)

    async def set_meta(self, key: str, value: str) -> None:
        await self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    async def prune(self, before: datetime) -> int:
        return await self._run(lambda db: sqlite_facts.prune(db, before))

    async def back_up(self, to: Path) -> None:
        def work(db: sqlite3.Connection) -> None:
            try:
                copy_to(db, to)
            except (OSError, sqlite3.Error) as exc:
                raise StoreUnavailable(f"{to}: cannot copy the store there: {exc}") from exc

        await self._run(work)

    async def _execute(self, query: str, values: tuple[object, ...]) -> None:
        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                db.execute(query, values)

        await self._run(work)
