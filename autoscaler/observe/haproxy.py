"""Reads one HAProxy backend, over the runtime socket or, where HAProxy is on another host, on its exporter's page.

Role: front. Its queue is the backend's and the servers' queues, its running what its servers work on. The servers that
stand in at zero nodes (`backup`; on the page, which does not say so, those called `activator…`) are left out, since
what was passed to them is counted by the activator. HAProxy's own averages are over the last 1024 requests, however
old these are: never taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import aiohttp

from autoscaler.balance.haproxy_channel import Where
from autoscaler.balance.haproxy_socket import show_info, show_stat
from autoscaler.domain.signals import FigureName
from autoscaler.errors import BalancerUnavailable, SourceUnavailable
from autoscaler.observe import dialect as d
from autoscaler.observe.draft import Draft
from autoscaler.observe.latency import LatencySettings
from autoscaler.observe.page import Page, Wanted, fetch_page
from autoscaler.observe.pages import tracker_for
from autoscaler.observe.protocol import Reading, Target
from autoscaler.observe.series import SeriesKey

ACTIVATOR = "activator"  # how the servers that stand in at zero nodes are called, as we ship it
_GIVES = frozenset({FigureName.WAITING, FigureName.RUNNING, FigureName.ARRIVALS})
_TO_ACTIVATOR = "to_activator"


@dataclass(frozen=True, slots=True)
class BackendSighting:
    """One backend as HAProxy describes it now.

    Attributes:
        waiting: requests in the backend's queue and its servers'.
        running: requests on its servers, the activator's left out.
        requests: since HAProxy started, all of them.
        passed_on: of these, those that went to the activator.
        mark: changes when HAProxy restarts or reloads.
    """

    waiting: float
    running: float
    requests: float
    passed_on: float
    uptime_s: float | None
    mark: float | None


Look = Callable[[], Awaitable[BackendSighting]]


class HaproxySource:
    """Satisfies `Source` by one backend of one HAProxy."""

    def __init__(
        self,
        name: str,
        look: Look,
        *,
        timeout_s: float = 3.0,
        window_s: float = 60.0,
        interval_s: float = 15.0,
    ) -> None:
        """Take how to look: `by_socket` or `by_page`."""
        self._name = name
        self._look = look
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
        """The socket is opened for each command; the session is the caller's."""

    async def read(self, target: Target, now: datetime) -> Reading:
        """Look at the backend, and follow its counters."""
        draft = Draft(self._name, _GIVES, now)
        try:
            async with asyncio.timeout(self._timeout_s):
                seen = await self._look()
        except TimeoutError:
            return draft.finish(otherwise=f"no answer within {self._timeout_s:g} s")
        except (BalancerUnavailable, SourceUnavailable, ValueError) as exc:
            return draft.finish(otherwise=str(exc))
        draft.give(FigureName.WAITING, seen.waiting)
        draft.give(FigureName.RUNNING, seen.running)
        self._tracker.observe(
            self._name,
            {SeriesKey(d.ARRIVED): seen.requests, SeriesKey(_TO_ACTIVATOR): seen.passed_on},
            now.timestamp(),
            uptime_s=seen.uptime_s,
            start_mark=seen.mark,
        )
        came = self._draw_arrivals(draft, target, now)
        return draft.finish(idle=came == 0 and seen.waiting == 0 and seen.running == 0)

    def _draw_arrivals(self, draft: Draft, target: Target, now: datetime) -> float | None:
        window = self._tracker.window(target.window.total_seconds(), now.timestamp())
        if window.trouble is not None:
            draft.miss(FigureName.ARRIVALS, window.trouble)
            return None
        came = max(0.0, window.increase(d.ARRIVED) - window.increase(_TO_ACTIVATOR))
        draft.give(FigureName.ARRIVALS, came / window.span_s, is_partial=window.is_partial)
        return came


def by_socket(socket: Where, backend: str) -> Look:
    """Look through the runtime socket: `show info` and `show stat`."""

    async def look() -> BackendSighting:
        info = await show_info(socket)
        rows = await show_stat(socket, backend)
        whole = next((row for row in rows if row.is_backend), None)
        if whole is None:
            raise SourceUnavailable(f"HAProxy has no backend {backend!r}")
        servers = [row for row in rows if not row.is_backend and not row.is_frontend]
        return BackendSighting(
            waiting=whole.qcur + sum(row.qcur for row in servers),
            running=sum(row.scur for row in servers if not row.is_backup),
            requests=whole.stot if whole.req_tot is None else whole.req_tot,
            passed_on=sum(row.stot for row in servers if row.is_backup),
            uptime_s=info.uptime_s,
            mark=info.pid,
        )

    return look


_QUEUES = ("haproxy_backend_current_queue", "haproxy_server_current_queue")
_SESSIONS = "haproxy_server_current_sessions"
_REQUESTS = "haproxy_backend_http_requests_total"
_PASSED_ON = "haproxy_server_sessions_total"
_WANTED = Wanted((*_QUEUES, _SESSIONS, _REQUESTS, _PASSED_ON))


def by_page(session: aiohttp.ClientSession, url: str, backend: str, timeout_s: float) -> Look:
    """Look at the page of HAProxy's own Prometheus exporter."""

    async def look() -> BackendSighting:
        page = await fetch_page(session, url, _WANTED, timeout_s)

        def total(*names: str, to_activator: bool | None = None) -> float:
            return sum(value for value in _values(page, backend, names, to_activator))

        if not _values(page, backend, (_REQUESTS,), None):
            raise SourceUnavailable(f"HAProxy's page has no backend {backend!r}")
        return BackendSighting(
            waiting=total(*_QUEUES),
            running=total(_SESSIONS, to_activator=False),
            requests=total(_REQUESTS),
            passed_on=total(_PASSED_ON, to_activator=True),
            uptime_s=page.uptime_s,
            mark=page.started_s,
        )

    return look


def _values(
    page: Page, backend: str, names: tuple[str, ...], to_activator: bool | None
) -> list[float]:
    return [
        sample.value
        for sample in page.samples
        if sample.name in names
        and sample.labels.get("proxy") == backend
        and sample.value >= 0
        and to_activator in (None, sample.labels.get("server", "").startswith(ACTIVATOR))
    ]
