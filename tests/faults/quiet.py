"""Takes the daemon's log while schedules run: silent but for what no fault may cause, a part that broke or a secret.

The daemon isolates a part that raises what nobody expected: it logs the trace and goes on. Here that is a bug found.
Every line, the finest ones too, is searched as it is before the filter of the real log, which would mask a secret.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from autoscaler.errors import AutoscalerError
from tests.faults.cloud import KEY
from tests.faults.hosts import Bug

_BROKEN = frozenset({"part_broken", "node_step_broken", "pass_broken", "source_read_failed"})
_SECRET = re.compile(rf"{KEY}|\b[0-9a-f]{{64}}\b")  # the key of the cloud, or the nonce of a node


@dataclass
class Heard:
    """What was logged and must not be.

    Attributes:
        broken: what broke, with where. A failure of a known kind is begun anew, and no bug.
        telling: lines with a secret.
    """

    broken: list[str] = field(default_factory=list)
    telling: list[str] = field(default_factory=list)


@contextmanager
def quiet() -> Iterator[Heard]:
    """Log nothing; gives what no log may say, as it comes."""
    heard = Heard()

    def keep(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        exc = sys.exc_info()[1]
        said = repr(event) if exc is None else f"{event!r} {_chain(exc)}"
        if _SECRET.search(said):
            heard.telling.append(said)
        if event["event"] in _BROKEN and not isinstance(exc, AutoscalerError | Bug):
            where = traceback.extract_tb(exc.__traceback__)[-1] if exc is not None else None
            at = f" at {where.filename.rpartition('/')[2]}:{where.lineno}" if where else ""
            heard.broken.append(f"{event['event']}: {type(exc).__name__}: {exc}{at}")
        raise structlog.DropEvent

    kept = structlog.get_config()
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(10),
        cache_logger_on_first_use=False,
    )
    try:
        yield heard
    finally:
        structlog.configure(**kept)


def _chain(exc: BaseException | None) -> str:
    """What a trace of it would say, its causes too."""
    said: list[str] = []
    while exc is not None and len(said) < 10:
        said.append(f"{type(exc).__name__}: {exc}")
        exc = exc.__cause__ or exc.__context__
    return "; ".join(said)
