"""The SQLite file: who may open it, with which settings, and how old files are brought up to date.

One process holds the file, one connection writes it: SQLite before 3.51.3 can corrupt a WAL that several connections
checkpoint. `synchronous=FULL` costs 2 ms a commit and is what makes an intent survive a power loss.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from importlib import resources
from pathlib import Path

from autoscaler.errors import StoreUnavailable

SCHEMA = 3


class FileLock:
    """An advisory lock beside the store: the second daemon on one file exits, commands ask the first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StoreUnavailable: another process has it.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.read(fd, 32).decode(errors="replace").strip()
            os.close(fd)
            raise StoreUnavailable(
                f"{self._path}: held by process {holder or 'unknown'}: one daemon holds one store; "
                "stop it first, or ask it (autoscaler status)"
            ) from exc
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; the file stays, so that two processes never lock two files of one name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def open_database(path: Path, wait: timedelta = timedelta(seconds=5)) -> sqlite3.Connection:
    """Open the store's file, checked and migrated; make it when there is none.

    Args:
        wait: how long somebody else may hold the file locked, a backup say, before a call fails.

    Raises:
        StoreUnavailable: unreadable, damaged, or written by a newer version. Never replaced by an empty one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        os.chmod(path, 0o600)
    except (OSError, sqlite3.Error) as exc:
        raise StoreUnavailable(f"{path}: cannot open the store: {exc}") from exc
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA busy_timeout={round(wait / timedelta(milliseconds=1))}")
        db.execute("PRAGMA foreign_keys=ON")
        verdict = db.execute("PRAGMA quick_check").fetchone()[0]
        if verdict != "ok":
            raise StoreUnavailable(
                f"{path}: the store is damaged ({verdict}): keep the file, restore a backup, and "
                "compare it with `autoscaler cloud vms`; an empty store is never started in its place"
            )
        _migrate(db, path)
    except sqlite3.Error as exc:
        db.close()
        raise StoreUnavailable(
            f"{path}: not a usable store ({exc}): keep the file, restore a backup or name another state_dir"
        ) from exc
    except StoreUnavailable:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit what is written within, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring an older file up to date, one transaction a step, after a copy of it was set aside."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA:
        raise StoreUnavailable(
            f"{path}: written by a newer version (schema {version}, this one knows {SCHEMA}): upgrade"
        )
    if 0 < version < SCHEMA:
        _set_aside(db, path, version)
    for step in range(version + 1, SCHEMA + 1):
        script = resources.files("autoscaler.store").joinpath(f"schema_{step}.sql").read_text()
        try:
            # executescript commits what was open; BEGIN inside the script makes the step one transaction
            db.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={step};\nCOMMIT;")
        except sqlite3.Error as exc:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise StoreUnavailable(
                f"{path}: cannot be brought from schema {step - 1} to {step} ({exc}): it is as it was; "
                "mend what is said, or start the version that wrote it"
            ) from exc


def _set_aside(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Copy the file as it is, for who wants the older version back."""
    kept = path.with_name(f"{path.name}.schema-{version}")
    try:
        copy_to(db, kept)
    except (OSError, sqlite3.Error) as exc:
        raise StoreUnavailable(
            f"{kept}: cannot copy the store there before it is migrated ({exc}): make room"
        ) from exc


def copy_to(db: sqlite3.Connection, kept: Path) -> None:
    """Copy an open database whole, mode 0600. Never half a copy under the final name.

    Raises:
        OSError, sqlite3.Error: it could not be copied; what stood under that name still stands.
    """
    half = kept.with_name(f"{kept.name}.half")
    try:
        half.unlink(missing_ok=True)
        os.close(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(half)) as copy:
            db.backup(copy)
        half.replace(kept)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
