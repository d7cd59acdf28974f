"""The simulated store: the real SQLite store over a database in memory, reached by one life at a time, or by two.

The database outlives the daemon. Its troubles are a disk's: slow, full, locked by somebody else, and a commit whose
answer is lost. Reads between two writes are answered from memory: nothing can have changed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import Node
from autoscaler.errors import StoreUnavailable
from autoscaler.store.protocol import Admission, Store
from autoscaler.store.rows import NODE
from autoscaler.store.sqlite import SqliteStore
from autoscaler.store.sqlite_file import SCHEMA, FileLock
from tests.faults.lives import Life

_READS = frozenset(
    {
        "fleet",
        "nodes",
        "node",
        "ledger",
        "open_intents",
        "last_attempt",
        "events",
        "last_decision",
        "decisions",
        "record",
        "promotions",
        "backoffs",
        "boots",
        "listing_lags",
        "orphans",
        "meta",
    }
)

Stored = Callable[[Life, str, tuple[Any, ...], object], None]


@lru_cache(maxsize=1)
def _template() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    for step in range(1, SCHEMA + 1):
        db.executescript(
            resources.files("autoscaler.store").joinpath(f"schema_{step}.sql").read_text()
        )
    return db


class StoreSide:
    """The database as the world has it.

    Attributes:
        trouble: "full", "locked", or "answers lost"; "" for none.
        slow_s: the most that a call takes.
        moved: told of each row that was written with its state.
    """

    def __init__(self, lease_time: timedelta, told: Stored) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _template().backup(self.db)
        self.db.execute("PRAGMA foreign_keys=ON")
        self.store = SqliteStore(self.db, FileLock(Path("/nowhere")), lease_time)
        self.told = told
        self.trouble = ""
        self.slow_s = 0.0
        self.moved: Callable[[Node], None] = lambda row: None
        self._rows: dict[NodeName, Node] = {}
        self._docs: dict[str, Node] = {}
        self._rows_at = -1
        self._cached: dict[tuple[object, ...], object] = {}
        self._cached_at = -1

    def open(self, life: Life) -> Store:
        """One life's way to it."""
        return cast(Store, _Handle(self, life))

    def remember(self, key: str, value: str) -> None:
        """A fact from before this world began."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        self.db.close()

    def rows(self) -> dict[NodeName, Node]:
        """Every row there ever was, by name."""
        if self._rows_at != self.db.total_changes:
            self._rows_at = self.db.total_changes
            self._rows = {
                row.name: row
                for (doc,) in self.db.execute("SELECT doc FROM nodes ORDER BY created_at, name")
                for row in (self._row(doc),)
            }
        return self._rows

    def _row(self, doc: str) -> Node:
        row = self._docs.get(doc)
        if row is None:
            row = self._docs[doc] = NODE.validate_json(doc)
        return row

    async def call(
        self, life: Life, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        is_read = name in _READS
        if is_read and not self.slow_s and not self.trouble and life.die_after is None:
            if self._cached_at != self.db.total_changes:
                self._cached.clear()
                self._cached_at = self.db.total_changes
            key = (name, args, *kwargs.values())
            if key in self._cached:
                result = self._cached[key]
            else:
                seen = self.db.total_changes
                result = await self._work(name, args, kwargs)
                if seen == self._cached_at:
                    self._cached[key] = result
            await life.cross("store read")
            return result
        await life.cross("store", name)
        await asyncio.sleep(self.slow_s)
        if self.trouble == "locked":
            await asyncio.sleep(5.0)
            raise StoreUnavailable("the store could not commit: database is locked")
        if self.trouble == "full" and not is_read:
            raise StoreUnavailable("the store could not commit: database or disk is full")
        life.crossing("store commits", name)
        result = await self._work(name, args, kwargs)
        if not is_read:
            self.told(life, name, args, result)
            for row in _written(name, args, result):
                self.moved(row)
        await life.cross("store answered", name)
        if self.trouble == "answers lost" and not is_read:
            raise StoreUnavailable("the store could not commit: disk I/O error")
        return result

    async def _work(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        method = cast("Callable[..., Awaitable[object]]", getattr(self.store, name))
        return await method(*args, **kwargs)


def _written(name: str, args: tuple[Any, ...], result: object) -> Iterable[Node]:
    """The rows whose state a call may have changed, as they are now."""
    if name == "advance":
        return (args[2],)
    if name == "insert":
        return (args[1],)
    if isinstance(result, Admission):
        return (*result.admitted, *(after for _, after, _ in args[4]))
    return ()


class _Handle:
    """Every method of a `Store`, through one life."""

    def __init__(self, side: StoreSide, life: Life) -> None:
        self._side = side
        self._life = life

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        side, life = self._side, self._life

        async def call(*args: Any, **kwargs: Any) -> object:
            return await side.call(life, name, args, kwargs)

        self.__dict__[name] = call
        return call

    async def close(self) -> None:
        """The database outlives its users."""
