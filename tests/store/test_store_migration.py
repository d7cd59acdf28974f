"""Files that an older version wrote: brought up to date whole or not at all, with every row kept."""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from importlib import resources
from pathlib import Path

import pytest

from autoscaler.domain.ids import NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import State
from autoscaler.errors import StoreUnavailable
from autoscaler.store.protocol import ListingLags
from autoscaler.store.sqlite import SqliteStore
from autoscaler.store.sqlite_file import SCHEMA
from tests.nodes.life_parts import INTENT, KEY, MODEL, NOON, node
from tests.store.parts import event

AT = "2026-03-02T12:00:00.000000+00:00"
NAME = "as1-abcdefgh-aaaaaaaaaaaaa-1-llama"
# A node's row as version 1 wrote it, but for `tokens_per_s`, which it had not learned to say yet.
READY = {
    "name": NAME,
    "model": "llama",
    "intent": "aaaaaaaaaaaaa",
    "attempt": 1,
    "offer": {"type": "l40s-48gb.1x", "location": "us-east1-a"},
    "price_per_hour": {"usd": "1.25"},
    "state": "ready",
    "since": "2026-03-02T12:00:00Z",
    "created_at": "2026-03-02T12:00:00Z",
    "epoch": 1,
    "decision": "d1",
    "reason": "wanted",
    "units": 1.0,
    "replicas": 1,
    "concurrency": 8,
    "tensor_parallel": 1,
    "spec_hash": "ad24f7471984",
    "machine_id": "m1",
    "operation_id": None,
    "address": "203.0.113.7",
    "nonce": None,
    "host_key": "ssh-ed25519 AAAA",
    "endpoints": [{"id": NAME, "url": "http://203.0.113.7:8000", "capacity": 10, "weight": 8}],
    "disk_ids": [],
    "stage": None,
    "failure": None,
    "sent_at": "2026-03-02T12:00:00Z",
    "first_look_at": None,
    "booted_at": None,
    "verified_at": "2026-03-02T12:00:00Z",
    "ready_at": "2026-03-02T12:00:00Z",
    "unregistered_at": None,
    "last_delete_at": None,
    "deletes": 0,
    "gone_at": None,
    "cost": {"usd": "0"},
}


def schema(step: int) -> str:
    return resources.files("autoscaler.store").joinpath(f"schema_{step}.sql").read_text()


