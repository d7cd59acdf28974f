"""The daily copies of the store: whole, private, few, and never in the way."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from apscheduler.triggers.cron import CronTrigger

from autoscaler import backups
from autoscaler.backups import Backups, every_day
from autoscaler.store.sqlite import SqliteStore
from tests.gateway.front_parts import eventually
from tests.nodes.life_parts import NOON, node
from tests.store.parts import commit, lease_on


class SetClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def boot_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


def half_copies(folder: Path) -> list[Path]:
    return list(folder.glob("*.half"))


async def never(at: str, wake: Callable[[], None]) -> None:
    await asyncio.Event().wait()


async def test_a_copy_opens_as_the_store_that_it_was(store: SqliteStore, tmp_path: Path) -> None:
    row = node()
    await commit(store, await lease_on(store), row)
    await Backups(store, SetClock(), tmp_path / "backups", keep=2).copy()
    [path] = (tmp_path / "backups").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    restored = SqliteStore.open(path)
    try:
        assert [found.name for found in await restored.nodes()] == [row.name]
    finally:
        await restored.close()


async def test_only_the_newest_copies_stay_and_foreign_files_are_left_alone(
    store: SqliteStore, tmp_path: Path
) -> None:
    clock, folder = SetClock(), tmp_path / "backups"
    folder.mkdir(mode=0o700)
    (folder / "autoscaler-before-the-move.db").touch()
    kept = Backups(store, clock, folder, keep=2)
    for _ in range(4):
        await kept.copy()
        clock.at += timedelta(days=1)
    assert sorted(path.name for path in folder.iterdir()) == [
        (NOON + timedelta(days=2)).strftime("autoscaler-%Y%m%dT%H%M%SZ.db"),
        (NOON + timedelta(days=3)).strftime("autoscaler-%Y%m%dT%H%M%SZ.db"),
        "autoscaler-before-the-move.db",
    ]


async def test_a_copy_that_cannot_be_made_costs_no_older_one_and_is_said(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, folder = SetClock(), tmp_path / "backups"
    kept = Backups(store, clock, folder, keep=1)
    await kept.copy()
    [before] = folder.iterdir()

    def full(_: Path) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("autoscaler.store.sqlite.copy_to", lambda db, to: full(to))
    clock.at += timedelta(days=1)
    with structlog.testing.capture_logs() as lines:
        await kept.copy()
    assert [line["event"] for line in lines] == ["store_not_copied"]
    assert "disk is full" in lines[0]["why"]
    assert list(folder.iterdir()) == [before]
    assert kept.last == NOON


async def test_an_old_copy_is_followed_at_once_and_a_young_one_at_the_time_of_day(
    store: SqliteStore, tmp_path: Path
) -> None:
    clock, folder, rung = SetClock(), tmp_path / "backups", asyncio.Event()
    asked: list[Callable[[], None]] = []

    async def calendar(at: str, wake: Callable[[], None]) -> None:
        assert at == "03:17"
        asked.append(wake)
        rung.set()
        await asyncio.Event().wait()

    def copies() -> int:
        return len(list(folder.glob("*.db")))

    async def until(count: int) -> None:
        await eventually(lambda: copies() == count)

    running = asyncio.create_task(Backups(store, clock, folder, keep=5).run("03:17", calendar))
    await until(1)  # there was none
    running.cancel()
    clock.at += timedelta(hours=23)
    again = Backups(store, clock, folder, keep=5)
    assert again.last == NOON
    running = asyncio.create_task(again.run("03:17", calendar))
    rung.clear()
    await rung.wait()
    assert copies() == 1
    asked[-1]()
    await until(2)
    running.cancel()


async def test_none_are_made_where_none_are_to_be_kept(store: SqliteStore, tmp_path: Path) -> None:
    await Backups(store, SetClock(), tmp_path / "backups", keep=0).run("03:17", never)
    assert not (tmp_path / "backups").exists()


async def test_the_calendar_rings_at_its_time_of_day_in_utc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[CronTrigger] = []
    rung = asyncio.Event()

    class Soon(CronTrigger):  # type: ignore[misc]  # apscheduler has no types
        """Says when it would ring, and rings now."""

        def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
            made.append(super().get_next_fire_time(None, NOON))
            return now if previous is None else None

    monkeypatch.setattr(backups, "CronTrigger", Soon)
    running = asyncio.create_task(every_day("03:17", rung.set))
    await rung.wait()
    running.cancel()
    tomorrow = (NOON + timedelta(days=1)).replace(hour=3, minute=17, second=0, microsecond=0)
    assert made[0] == tomorrow.astimezone(UTC)


async def test_a_failed_copy_leaves_no_half_one(store: SqliteStore, tmp_path: Path) -> None:
    blocked = tmp_path / "a.db"
    blocked.mkdir()
    with pytest.raises(Exception, match=r"a\.db: cannot copy the store there"):
        await store.back_up(blocked)
    assert not half_copies(tmp_path)
