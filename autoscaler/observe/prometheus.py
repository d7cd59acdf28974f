"""Asks a Prometheus server, one PromQL query for each figure.

Role: whole. A query is taken as it stands, so it must come to one number. Two further queries make the others safe:
`sources`, how many replicas report (an empty answer is a zero only where enough do), and `age`, how old the newest
sample is in seconds (an instant query serves samples of five minutes ago as if they were of now).

`$model`, `$window` and `$quantile_window` in a query are replaced; `$model` by a quoted label value. Nothing else is
ever put into a query.
"""

from __future__ import annotations

import asyncio
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from autoscaler.domain.signals import FigureName
from autoscaler.errors import ConfigError, SourceUnavailable
from autoscaler.observe.draft import Draft
from autoscaler.observe.page import read_body, refuse_link_local
from autoscaler.observe.protocol import Reading, Target
from autoscaler.observe.ranges import ADDITIVE, LATENCIES
from autoscaler.observe.series import LEAST_COVERAGE
from autoscaler.policy import Engine, Policy

SOURCES, AGE = "sources", "age"
_KEYS = {figure.value: figure for figure in FigureName}
_KEYS |= {figure.name.lower(): figure for figure in FigureName}
_PLACEHOLDER = re.compile(r"\$(\w+)")
_AT_ONCE = 4


def quote(value: str) -> str:
    """Write a label value as PromQL reads it, quotes included. The only way by which text enters a query."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def render(query: str, model: str, window: timedelta, quantile_window: timedelta) -> str:
    """Put the model and the windows into a query.

    Raises:
        ConfigError: another placeholder.
    """
    values = {
        "model": quote(model),
        "window": f"{math.ceil(window.total_seconds())}s",
        "quantile_window": f"{math.ceil(quantile_window.total_seconds())}s",
    }

    def replaced(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ConfigError(
                f"queries: ${found[1]} is unknown; allowed: $model, $window, $quantile_window"
            )
        return values[found[1]]

    return _PLACEHOLDER.sub(replaced, query)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query came to.

    Attributes:
        value: None when the vector is empty.
        is_partial: Prometheus warned, so something may be missing from it.
    """

    value: float | None
    is_partial: bool = False


class _Series(BaseModel):
    value: tuple[float, str]


class _Vector(BaseModel):
    resultType: Literal["vector"]
    result: Annotated[list[_Series], Field(max_length=10_000)]


class _Scalar(BaseModel):
    resultType: Literal["scalar"]
    result: tuple[float, str]


class _Response(BaseModel):
    status: Literal["success"]
    data: Annotated[_Vector | _Scalar, Field(discriminator="resultType")]
    warnings: list[str] = []


class _Failure(BaseModel):
    status: Literal["error"]
    errorType: Annotated[str, Field(max_length=100)]
    error: str


