"""The file under the store: one holder, never replaced, never half written, whatever happens to the process."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from autoscaler.domain.node import Node, State
from autoscaler.errors import StoreUnavailable
from autoscaler.store.sqlite import SqliteStore
from tests.nodes.life_parts import NOON, intent_id, node
from tests.store.parts import commit, event, lease_on

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, path: Path) -> subprocess.Popen[str]:
    """Run some lines in a process of its own, with the store's path in `path`."""
    head = f"import asyncio, os, sys\nfrom pathlib import Path\npath = Path({str(path)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_nobody_else_may_read_the_store(tmp_path: Path) -> None:
    path = tmp_path / "state" / "autoscaler.db"
    store = SqliteStore.open(path)
    await commit(store, await lease_on(store), node())
    modes = {found.name: mode(found) for found in path.parent.iterdir()}
    await store.close()

    assert mode(path.parent) == 0o700
    assert set(modes.values()) == {0o600}
    assert "autoscaler.db-wal" in modes


async def test_a_file_that_somebody_else_has_locked_is_waited_for_as_long_as_was_said(
    tmp_path: Path,
) -> None:
    store = SqliteStore.open(tmp_path / "autoscaler.db", wait=timedelta(milliseconds=1500))

    found = await store._run(lambda db: db.execute("PRAGMA busy_timeout").fetchone()[0])
    await store.close()

    assert found == 1500


async def test_the_file_is_written_through_to_the_disk_at_each_commit(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "autoscaler.db")

    def settings(db: sqlite3.Connection) -> tuple[str, int]:
        journal = db.execute("PRAGMA journal_mode").fetchone()[0]
        return str(journal), int(db.execute("PRAGMA synchronous").fetchone()[0])

    found = await store._run(settings)
    await store.close()

    assert found == ("wal", 2)


async def test_a_second_process_on_one_file_is_refused_and_told_who_holds_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "autoscaler.db"
    store = SqliteStore.open(path)
    second = python(
        "from autoscaler.store.sqlite import SqliteStore\n"
        "from autoscaler.errors import StoreUnavailable\n"
        "try:\n    SqliteStore.open(path)\n"
        "except StoreUnavailable as exc:\n    print(exc)\n",
        path,
    )
    said, _ = second.communicate(timeout=90)
    await store.close()

    assert f"held by process {os.getpid()}" in said
    assert "stop it first" in said
    await SqliteStore.open(path).close()


async def test_the_same_process_may_not_open_it_twice_either(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "autoscaler.db")

    with pytest.raises(StoreUnavailable, match="held by process"):
        SqliteStore.open(tmp_path / "autoscaler.db")
    await store.close()


@pytest.mark.parametrize("damage", ["header", "page", "cut"])
async def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "autoscaler.db"
    store = SqliteStore.open(path)
    lease = await lease_on(store)
    for number in range(60):
        await commit(store, lease, node(intent=intent_id(number)), id_=f"d{number}")
    await store.close()
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:16] = b"not a database!!"
    elif damage == "page":
        content[8192 : len(content) - 4096] = b"\xff" * (len(content) - 12288)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(bytes(content))

    with pytest.raises(StoreUnavailable, match="keep the file, restore a backup"):
        SqliteStore.open(path)

    assert path.read_bytes() == bytes(content)
    with pytest.raises(StoreUnavailable):  # the lock was given back: damage is what is said, again
        SqliteStore.open(path)


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.db"
    await SqliteStore.open(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()

    with pytest.raises(StoreUnavailable, match=r"schema 99, this one knows \d+.*upgrade"):
        SqliteStore.open(path)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreUnavailable, match="file: cannot write there"):
        SqliteStore.open(tmp_path / "file" / "autoscaler.db")


def test_a_store_that_is_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "autoscaler.db").mkdir()

    with pytest.raises(StoreUnavailable, match=r"autoscaler\.db: cannot open the store"):
        SqliteStore.open(tmp_path / "autoscaler.db")


FILLS = """
import resource, signal
from autoscaler.errors import StoreUnavailable
from autoscaler.store.sqlite import SqliteStore
from autoscaler.domain.node import State
from dataclasses import replace
from tests.nodes.life_parts import intent_id, node
from tests.store.parts import commit, event, lease_on

async def main():
    store = SqliteStore.open(path)
    lease = await lease_on(store)
    await commit(store, lease, node())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
    for number in range(1, 500):
        try:
            await commit(store, lease, node(intent=intent_id(number)), id_=f"d{number}")
        except StoreUnavailable as exc:
            print("full:", exc)
            break
    held = {row.name for row in await store.nodes()}
    told = {e.node for e in await store.events(limit=1000)}
    print("same:", held == told, "refused:", node(intent=intent_id(number)).name not in held)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await commit(store, lease, node(intent=intent_id(number)), id_="room again")
    print("kept:", len(await store.nodes()) == len(held) + 1)
    await store.close()

asyncio.run(main())
"""


async def test_a_full_disk_refuses_the_commit_whole_and_room_heals_it(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.db"

    process = python(FILLS, path)
    said, wrong = process.communicate(timeout=90)

    assert process.returncode == 0, wrong
    assert "full: the store could not commit" in said
    assert "same: True refused: True" in said
    assert "kept: True" in said
    store = SqliteStore.open(path)
    assert await store.nodes()
    await store.close()


WRITES = """
from autoscaler.store.sqlite import SqliteStore
from tests.nodes.life_parts import intent_id, node
from tests.store.parts import commit, lease_on

async def main():
    store = SqliteStore.open(path)
    lease = await lease_on(store)
    for number in range(100_000):
        await commit(store, lease, node(intent=intent_id(number)), id_=f"d{number}")
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_a_killed_writer_committed_is_there_and_nothing_half(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.db"
    writer = python(WRITES, path)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= 20:
            break
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate(timeout=90)
    last = int(([line, *rest.split()])[-1])

    store = SqliteStore.open(path)
    rows = await store.nodes()
    told = await store.events(limit=100_000)
    heir = await store.acquire(node().model, "heir", 0.0)
    row = rows[-1]
    await store.close()

    assert last <= len(rows) - 1 <= last + 1
    assert [e.node for e in told] == [r.name for r in sorted(rows, key=_number)]
    assert heir is not None
    assert heir.epoch == 2
    assert row.state is State.PLANNED


def _number(row: Node) -> int:
    number = 0
    for letter in row.intent:
        number = number * 26 + ord(letter) - ord("a")
    return number


async def test_a_cancelled_caller_leaves_no_transaction_open(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "autoscaler.db")
    lease = await lease_on(store)
    task = asyncio.create_task(commit(store, lease, node()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    other = node(intent=intent_id(1))
    await store.insert(lease, other, event(other))

    assert other in await store.nodes()
    assert (await store.ledger(NOON)).at == NOON
    await store.close()
