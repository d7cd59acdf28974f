"""Reads each replica's own page and takes the replicas together.

Role: inside. What it calls waiting waits inside engines, and what it calls arrivals is what engines finished plus what
grew inside them: when engines are full that shows capacity and not demand, so a balancer's count is preferred
(`merge.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp

from autoscaler.domain.node import Endpoint
from autoscaler.domain.signals import FigureName
from autoscaler.errors import SourceUnavailable
from autoscaler.observe import dialect as d
from autoscaler.observe.dialect import Dialect, Scrape, read_samples
from autoscaler.observe.draft import Draft
from autoscaler.observe.latency import LatencySettings, draw_latencies
from autoscaler.observe.page import Page, Wanted, fetch_page
from autoscaler.observe.protocol import Reading, Target
from autoscaler.observe.series import LEAST_COVERAGE, Tracker, reduce_gauges

_AT_ONCE = 32
_RUNNING_SLACK = 1.1


@dataclass(frozen=True, slots=True)
class PageSettings:
    """How pages are read.

    Attributes:
        path: of the page on each endpoint.
        timeout_s: for one page.
        interval_s: how often `read` is called; three of them are the longest silence that is bridged.
        window_s: the length over which rates are taken.
        max_age_s: a sample that the page itself dates further back is not read.
        max_running: an engine that says it runs more than 1.1 × this at once is not believed; None believes all.
    """

    path: str = "/metrics"
    timeout_s: float = 3.0
    interval_s: float = 15.0
    window_s: float = 60.0
    latency: LatencySettings = field(default_factory=LatencySettings)
    max_age_s: float = 60.0
    max_running: int | None = None


@dataclass(frozen=True, slots=True)
class _Replica:
    endpoint: Endpoint
    scrape: Scrape
    is_starting: bool

    @property
    def gauges(self) -> dict[str, float]:
        return reduce_gauges(self.scrape.gauges.items())

    def parts(self, what: str) -> int:
        return sum(1 for key in self.scrape.gauges if key.what == what)


class PageSource:
    """Satisfies `Source` by the pages of the model's own replicas."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        served_name: str,
        session: aiohttp.ClientSession,
        settings: PageSettings,
    ) -> None:
        self._name = name
        self._dialect = dialect
        self._served_name = served_name
        self._session = session
        self._settings = settings
        self._wanted = Wanted(dialect.series_names())
        self._tracker = tracker_for(settings.latency, settings.window_s, settings.interval_s)
        self._in_system: deque[tuple[float, float]] = deque()

    @property
    def name(self) -> str:
        return self._name

    @property
    def gives(self) -> frozenset[FigureName]:
        return self._dialect.gives()

    async def close(self) -> None:
        """The session is the caller's."""

    async def read(self, target: Target, now: datetime) -> Reading:
        """Fetch every replica's page and add up. With no replica there is nothing to ask, which is not a zero."""
        draft = Draft(self._name, self.gives, now)
        endpoints = list({endpoint.url: endpoint for endpoint in target.endpoints}.values())
        self._tracker.retire_all_but({endpoint.id for endpoint in endpoints})
        if not endpoints:
            return draft.finish(otherwise="no node is up: nothing to ask")
        replicas, reasons = await self._scrape(endpoints, target, now)
        if len(replicas) < LEAST_COVERAGE * len(endpoints):
            first = reasons[0] if reasons else "unknown"
            return draft.finish(
                otherwise=f"{len(replicas)} of {len(endpoints)} pages were read; {first}"
            )
        scale = len(endpoints) / len(replicas)
        self._draw_gauges(draft, replicas, scale)
        self._draw_rates(draft, target, replicas, scale, now.timestamp())
        draw_latencies(
            draft,
            target,
            self._settings.latency,
            lambda length: self._tracker.window(length, now.timestamp(), settled_only=True),
        )
        self._explain(draft, replicas)
        return draft.finish(otherwise="no such series on the page")

    async def _scrape(
        self, endpoints: Sequence[Endpoint], target: Target, now: datetime
    ) -> tuple[list[_Replica], list[str]]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def fetch(endpoint: Endpoint) -> Page | str:
            async with gate:
                try:
                    url = endpoint.url.rstrip("/") + self._settings.path
                    return await fetch_page(
                        self._session, url, self._wanted, self._settings.timeout_s
                    )
                except SourceUnavailable as exc:
                    return f"{endpoint.id}: {exc}"

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetch(endpoint)) for endpoint in endpoints]
        answers = [task.result() for task in tasks]
        replicas: list[_Replica] = []
        reasons: list[str] = []
        for endpoint, answer in zip(endpoints, answers, strict=True):
            if isinstance(answer, str):
                reasons.append(answer)
                continue
            oldest_s = now.timestamp() - self._settings.max_age_s
            fresh = [s for s in answer.samples if s.at is None or s.at >= oldest_s]
            scrape = read_samples(self._dialect, fresh, self._served_name)
            if scrape.other_models:
                others = ", ".join(name[:40] for name in scrape.other_models[:3])
                reasons.append(f"{endpoint.id} serves {others}, not {self._served_name}")
                continue
            if not scrape.counters and not scrape.gauges:
                reasons.append(
                    f"{endpoint.id}: a page without fresh series of {self._dialect.name}"
                )
                continue
            is_starting = endpoint.id in target.starting
            replicas.append(_Replica(endpoint, scrape, is_starting))
            self._tracker.observe(
                endpoint.id,
                scrape.counters,
                now.timestamp(),
                uptime_s=answer.uptime_s,
                start_mark=answer.started_s,
                is_new=is_starting,
                is_settled=not is_starting,
            )
        return replicas, reasons

    def _draw_gauges(self, draft: Draft, replicas: Sequence[_Replica], scale: float) -> None:
        is_partial = scale > 1
        sums: dict[str, list[float]] = {d.WAITING: [], d.RUNNING: []}
        for replica in replicas:
            gauges = replica.gauges
            for what, values in sums.items():
                if what in gauges and what not in replica.scrape.broken:
                    values.append(gauges[what])
            most = self._settings.max_running
            if most is not None and d.RUNNING in gauges:
                limit = most * max(1, replica.parts(d.RUNNING)) * _RUNNING_SLACK
                if gauges[d.RUNNING] > limit:
                    draft.miss(
                        FigureName.RUNNING,
                        f"{replica.endpoint.id} says {gauges[d.RUNNING]:g} run, at most {most} can",
                    )
                    sums[d.RUNNING].clear()
        for what, figure in ((d.WAITING, FigureName.WAITING), (d.RUNNING, FigureName.RUNNING)):
            if len(sums[what]) == len(replicas):
                draft.give(figure, sum(sums[what]) * scale, is_partial=is_partial)
        # a fresh node's empty cache says nothing, and its first long prompt too much
        shares = [
            max(value for key, value in replica.scrape.gauges.items() if key.what == d.KV_USE)
            for replica in replicas
            if not replica.is_starting and d.KV_USE in replica.gauges
        ]
        if shares:
            draft.give(FigureName.KV_USE, max(shares), is_partial=is_partial)
        elif all(replica.is_starting for replica in replicas):
            draft.miss(FigureName.KV_USE, "all nodes are in their first minutes")

    def _draw_rates(
        self,
        draft: Draft,
        target: Target,
        replicas: Sequence[_Replica],
        scale: float,
        now_s: float,
    ) -> None:
        window = self._tracker.window(target.window.total_seconds(), now_s)
        in_system = scale * sum(
            replica.gauges.get(d.WAITING, 0.0) + replica.gauges.get(d.RUNNING, 0.0)
            for replica in replicas
        )
        before = self._in_system_at(now_s - window.span_s)
        self._note_in_system(now_s, in_system)
        if window.trouble is not None:
            for name in (FigureName.ARRIVALS, FigureName.PROMPT_TOKENS, FigureName.OUTPUT_TOKENS):
                draft.miss(name, window.trouble)
            return
        is_partial = window.is_partial or scale > 1
        for what, name in _RATES:
            if window.exports(what):
                rate = scale * window.increase(what) / window.span_s
                draft.give(name, rate, is_partial=is_partial)
        if window.exports(d.FINISHED):
            grown = 0.0 if before is None else in_system - before
            came = max(0.0, scale * window.increase(d.FINISHED) + grown)
            draft.give(FigureName.ARRIVALS, came / window.span_s, is_partial=is_partial)
        elif self._finishes_later() and not window.exports(d.ARRIVED):
            # the counter appears with the first request that ends; until then only what runs is known
            grown = 0.0 if before is None else max(0.0, in_system - before)
            draft.give(FigureName.ARRIVALS, grown / window.span_s, is_partial=is_partial)

    def _finishes_later(self) -> bool:
        return d.FINISHED in self._dialect.of

    def _note_in_system(self, now_s: float, value: float) -> None:
        while self._in_system and self._in_system[0][0] < now_s - 2 * self._settings.window_s:
            self._in_system.popleft()
        self._in_system.append((now_s, value))

    def _in_system_at(self, at_s: float) -> float | None:
        """What was in the engines at the window's beginning, by the nearest reading."""
        nearest = min(self._in_system, key=lambda entry: abs(entry[0] - at_s), default=None)
        return None if nearest is None else nearest[1]

    def _explain(self, draft: Draft, replicas: Sequence[_Replica]) -> None:
        for replica in replicas:
            for what in replica.scrape.broken & _NAMES.keys():
                draft.miss(_NAMES[what], f"{replica.endpoint.id} gave an impossible value")


_NAMES = {
    d.WAITING: FigureName.WAITING,
    d.RUNNING: FigureName.RUNNING,
    d.KV_USE: FigureName.KV_USE,
    d.PROMPT: FigureName.PROMPT_TOKENS,
    d.OUTPUT: FigureName.OUTPUT_TOKENS,
}
_RATES = (
    (d.PROMPT, FigureName.PROMPT_TOKENS),
    (d.OUTPUT, FigureName.OUTPUT_TOKENS),
    (d.ARRIVED, FigureName.ARRIVALS),
)


def tracker_for(latency: LatencySettings, window_s: float, interval_s: float) -> Tracker:
    """A tracker deep enough for the longest quantile window and fine enough for the rate window."""
    return Tracker(
        depth_s=max(latency.depth_s, window_s),
        grain_s=window_s / 12,
        # a silence of three intervals is bridged; of a fast daemon's, never fewer than 10 s
        max_gap_s=max(3 * interval_s, 10.0),
    )