def first_version(path: Path, *more: str) -> Path:
    """A file as schema 1 had it, with a row in each table."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(schema(1))
        for table, *values in (
            ("meta", "project", "p1"),
            ("leases", "llama", "daemon-1", 3, 77),
            ("models", "llama", '{"a": 1}', "anna", AT, None, None),
            ("intents", "aaaaaaaaaaaaa", "llama", 1),
            ("nodes", NAME, "llama", "a" * 13, 1, "ready", 1, AT, None, json.dumps(READY)),
            ("events", 1, AT, "node_ready", "llama", NAME, "ready", "why", "daemon", "", "d1"),
            ("decisions", "d1", 1, "llama", AT, 1, "keep", 1, '{"id": "d1"}', "{}"),
            ("money", "old", "llama", "2026-03-02", "2.50"),
            ("launches", NAME, "llama", AT),
            ("backoffs", KEY.type, KEY.location, AT, "stock: none", 3),
            ("boots", 1, "llama", KEY.type, KEY.location, 131.0, AT),
            ("orphans", "m9", "as1-x", AT),
            ("starts", AT),
        ):
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
        for statement in more:
            db.execute(statement)
        db.execute("PRAGMA user_version=1")
    return path


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        return [f"version {version}", *db.iterdump()]


def names(folder: Path) -> set[str]:
    return {found.name for found in folder.iterdir()}


async def test_a_file_of_the_first_version_is_brought_up_to_date_with_every_row(
    tmp_path: Path,
) -> None:
    store = SqliteStore.open(first_version(tmp_path / "autoscaler.db"))

    assert await store.meta("project") == "p1"
    assert (await store.record(MODEL)).paused_by == "anna"
    assert (await store.record(MODEL)).memory == '{"a": 1}'
    assert [row.name for row in await store.nodes()] == [NAME]
    assert [e.kind for e in await store.events(node=NodeName(NAME))] == ["node_ready"]
    assert await store.last_decision(MODEL) == ('{"id": "d1"}', "{}")
    ledger = await store.ledger(NOON + timedelta(hours=1))
    assert ledger.spent_month() == Money.of("3.75")
    assert len(ledger.launches) == 1
    assert await store.last_attempt(INTENT) == 1
    assert [b.failures for b in await store.backoffs()] == [3]
    assert await store.boots(MODEL) == {KEY: (131.0,)}
    assert [o.machine_id for o in await store.orphans()] == ["m9"]
    assert len(await store.add_start(NOON + timedelta(minutes=1))) == 2
    lease = await store.acquire(MODEL, "daemon-2", 0.0)
    assert lease is not None
    assert lease.epoch == 4
    assert await store.listing_lags() == ListingLags()
    assert {m: p.by for m, p in (await store.promotions()).items()} == {MODEL: "upgrade"}
    assert (await store.record(MODEL)).override is None
    await store.close()
    assert dump(tmp_path / "autoscaler.db")[0] == f"version {SCHEMA}"


async def test_a_node_of_an_older_version_can_be_moved_on(tmp_path: Path) -> None:
    """Its row says less than a node can say now, and still is the row that was read."""
    store = SqliteStore.open(first_version(tmp_path / "autoscaler.db"))
    lease = await store.acquire(MODEL, "daemon-2", 0.0)
    assert lease is not None
    row = await store.node(NodeName(NAME))
    assert row is not None

    drained = replace(row, state=State.DRAINING, reason="idle")
    await store.advance(lease, row, drained, event(drained))

    assert await store.node(row.name) == drained
    with pytest.raises(StoreUnavailable, match="changed meanwhile"):
        await store.update(lease, row, replace(row, stage="x"))
    await store.close()


async def test_a_copy_is_set_aside_before_and_opens_as_the_old_version_left_it(
    tmp_path: Path,
) -> None:
    path = first_version(tmp_path / "autoscaler.db")
    before = dump(path)

    await SqliteStore.open(path).close()
    copy = tmp_path / "autoscaler.db.schema-1"

    assert dump(copy) == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert names(tmp_path) == {"autoscaler.db", "autoscaler.db.schema-1", "autoscaler.lock"}


async def test_a_file_that_is_new_or_up_to_date_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.db"
    await SqliteStore.open(path).close()
    await SqliteStore.open(path).close()

    assert names(tmp_path) == {"autoscaler.db", "autoscaler.lock"}


async def test_a_copy_that_cannot_be_made_stops_the_migration(tmp_path: Path) -> None:
    path = first_version(tmp_path / "autoscaler.db")
    before = dump(path)
    (tmp_path / "autoscaler.db.schema-1").mkdir()

    with pytest.raises(StoreUnavailable, match=r"schema-1: cannot copy the store there.*make room"):
        SqliteStore.open(path)

    assert dump(path) == before


async def test_a_step_that_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """The name of the step's index is taken: its first statement has succeeded when the second fails."""
    taken = "CREATE INDEX listing_lags_seconds ON boots (seconds)"
    path = first_version(tmp_path / "autoscaler.db", taken)
    before = dump(path)

    for _ in range(2):  # the lock was given back, and nothing half done is in the way
        with pytest.raises(StoreUnavailable, match=r"from schema 1 to 2 .*it is as it was"):
            SqliteStore.open(path)

    assert dump(path) == before
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX listing_lags_seconds")
    store = SqliteStore.open(path)
    assert [row.name for row in await store.nodes()] == [NAME]
    await store.close()


def test_every_step_of_the_schema_is_shipped_and_none_beyond() -> None:
    steps = [
        f.name for f in resources.files("autoscaler.store").iterdir() if f.name.endswith("sql")
    ]

    assert sorted(steps) == [f"schema_{step}.sql" for step in range(1, SCHEMA + 1)]


async def test_the_largest_lags_outlive_what_is_pruned_and_one_launch_counts_once(
    store: SqliteStore,
) -> None:
    for number in range(60):
        name = NodeName(f"n{number}")
        await store.add_listing_lag(name, float(number), NOON + timedelta(seconds=number))
        await store.add_listing_lag(name, 999.0, NOON)

    assert await store.listing_lags() == ListingLags(60, 59.0)
    await store.prune(NOON + timedelta(days=99))

    assert await store.listing_lags() == ListingLags(50, 59.0)


async def test_an_unknown_row_is_not_written(store: SqliteStore) -> None:
    lease = await store.acquire(MODEL, "daemon-1", 0.0)
    assert lease is not None

    with pytest.raises(StoreUnavailable, match="look at it again"):
        await store.update(lease, node(), replace(node(), stage="x"))