class PrometheusSource:
    """Satisfies `Source` by instant queries."""

    def __init__(
        self,
        name: str,
        url: str,
        queries: Mapping[str, str],
        model: str,
        session: aiohttp.ClientSession,
        *,
        timeout_s: float = 3.0,
        window: timedelta = timedelta(seconds=60),
        quantile_window: timedelta = timedelta(minutes=5),
    ) -> None:
        """Take the queries by figure.

        Raises:
            ConfigError: a key that names no figure, an unknown placeholder, or no query at all.
        """
        if not queries:
            raise ConfigError("queries: none given, and none are known for this engine")
        self._name = name
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._session = session
        self._timeout_s = timeout_s
        self._checks: dict[str, str] = {}
        self._queries: dict[FigureName, str] = {}
        for key, query in queries.items():
            rendered = render(query, model, window, quantile_window)
            if key in (SOURCES, AGE):
                self._checks[key] = rendered
            else:
                self._queries[_figure(key)] = rendered

    @property
    def name(self) -> str:
        return self._name

    @property
    def gives(self) -> frozenset[FigureName]:
        return frozenset(self._queries)

    async def close(self) -> None:
        """The session is the caller's."""

    async def read(self, target: Target, now: datetime) -> Reading:
        """Run all queries, the two checks among them."""
        draft = Draft(self._name, self.gives, now)
        gate = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.timeout(self._timeout_s):
                await refuse_link_local(self._url)
                asked = [*self._checks.values(), *self._queries.values()]
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._ask(query, gate)) for query in asked]
        except TimeoutError:
            return draft.finish(otherwise=f"no answer within {self._timeout_s:g} s")
        except SourceUnavailable as exc:
            return draft.finish(otherwise=str(exc))
        answers = {query: task.result() for query, task in zip(asked, tasks, strict=True)}
        checks = {key: answers[query] for key, query in self._checks.items()}
        trouble = _trouble(checks, target)
        if trouble is not None:
            return draft.finish(otherwise=trouble)
        age = _value(checks.get(AGE)) or 0.0
        scale, is_sure = _coverage(checks, target)
        for figure, query in self._queries.items():
            self._draw(draft, figure, answers[query], now - timedelta(seconds=age), scale, is_sure)
        return draft.finish()

    def _draw(
        self,
        draft: Draft,
        figure: FigureName,
        answer: Answer | str,
        at: datetime,
        scale: float,
        is_sure: bool,
    ) -> None:
        if isinstance(answer, str):
            draft.miss(figure, answer)
        elif answer.value is None and is_sure and figure in ADDITIVE:
            draft.give(figure, 0.0, at=at)
        elif answer.value is None:
            draft.miss(figure, "the query found no series, which is not a zero")
        elif math.isnan(answer.value) and figure in LATENCIES:
            draft.miss(figure, "nothing was observed in the window")
        else:
            factor = scale if figure in ADDITIVE else 1.0
            draft.give(
                figure,
                answer.value * factor,
                at=at,
                is_partial=answer.is_partial or factor > 1,
            )

    async def _ask(self, query: str, gate: asyncio.Semaphore) -> Answer | str:
        """Run one instant query; a reason in words when there is no answer."""
        async with gate:
            try:
                async with self._session.post(
                    self._url,
                    data={"query": query, "timeout": f"{self._timeout_s:g}s"},
                    allow_redirects=False,
                    auto_decompress=False,
                    headers={"Accept-Encoding": "gzip, identity"},
                ) as response:
                    body = await read_body(response)
                    status = response.status
            except SourceUnavailable as exc:
                return str(exc)
            except (aiohttp.ClientError, OSError, ValueError) as exc:
                return f"cannot be reached: {type(exc).__name__}"
        return _parse(body, status)


def default_queries(policy: Policy) -> dict[str, str]:
    """The queries for an engine whose names we know, scraped into Prometheus as it is; empty for others."""
    match policy.engine:
        case Engine.VLLM:
            return dict(_VLLM_QUERIES)
        case Engine.SGLANG:
            return dict(_SGLANG_QUERIES)
        case _:
            return {}


def _histogram(base: str) -> str:
    return f"sum by (le) (rate({base}_bucket{{model_name=$model}}[$quantile_window]))"


