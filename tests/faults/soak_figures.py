"""What a soak measures: what the daemon holds, what its store holds, and whether either grows."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import statistics
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import FunctionType, ModuleType

# Kept for longer than a soak lasts, by design: a name is never given twice, and money stays countable.
OUTLASTING = {
    "intents": "one a launch, for ever: 70 bytes",
    "money": "one a launch and UTC day, for two months",
}
MONTH_DAYS = 30
MOST_GROWTH = 0.5  # of its own size, in a month
SLACK = {
    "tasks": 10.0,
    "fds": 5.0,
    "threads": 4.0,
    "rss_mb": 60.0,
    "objects": 5_000.0,
    "queued": 50.0,
    "store_kb": 512.0,
}
ROW_SLACK = 100.0


@dataclass(frozen=True, slots=True)
class Held:
    """What is reachable from one object: Python objects, and how much waits in queues."""

    objects: int
    queued: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        life: which process it was; what a process holds is compared with its own past alone.
        age_d: how old that process was.
        figures: of the process; `rows`: of the store, by table.
    """

    day: float
    life: int
    age_d: float
    figures: Mapping[str, float]
    rows: Mapping[str, float] = field(default_factory=dict)


def held_by(root: object, beyond: Iterable[object]) -> Held:
    """Walk all that an object holds, but not into what is `beyond` it, nor into code."""
    seen = {id(one) for one in beyond}
    seen.update(id(getattr(one, "__dict__", one)) for one in list(sys.modules.values()))
    todo, objects, queued = [root], 0, 0
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | asyncio.AbstractEventLoop):
            continue
        seen.add(id(one))
        objects += 1
        if isinstance(one, asyncio.Queue):
            queued += one.qsize()
        elif isinstance(one, deque) and one.maxlen is None:
            queued += len(one)
        if isinstance(one, FunctionType):  # its globals are a module's
            todo.extend(cell for cell in one.__closure__ or ())
        else:
            todo.extend(gc.get_referents(one))
    return Held(objects, queued)


def rows_of(db: sqlite3.Connection) -> dict[str, float]:
    """Rows per table."""
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {t: float(db.execute(f'SELECT count(*) FROM "{t}"').fetchone()[0]) for t in tables}


def store_kb(db: sqlite3.Connection) -> float:
    """What the database takes, as a file would."""
    pages, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return float(pages * size / 1024)


def fds_of(pid: int | str = "self") -> float:
    return float(len(os.listdir(f"/proc/{pid}/fd")))


def rss_mb_of(pid: int | str = "self") -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def growths(
    samples: Sequence[Sample], settled_d: float, retention_d: float, span_d: float = MONTH_DAYS
) -> list[str]:
    """What grows: by more in a month than half of its size and some slack.

    Args:
        settled_d: how old a process is before it is looked at.
        retention_d: how long rows are kept: the store is looked at from then on.
        span_d: another time than a month.
    """
    old = [one for one in samples if one.age_d >= settled_d]
    kept = [one for one in samples if one.day >= retention_d + settled_d]
    found = []
    for name in sorted({name for one in samples for name in one.figures}):
        within = kept if name == "store_kb" else old
        found += _grows(
            name,
            [(0 if name == "store_kb" else s.life, s.day, s.figures[name]) for s in within],
            SLACK[name.rpartition(" ")[2]],
            span_d,
        )
    for table in sorted({table for one in samples for table in one.rows} - set(OUTLASTING)):
        found += _grows(
            f"rows in {table}",
            [(0, s.day, s.rows.get(table, 0.0)) for s in kept],
            ROW_SLACK,
            span_d,
        )
    return found


def _grows(
    name: str, points: Sequence[tuple[int, float, float]], slack: float, span_d: float
) -> list[str]:
    """Theil and Sen's slope over pairs of looks at one process: one bad day moves it little."""
    slopes = [
        (there - here) / (later - at)
        for (life, at, here), (other, later, there) in combinations(points, 2)
        if life == other and later - at > 0
    ]
    if len(slopes) < 3:  # three looks
        return []
    slope, size = statistics.median(slopes), statistics.median(p[2] for p in points)
    if slope * span_d <= MOST_GROWTH * size + slack:
        return []
    return [
        f"{name} grows by {slope * span_d:.0f} in {span_d * 24:.0f} h, from {points[0][2]:.0f} to {points[-1][2]:.0f}"
    ]
