"""Takes the daemon's log while schedules run: silent but for what no fault may cause, a part that broke.

The daemon isolates a part that raises what nobody expected: it logs the trace and goes on. Here that is a bug found.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from autoscaler.errors import AutoscalerError
from tests.faults.hosts import Bug

_BROKEN = frozenset({"part_broken", "node_step_broken", "pass_broken", "source_read_failed"})


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Log nothing; gives what broke, as it comes, with where. A failure of a known kind is begun anew, and no bug."""
    broken: list[str] = []

    def keep(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        exc = sys.exc_info()[1]
        if event["event"] in _BROKEN and not isinstance(exc, AutoscalerError | Bug):
            where = traceback.extract_tb(exc.__traceback__)[-1] if exc is not None else None
            at = f" at {where.filename.rpartition('/')[2]}:{where.lineno}" if where else ""
            broken.append(f"{event['event']}: {type(exc).__name__}: {exc}{at}")
        raise structlog.DropEvent

    kept = structlog.get_config()
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(40),
        cache_logger_on_first_use=False,
    )
    try:
        yield broken
    finally:
        structlog.configure(**kept)
