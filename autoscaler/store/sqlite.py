"""The embedded store: one SQLite file, one process, one thread that writes it.

Each method is one function run in that thread, so that a cancelled caller never leaves a transaction open.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import IntentId, MachineId, ModelName, NodeName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import CLOSED, Fleet, Node, NodeEvent, State
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.domain.plan import Plan
from autoscaler.errors import InvariantBroken, LeaseLost, StoreUnavailable
from autoscaler.store.protocol import (
    LAUNCH_MEMORY,
    Admission,
    Admit,
    Lease,
    Ledger,
    ModelRecord,
    OpenIntent,
    Orphan,
)
from autoscaler.store.rows import (
    DECISION,
    NODE,
    PLAN,
    backoff_of,
    closed_at,
    cost_by_day,
    event_of,
    event_values,
    instant,
    iso,
    node_of,
)
from autoscaler.store.sqlite_file import FileLock, open_database

T = TypeVar("T")
_KEPT_BOOTS = 50
_OPEN = "closed_at IS NULL"


class SqliteStore:
    """A `Store` in one SQLite file. Holds the file's lock from `open` to `close`."""

    def __init__(self, db: sqlite3.Connection, lock: FileLock, lease_time: timedelta) -> None:
        self._db = db
        self._db.row_factory = sqlite3.Row
        self._lock = lock
        self._lease_s = lease_time.total_seconds()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    @classmethod
    def open(cls, path: Path, lease_time: timedelta = timedelta(seconds=30)) -> SqliteStore:
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
            return cls(open_database(path), lock, lease_time)
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
            with _transaction(db):
                row = db.execute(
                    "INSERT INTO leases VALUES (?, ?, 1, 1) ON CONFLICT (model) DO UPDATE SET "
                    "holder = excluded.holder, epoch = epoch + 1, beat = beat + 1 RETURNING epoch",
                    (model, holder),
                ).fetchone()
            return Lease(model, holder, int(row["epoch"]), boot_s + self._lease_s * 2 / 3)

        return await self._run(work)

    async def renew(self, lease: Lease, boot_s: float) -> Lease:
        def work(db: sqlite3.Connection) -> Lease:
            with _transaction(db):
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
        return Fleet(await self._nodes(f"model = ? AND {_OPEN}", (model,)))

    async def nodes(self, *, closed_since: datetime | None = None) -> tuple[Node, ...]:
        if closed_since is None:
            return await self._nodes(_OPEN, ())
        return await self._nodes(f"{_OPEN} OR closed_at >= ?", (iso(closed_since),))

    async def _nodes(self, where: str, values: tuple[str, ...]) -> tuple[Node, ...]:
        query = f"SELECT doc FROM nodes WHERE {where} ORDER BY created_at, name"
        return await self._run(lambda db: tuple(map(node_of, db.execute(query, values))))

    async def node(self, name: NodeName) -> Node | None:
        found = await self._nodes("name = ?", (name,))
        return found[0] if found else None

    async def ledger(self, now: datetime) -> Ledger:
        return await self._run(lambda db: _ledger(db, now))

    async def commit_plan(
        self,
        lease: Lease,
        decision: Decision,
        plan: Plan,
        intents: Sequence[Node],
        releases: Sequence[tuple[Node, Node, NodeEvent]],
        memory: str,
        admit: Admit,
    ) -> Admission:
        def work(db: sqlite3.Connection) -> Admission:
            with _transaction(db):
                _check_epoch(db, lease)
                for before, after, event in releases:
                    _write(db, before, after, event)
                admission = admit(_ledger(db, decision.at), intents) if intents else Admission(())
                for node in admission.admitted:
                    _insert_intent(db, node)
                acted = bool(releases or admission.admitted)
                _record_decision(db, lease, decision, plan, memory, acted=acted)
            return admission

        return await self._run(work)

    async def advance(self, lease: Lease, before: Node, after: Node, event: NodeEvent) -> None:
        def work(db: sqlite3.Connection) -> None:
            with _transaction(db):
                _check_epoch(db, lease)
                _write(db, before, after, event)

        await self._run(work)

    async def update(self, lease: Lease, before: Node, after: Node) -> None:
        def work(db: sqlite3.Connection) -> None:
            with _transaction(db):
                _check_epoch(db, lease)
                _write(db, before, after, None)

        await self._run(work)

    async def insert(self, lease: Lease, node: Node, event: NodeEvent) -> None:
        def work(db: sqlite3.Connection) -> None:
            with _transaction(db):
                _check_epoch(db, lease)
                _insert(db, node)
                _add_event(db, event)

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
            with _transaction(db):
                _add_event(db, event)

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
        def work(db: sqlite3.Connection) -> ModelRecord:
            row = db.execute("SELECT * FROM models WHERE model = ?", (model,)).fetchone()
            if row is None:
                return ModelRecord(model)
            return ModelRecord(
                model=model,
                memory=row["memory"],
                paused_by=row["paused_by"],
                paused_at=instant(row["paused_at"]) if row["paused_at"] else None,
                retired_by=row["retired_by"],
                retired_at=instant(row["retired_at"]) if row["retired_at"] else None,
            )

        return await self._run(work)

    async def set_paused(self, model: ModelName, actor: str | None, now: datetime) -> None:
        await self._set_flag("paused", model, actor, now)

    async def set_retired(self, model: ModelName, actor: str | None, now: datetime) -> None:
        await self._set_flag("retired", model, actor, now)

    async def _set_flag(
        self, flag: str, model: ModelName, actor: str | None, now: datetime
    ) -> None:
        at = iso(now) if actor else None
        query = (
            f"INSERT INTO models (model, {flag}_by, {flag}_at) VALUES (?, ?, ?) "
            f"ON CONFLICT (model) DO UPDATE SET {flag}_by = excluded.{flag}_by, "
            f"{flag}_at = excluded.{flag}_at"
        )
        await self._execute(query, (model, actor, at))

    # market

    async def backoffs(self) -> tuple[BackOff, ...]:
        query = "SELECT * FROM backoffs ORDER BY type, location"
        return await self._run(lambda db: tuple(map(backoff_of, db.execute(query))))

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
        query = "SELECT type, location, seconds FROM boots WHERE model = ? ORDER BY id DESC LIMIT ?"

        def work(db: sqlite3.Connection) -> dict[OfferKey, tuple[float, ...]]:
            boots: dict[OfferKey, tuple[float, ...]] = {}
            for row in reversed(db.execute(query, (model, _KEPT_BOOTS * 20)).fetchall()):
                key = OfferKey(row["type"], row["location"])
                boots[key] = (*boots.get(key, ()), float(row["seconds"]))[-_KEPT_BOOTS:]
            return boots

        return await self._run(work)

    # the deployment

    async def orphans(self) -> tuple[Orphan, ...]:
        def work(db: sqlite3.Connection) -> tuple[Orphan, ...]:
            rows = db.execute("SELECT * FROM orphans ORDER BY machine_id")
            return tuple(
                Orphan(MachineId(r["machine_id"]), r["name"], instant(r["first_seen"]))
                for r in rows
            )

        return await self._run(work)

    async def set_orphans(self, orphans: Sequence[Orphan]) -> None:
        def work(db: sqlite3.Connection) -> None:
            with _transaction(db):
                db.execute("DELETE FROM orphans")
                db.executemany(
                    "INSERT INTO orphans VALUES (?, ?, ?)",
                    [(o.machine_id, o.name, iso(o.first_seen)) for o in orphans],
                )

        await self._run(work)

    async def add_start(self, now: datetime) -> tuple[datetime, ...]:
        def work(db: sqlite3.Connection) -> tuple[datetime, ...]:
            with _transaction(db):
                db.execute("INSERT OR IGNORE INTO starts VALUES (?)", (iso(now),))
                db.execute("DELETE FROM starts WHERE at < ?", (iso(now - timedelta(days=1)),))
            rows = db.execute("SELECT at FROM starts ORDER BY at")
            return tuple(instant(row["at"]) for row in rows)

        return await self._run(work)

    async def meta(self, key: str) -> str | None:
        def work(db: sqlite3.Connection) -> str | None:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return str(row["value"]) if row else None

        return await self._run(work)

    async def set_meta(self, key: str, value: str) -> None:
        await self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    async def prune(self, before: datetime) -> int:
        def work(db: sqlite3.Connection) -> int:
            limit = iso(before)
            told = f"SELECT name FROM nodes WHERE {_OPEN}"  # an open node's story is kept whole
            with _transaction(db):
                gone = [
                    db.execute(f"DELETE FROM {table} WHERE {condition}", (limit,)).rowcount
                    for table, condition in (
                        ("nodes", "closed_at < ?"),
                        ("events", f"at < ? AND (node IS NULL OR node NOT IN ({told}))"),
                        ("decisions", "at < ?"),
                        ("launches", "at < ?"),
                        ("boots", "at < ?"),
                    )
                ]
            return sum(gone)

        return await self._run(work)

    async def _execute(self, query: str, values: tuple[object, ...]) -> None:
        def work(db: sqlite3.Connection) -> None:
            with _transaction(db):
                db.execute(query, values)

        await self._run(work)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _check_epoch(db: sqlite3.Connection, lease: Lease) -> None:
    row = db.execute("SELECT holder, epoch FROM leases WHERE model = ?", (lease.model,)).fetchone()
    if row is None or row["epoch"] != lease.epoch or row["holder"] != lease.holder:
        raise LeaseLost(f"{lease.model}: epoch {lease.epoch} is over")


