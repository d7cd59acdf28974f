"""PromQL: quoting, coverage, age and answers that are no figures. The real server is in test_observe_real."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain.signals import FigureName, Partiality
from autoscaler.errors import ConfigError
from autoscaler.observe.prometheus import PrometheusSource, quote, render

if TYPE_CHECKING:
    from tests.observe.conftest import AsTarget, Serve, Server

F = FigureName
MINUTE = timedelta(minutes=1)


def vector(*values: str) -> object:
    series = [{"metric": {}, "value": [1700000000.0, value]} for value in values]
    return {"resultType": "vector", "result": series}


def answer_by(server: Server, answers: dict[str, object], **more: object) -> None:
    """Answer each query as Prometheus would."""

    async def handle(request: web.Request) -> web.StreamResponse:
        query = str((await request.post())["query"])
        body = {"status": "success", "data": answers[query], **more}
        return web.Response(text=json.dumps(body), content_type="application/json")

    server.answer = handle


def test_the_model_enters_a_query_only_as_a_quoted_value() -> None:
    query = render("sum(up{m=$model}[$window])", 'a"} or up{x="\\\n', MINUTE, MINUTE)

    assert query == 'sum(up{m="a\\"} or up{x=\\"\\\\\\n"}[60s])'


@given(st.text())
def test_a_quoted_value_can_never_end_early(text: str) -> None:
    inside = quote(text)[1:-1]

    rest = inside.replace("\\\\", "").replace('\\"', "").replace("\\n", "")
    assert '"' not in rest
    assert "\\" not in rest
    assert "\n" not in rest


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ({}, "none given"),
        ({"wating": "up"}, "did you mean 'waiting'"),
        ({"waiting": "up{m=$modle}"}, r"\$modle is unknown"),
    ],
)
def test_a_wrong_query_table_is_refused(
    session: aiohttp.ClientSession, queries: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrometheusSource("prometheus", "http://127.0.0.1:9", queries, "m", session)


async def test_a_part_of_the_replicas_is_scaled_and_the_age_is_the_samples(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    server = await serve()
    answer_by(server, {"s": vector("4"), "a": vector("20"), "w": vector("8"), "k": vector("0.5")})
    queries = {"sources": "s", "age": "a", "waiting": "w", "kv_use": "k"}
    source = PrometheusSource("prometheus", server.url, queries, "m", session)

    reading = await source.read(target(*(f"http://n{i}" for i in range(5))), noon)

    found = dict(reading.figures)
    assert found[F.WAITING].value == 10
    assert found[F.WAITING].partiality is Partiality.PARTIAL
    assert found[F.KV_USE].value == 0.5
    assert found[F.WAITING].at == noon - timedelta(seconds=20)


async def test_a_warning_makes_the_evidence_partial(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    server = await serve()
    answer_by(server, {"w": vector("8")}, warnings=["a store did not answer"])
    source = PrometheusSource("prometheus", server.url, {"waiting": "w"}, "m", session)

    reading = await source.read(target("http://n"), noon)

    assert dict(reading.figures)[F.WAITING].partiality is Partiality.PARTIAL


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (vector("NaN"), "not a number"),
        (vector("+Inf"), "outside"),
        (vector("-3"), "outside"),
        (vector("three"), "gives no number"),
        ({"resultType": "matrix", "result": []}, "Prometheus' form"),
        ({"resultType": "string", "result": [1, "x"]}, "Prometheus' form"),
        ([], "Prometheus' form"),
    ],
)
async def test_what_is_no_figure_is_a_gap_with_its_reason(
    serve: Serve,
    session: aiohttp.ClientSession,
    target: AsTarget,
    noon: datetime,
    data: object,
    reason: str,
) -> None:
    server = await serve()
    answer_by(server, {"w": data})
    source = PrometheusSource("prometheus", server.url, {"waiting": "w"}, "m", session)

    reading = await source.read(target("http://n"), noon)

    assert reading.figures == ()
    assert reason in reading.gaps[0].reason


async def test_at_zero_nodes_an_empty_answer_is_not_a_zero(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    server = await serve()
    answer_by(server, {"s": vector(), "a": vector(), "w": vector()})
    queries = {"sources": "s", "age": "a", "waiting": "w"}
    source = PrometheusSource("prometheus", server.url, queries, "m", session)

    reading = await source.read(target(), noon)

    assert reading.figures == ()
