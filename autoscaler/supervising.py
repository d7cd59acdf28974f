"""Keeps a part of the daemon running, for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from autoscaler.clock import Clock
from autoscaler.errors import ConfigError

log = structlog.get_logger(__name__)

_PAUSE_S = 5.0  # before a broken part begins anew


async def supervised(name: str, part: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run a part for ever. One that breaks is logged and begins anew; only a wrong config ends the daemon."""
    while True:
        try:
            await part()
            return
        except ConfigError:
            raise
        except Exception:
            log.exception("part_broken", part=name)
            await clock.sleep(_PAUSE_S)