def _write(db: sqlite3.Connection, before: Node, after: Node, event: NodeEvent | None) -> None:
    """Replace a row that still equals `before`; whoever changed it in between wins."""
    done = db.execute(
        "UPDATE nodes SET state = ?, closed_at = ?, doc = ? WHERE name = ? AND doc = ?",
        (after.state.value, closed_at(after), _doc(after), before.name, _doc(before)),
    )
    if done.rowcount != 1:
        raise StoreUnavailable(f"{before.name}: changed meanwhile; look at it again")
    if event is not None:
        _add_event(db, event)
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


def _insert(db: sqlite3.Connection, node: Node) -> None:
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


def _insert_intent(db: sqlite3.Connection, node: Node) -> None:
    """Record an attempt. Attempt numbers of an intent only grow, from the intent's own counter."""
    row = db.execute(
        "INSERT INTO intents VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "last_attempt = excluded.last_attempt WHERE excluded.last_attempt > last_attempt "
        "RETURNING last_attempt",
        (node.intent, node.model, node.attempt),
    ).fetchone()
    if row is None:
        raise InvariantBroken(f"{node.name}: attempt {node.attempt} of its intent was used before")
    _insert(db, node)
    db.execute(
        "INSERT INTO launches VALUES (?, ?, ?)", (node.name, node.model, iso(node.created_at))
    )
    _add_event(
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


def _add_event(db: sqlite3.Connection, event: NodeEvent) -> None:
    db.execute(
        "INSERT INTO events (at, kind, model, node, state, cause, actor, detail, decision) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        event_values(event),
    )


def _record_decision(
    db: sqlite3.Connection,
    lease: Lease,
    decision: Decision,
    plan: Plan,
    memory: str,
    *,
    acted: bool,
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


def _ledger(db: sqlite3.Connection, now: datetime) -> Ledger:
    nodes = tuple(map(node_of, db.execute(f"SELECT doc FROM nodes WHERE {_OPEN}")))
    launches = db.execute(
        "SELECT model, at FROM launches WHERE at >= ? ORDER BY at", (iso(now - LAUNCH_MEMORY),)
    )
    return Ledger(
        at=now,
        nodes=nodes,
        closed_today=_closed(db, now.date().isoformat()),
        closed_month=_closed(db, now.date().replace(day=1).isoformat()),
        launches=tuple((ModelName(row["model"]), instant(row["at"])) for row in launches),
    )


def _closed(db: sqlite3.Connection, first_day: str) -> dict[ModelName, Money]:
    spent: dict[ModelName, Money] = {}
    for row in db.execute("SELECT model, usd FROM money WHERE day >= ?", (first_day,)):
        model = ModelName(row["model"])
        spent[model] = spent.get(model, ZERO) + Money.of(row["usd"])
    return spent


def _doc(node: Node) -> str:
    return NODE.dump_json(node).decode()
