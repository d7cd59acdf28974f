"""Reads the embedded gateway over its Unix socket.

Role: front. It sees every request that comes, held and refused ones included, and knows exactly how many are on each
node. Rates come from its ring of seconds, which outlives this daemon; quantiles from its histograms, whose edges are
fine and whose `boot_id` says when they began anew.
"""

from __future__ import annotations

import asyncio
import math
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from autoscaler.domain.signals import FigureName
from autoscaler.errors import SourceUnavailable
from autoscaler.observe import dialect as d
from autoscaler.observe.draft import Draft
from autoscaler.observe.latency import LatencySettings, draw_latencies
from autoscaler.observe.page import read_body
from autoscaler.observe.pages import tracker_for
from autoscaler.observe.protocol import Reading, Target
from autoscaler.observe.series import SeriesKey

_GIVES = frozenset(FigureName) - {FigureName.KV_USE}
_LEAST_SHARE = 0.25  # of the window must be known before a rate is given
_WHOLE_SHARE = 0.9
_RING_S = 900

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Histogram(BaseModel):
    cumulative: Annotated[list[Count], Field(max_length=1000)]


class _Signals(BaseModel):
    boot_id: Annotated[str, Field(max_length=100)]
    in_flight: Count
    waiting: Count
    oldest_wait_s: Seconds
    active_endpoints: Count
    edges_s: Annotated[list[Seconds], Field(max_length=999)]
    ttft: _Histogram
    queue_time: _Histogram
    inter_token: _Histogram


class _History(BaseModel):
    monotonic_s: Seconds
    from_monotonic_s: Seconds
    arrivals: Annotated[list[Count], Field(max_length=_RING_S + 1)]
    prompt_tokens: Annotated[list[Count], Field(max_length=_RING_S + 1)]
    output_tokens: Annotated[list[Count], Field(max_length=_RING_S + 1)]


_Answer = TypeVar("_Answer", bound=BaseModel)


class GatewaySource:
    """Satisfies `Source` by the gateway's control socket."""

    def __init__(
        self,
        name: str,
        model: str,
        control: Path,
        latency: LatencySettings,
        *,
        timeout_s: float = 3.0,
        window_s: float = 60.0,
        interval_s: float = 15.0,
    ) -> None:
        self._name = name
        self._model = model
        self._control = control
        self._latency = latency
        self._timeout_s = timeout_s
        self._tracker = tracker_for(latency, window_s, interval_s)
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def gives(self) -> frozenset[FigureName]:
        return _GIVES

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def read(self, target: Target, now: datetime) -> Reading:
        """Ask for the model's gauges, histograms and the seconds of the window."""
        draft = Draft(self._name, _GIVES, now)
        window_s = target.window.total_seconds()
        seconds = min(_RING_S, math.ceil(window_s) + 1)
        try:
            async with asyncio.timeout(self._timeout_s):
                signals = await self._get(_Signals, "/v1/signals", {"model": self._model})
                history = await self._get(
                    _History, "/v1/history", {"model": self._model, "seconds": str(seconds)}
                )
        except SourceUnavailable as exc:
            return draft.finish(otherwise=str(exc))
        except TimeoutError:
            return draft.finish(otherwise=f"no answer within {self._timeout_s:g} s")
        draft.give(FigureName.WAITING, signals.waiting)
        draft.give(FigureName.RUNNING, signals.in_flight)
        draft.give(FigureName.OLDEST_WAIT, signals.oldest_wait_s)
        came = _draw_rates(draft, history, window_s)
        self._tracker.observe(
            "gateway", _counters(signals), now.timestamp(), start_mark=signals.boot_id
        )
        draw_latencies(
            draft,
            target,
            self._latency,
            lambda length: self._tracker.window(length, now.timestamp()),
        )
        is_idle = came == 0 and signals.waiting == 0 and signals.in_flight == 0
        held = 0 if signals.active_endpoints else signals.waiting
        return draft.finish(idle=is_idle, held=held)

    async def _get(self, answer: type[_Answer], path: str, query: dict[str, str]) -> _Answer:
        session = self._session
        if session is None or session.closed:
            session = self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._control)),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with session.get(
                f"http://gateway{path}",
                params=query,
                allow_redirects=False,
                headers={"Accept-Encoding": "identity"},
            ) as response:
                if response.status == 404:
                    raise SourceUnavailable("the gateway does not know this model yet")
                if response.status != 200:
                    raise SourceUnavailable(f"the gateway answered {response.status} on {path}")
                return answer.model_validate_json(await read_body(response))
        except (aiohttp.ClientError, OSError) as exc:
            raise SourceUnavailable(
                f"the gateway cannot be reached ({type(exc).__name__}): is it running?"
            ) from exc
        except ValidationError as exc:
            first = exc.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "its form"
            raise SourceUnavailable(
                f"the gateway's {path} is not understood: {where}: {first['msg']}"
            ) from exc


def _draw_rates(draft: Draft, history: _History, window_s: float) -> int | None:
    """Write the rates of the ring's last seconds; return how many requests came in them, if that is known."""
    span_s = history.monotonic_s - history.from_monotonic_s
    if span_s <= 0 or span_s < window_s * _LEAST_SHARE:
        reason = f"the gateway started {max(0.0, span_s):.0f} s ago: too short for a rate"
        for name in (FigureName.ARRIVALS, FigureName.PROMPT_TOKENS, FigureName.OUTPUT_TOKENS):
            draft.miss(name, reason)
        return None
    is_partial = span_s < window_s * _WHOLE_SHARE
    came = sum(history.arrivals)
    draft.give(FigureName.ARRIVALS, came / span_s, is_partial=is_partial)
    for name, counts in (
        (FigureName.PROMPT_TOKENS, history.prompt_tokens),
        (FigureName.OUTPUT_TOKENS, history.output_tokens),
    ):
        draft.give(name, sum(counts) / span_s, is_partial=is_partial)
    return came


def _counters(signals: _Signals) -> dict[SeriesKey, float]:
    edges = [*signals.edges_s, math.inf]
    return {
        SeriesKey(what, edge): float(at_or_below)
        for what, histogram in (
            (d.TTFT, signals.ttft),
            (d.ITL, signals.inter_token),
            (d.QUEUE, signals.queue_time),
        )
        for edge, at_or_below in zip(edges, histogram.cumulative, strict=False)
    }