_VLLM_QUERIES = {
    SOURCES: "count(vllm:num_requests_running{model_name=$model})",
    AGE: "max(time() - timestamp(vllm:num_requests_running{model_name=$model}))",
    "waiting": "sum(vllm:num_requests_waiting{model_name=$model})",
    "running": "sum(vllm:num_requests_running{model_name=$model})",
    "prompt_tokens": "sum(rate(vllm:prompt_tokens_total{model_name=$model}[$window]))",
    "output_tokens": "sum(rate(vllm:generation_tokens_total{model_name=$model}[$window]))",
    "kv_use": "max(vllm:kv_cache_usage_perc{model_name=$model}"
    " or vllm:gpu_cache_usage_perc{model_name=$model})",
    "ttft_p50": f"histogram_quantile(0.5, {_histogram('vllm:time_to_first_token_seconds')})",
    "ttft_p95": f"histogram_quantile(0.95, {_histogram('vllm:time_to_first_token_seconds')})",
    "itl_p50": f"histogram_quantile(0.5, {_histogram('vllm:inter_token_latency_seconds')})",
    "itl_p95": f"histogram_quantile(0.95, {_histogram('vllm:inter_token_latency_seconds')})",
    "queue_p95": f"histogram_quantile(0.95, {_histogram('vllm:request_queue_time_seconds')})",
}
# ranks repeat a figure: the largest of an instance, then the sum
_SGLANG_QUERIES = {
    SOURCES: "count(count by (instance) (sglang:num_running_reqs{model_name=$model}))",
    AGE: "max(time() - timestamp(sglang:num_running_reqs{model_name=$model}))",
    "waiting": "sum(max by (instance) (sglang:num_queue_reqs{model_name=$model}))",
    "running": "sum(max by (instance) (sglang:num_running_reqs{model_name=$model}))",
    "prompt_tokens": "sum(max by (instance)"
    " (rate(sglang:prompt_tokens_total{model_name=$model}[$window])))",
    "output_tokens": "sum(max by (instance)"
    " (rate(sglang:generation_tokens_total{model_name=$model}[$window])))",
    "kv_use": "max(sglang:token_usage{model_name=$model})",
    "ttft_p50": f"histogram_quantile(0.5, {_histogram('sglang:time_to_first_token_seconds')})",
    "ttft_p95": f"histogram_quantile(0.95, {_histogram('sglang:time_to_first_token_seconds')})",
    "itl_p50": f"histogram_quantile(0.5, {_histogram('sglang:inter_token_latency_seconds')})",
    "itl_p95": f"histogram_quantile(0.95, {_histogram('sglang:inter_token_latency_seconds')})",
}


def _figure(key: str) -> FigureName:
    if key in _KEYS:
        return _KEYS[key]
    allowed = sorted({figure.name.lower() for figure in FigureName} | {SOURCES, AGE})
    near = difflib.get_close_matches(key, [*_KEYS, SOURCES, AGE], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"queries.{key}: names no figure; allowed: {', '.join(allowed)}{hint}")


def _parse(body: bytes, status: int) -> Answer | str:
    try:
        response = _Response.model_validate_json(body)
    except ValidationError:
        return _refusal(body, status)
    data = response.data
    is_partial = bool(response.warnings)
    if isinstance(data, _Scalar):
        return _number(data.result[1], is_partial)
    if not data.result:
        return Answer(None, is_partial)
    if len(data.result) > 1:
        return f"the query gives {len(data.result)} series: aggregate it to one"
    return _number(data.result[0].value[1], is_partial)


def _number(text: str, is_partial: bool) -> Answer | str:
    try:
        return Answer(float(text), is_partial)
    except ValueError:
        return "the query gives no number"


def _refusal(body: bytes, status: int) -> str:
    try:
        failure = _Failure.model_validate_json(body)
    except ValidationError:
        return f"answered {status} with something that is not Prometheus' form of one number"
    return f"Prometheus refused the query: {failure.errorType}: {failure.error[:200]!r}"


def _value(answer: Answer | str | None) -> float | None:
    if isinstance(answer, Answer) and answer.value is not None and math.isfinite(answer.value):
        return answer.value
    return None


def _trouble(checks: Mapping[str, Answer | str], target: Target) -> str | None:
    """What the two checks say against the whole reading."""
    ready = len(target.endpoints)
    for key, answer in checks.items():
        if isinstance(answer, str):
            return f"queries.{key}: {answer}"
        if answer.value is None and ready > 0:
            return f"queries.{key} found no series though {ready} replicas are ready"
    reporting = _value(checks.get(SOURCES))
    if reporting is not None and reporting < LEAST_COVERAGE * ready:
        return f"{reporting:g} of {ready} replicas report to Prometheus"
    return None


def _coverage(checks: Mapping[str, Answer | str], target: Target) -> tuple[float, bool]:
    """By how much to scale what adds up, and whether all that should report is known to."""
    ready = len(target.endpoints)
    reporting = _value(checks.get(SOURCES))
    if reporting is None or ready == 0:
        return 1.0, False
    return max(1.0, ready / reporting), reporting >= ready
