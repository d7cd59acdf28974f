"""Reads one HAProxy backend over the runtime socket.

Role: front. Its queue is the backend's and the servers' queues, its running what its servers work on. The server that
stands in at zero nodes (`backup`: the activator) is left out of all three figures, since what was passed to it is
counted there. HAProxy's own averages are over the last 1024 requests, however old these are: never taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from autoscaler.balance.haproxy_socket import StatRow, show_info, show_stat
from autoscaler.domain.signals import FigureName
from autoscaler.errors import BalancerUnavailable
from autoscaler.observe import dialect as d
from autoscaler.observe.draft import Draft
from autoscaler.observe.latency import LatencySettings
from autoscaler.observe.pages import tracker_for
from autoscaler.observe.protocol import Reading, Target
from autoscaler.observe.series import SeriesKey

_GIVES = frozenset({FigureName.WAITING, FigureName.RUNNING, FigureName.ARRIVALS})
_TO_ACTIVATOR = "to_activator"


class HaproxySource:
    """Satisfies `Source` by `show stat` of one backend."""

    def __init__(
        self,
        name: str,
        socket: Path,
        backend: str,
        *,
        timeout_s: float = 3.0,
        window_s: float = 60.0,
        interval_s: float = 15.0,
    ) -> None:
        self._name = name
        self._socket = socket
        self._backend = backend
        self._timeout_s = timeout_s
        self._tracker = tracker_for(
            LatencySettings(timedelta(seconds=window_s)), window_s, interval_s
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def gives(self) -> frozenset[FigureName]:
        return _GIVES

    async def close(self) -> None:
        """Each command has a connection of its own."""

    async def read(self, target: Target, now: datetime) -> Reading:
        """Read the backend's rows and how long its process has run."""
        draft = Draft(self._name, _GIVES, now)
        try:
            async with asyncio.timeout(self._timeout_s):
                info = await show_info(self._socket)
                rows = await show_stat(self._socket, self._backend)
        except TimeoutError:
            return draft.finish(otherwise=f"no answer within {self._timeout_s:g} s")
        except (BalancerUnavailable, ValueError) as exc:
            return draft.finish(otherwise=str(exc))
        backend = next((row for row in rows if row.is_backend), None)
        if backend is None:
            return draft.finish(otherwise=f"HAProxy has no backend {self._backend!r}")
        servers = [row for row in rows if not row.is_backend and not row.is_frontend]
        waiting, running = _in_system(backend, servers)
        draft.give(FigureName.WAITING, waiting)
        draft.give(FigureName.RUNNING, running)
        self._tracker.observe(
            self._name,
            _counters(backend, servers),
            now.timestamp(),
            uptime_s=info.uptime_s,
            start_mark=info.pid,
        )
        came = self._draw_arrivals(draft, target, now)
        return draft.finish(idle=came == 0 and waiting == 0 and running == 0)

    def _draw_arrivals(self, draft: Draft, target: Target, now: datetime) -> float | None:
        window = self._tracker.window(target.window.total_seconds(), now.timestamp())
        if window.trouble is not None:
            draft.miss(FigureName.ARRIVALS, window.trouble)
            return None
        came = max(0.0, window.increase(d.ARRIVED) - window.increase(_TO_ACTIVATOR))
        draft.give(FigureName.ARRIVALS, came / window.span_s, is_partial=window.is_partial)
        return came


def _in_system(backend: StatRow, servers: Sequence[StatRow]) -> tuple[int, int]:
    """How many requests wait, for any server or for one, and how many are on one that is not the activator."""
    nodes = [row for row in servers if not row.is_backup]
    waiting = backend.qcur + sum(row.qcur for row in servers)
    return waiting, sum(row.scur for row in nodes)


def _counters(backend: StatRow, servers: Sequence[StatRow]) -> dict[SeriesKey, float]:
    requests = backend.stot if backend.req_tot is None else backend.req_tot
    passed_on = sum(row.stot for row in servers if row.is_backup)
    return {
        SeriesKey(d.ARRIVED): float(requests),
        SeriesKey(_TO_ACTIVATOR): float(passed_on),
    }
