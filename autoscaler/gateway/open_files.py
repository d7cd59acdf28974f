"""Room for connections: each needs two open files, the client's and the node's."""

from __future__ import annotations

import contextlib
import resource

import structlog

log = structlog.get_logger(__name__)

_OWN = 256  # listeners, logs, the daemon's connections


def connections_that_fit(wanted: int) -> int:
    """Raise the limit of open files as far as it goes; say how many of the connections wanted fit.

    Beyond it the kernel would refuse to accept, and then nobody could be told why.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _OWN
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    return max(1, (soft - _OWN) // 2)


def say_if_bounded(wanted: int, fits: int) -> None:
    """Warn when fewer connections fit than were wanted."""
    if fits < wanted:
        log.warning(
            "connections_bounded_by_open_files",
            wanted=wanted,
            allowed=fits,
            hint=f"raise LimitNOFILE (ulimit -n) to {2 * wanted + _OWN}",
        )
