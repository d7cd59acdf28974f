"""The sources against real servers: llama.cpp, HAProxy, Prometheus, and the emulated engine's own page."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from autoscaler.domain.signals import FigureName
from autoscaler.observe.haproxy import HaproxySource, by_page, by_socket
from autoscaler.observe.latency import LatencySettings
from autoscaler.observe.llamacpp import LLAMA_CPP
from autoscaler.observe.pages import PageSettings, PageSource
from autoscaler.observe.prometheus import PrometheusSource
from autoscaler.observe.protocol import Reading
from autoscaler.observe.vllm import VLLM
from tests.observe.parts import answers, haproxy, llama_cpp, process, prometheus, until
from tests.world.files import free_port

if TYPE_CHECKING:
    from tests.observe.conftest import AsTarget, Serve

F = FigureName


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="observe-") as name:
        yield Path(name)


def figures(reading: Reading) -> dict[FigureName, float]:
    return {name: figure.value for name, figure in reading.figures}


def now() -> datetime:
    return datetime.now(UTC)


async def test_the_real_llama_cpp_server_shows_what_runs_what_waits_and_its_tokens(
    folder: Path, session: aiohttp.ClientSession, target: AsTarget
) -> None:
    settings = PageSettings(interval_s=1.0, window_s=2.0)
    source = PageSource("engine", LLAMA_CPP, "m", session, settings)
    async with llama_cpp(folder, session) as url:
        asked = target(url, window_s=2.0)
        await source.read(asked, now())

        async def keep_asking() -> None:
            body = {"prompt": "hello", "n_predict": 300, "ignore_eos": True}
            while True:
                async with session.post(f"{url}/completion", json=body) as response:
                    await response.read()

        clients = [asyncio.create_task(keep_asking()) for _ in range(6)]
        fullest: dict[FigureName, float] = {}
        found: dict[FigureName, float] = {}

        async def has_been_seen() -> bool:
            nonlocal fullest, found
            found = figures(await source.read(asked, now()))
            if found.get(F.RUNNING, 0) == 2 and found.get(F.WAITING, 0) > 0:
                fullest = found
            return bool(fullest) and found.get(F.OUTPUT_TOKENS, 0) > 0

        await until(has_been_seen)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    down = await source.read(asked, now())

    assert fullest[F.WAITING] <= 4
    assert found[F.PROMPT_TOKENS] > 0
    assert down.figures == ()
    assert "cannot be reached" in down.gaps[0].reason


async def test_the_emulated_engine_is_read_like_the_vllm_it_stands_for(
    folder: Path, session: aiohttp.ClientSession, target: AsTarget
) -> None:
    port, log = free_port(), folder / "engine.log"
    command = (
        *(sys.executable, "-m", "autoscaler.emulator.engine", "--address", "127.0.0.1"),
        *("--load-seconds", "0", "--speed", "50", "--", "demo/chat-8b", "--port", str(port)),
        *("--served-model-name", "m"),
    )
    settings = PageSettings(
        interval_s=1.0, window_s=1.0, latency=LatencySettings(min_observations=5)
    )
    source = PageSource("engine", VLLM, "m", session, settings)
    async with process(*command, log=log):
        url = f"http://127.0.0.1:{port}"
        await until(lambda: answers(session, f"{url}/health"), log)
        await source.read(target(url, window_s=1.0), now())
        for _ in range(6):
            body = {"model": "m", "prompt": "hello", "max_tokens": 8, "stream": True}
            async with session.post(f"{url}/v1/completions", json=body) as response:
                assert response.status == 200
                await response.read()
        found: dict[FigureName, float] = {}

        async def has_all() -> bool:
            nonlocal found
            found = figures(await source.read(target(url, window_s=1.0), now()))
            return {F.ARRIVALS, F.OUTPUT_TOKENS, F.TTFT_P95, F.KV_USE} <= found.keys()

        await until(has_all, log)

    assert found[F.RUNNING] == 0
    assert found[F.ARRIVALS] > 0
    assert found[F.TTFT_P95] < 1


async def test_haproxys_queue_and_arrivals_are_seen_and_the_activators_are_not(
    folder: Path, session: aiohttp.ClientSession, serve: Serve, target: AsTarget, noon: datetime
) -> None:
    node, activator = await serve("ok"), await serve("held")
    release = asyncio.Event()

    async def slow(_request: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="done")

    node.answer = slow
    host, spare = (server.url.removeprefix("http://") for server in (node, activator))
    async with haproxy(
        folder, f"server n1 {host} maxconn 2", f"server activator {spare} backup"
    ) as (
        url,
        socket_path,
    ):
        source = HaproxySource("haproxy", by_socket(socket_path, "m"))
        by_its_page = HaproxySource("page", by_page(session, f"{url}/metrics", "m", 2.0))
        first = await source.read(target(node.url), noon)
        await by_its_page.read(target(node.url), noon)
        clients = [asyncio.create_task(get(session, url)) for _ in range(5)]
        found: dict[FigureName, float] = {}

        async def is_full() -> bool:
            nonlocal found
            found = figures(await source.read(target(node.url), noon))
            return found[F.WAITING] == 3

        await until(is_full)
        full = await by_its_page.read(target(node.url), noon)
        release.set()
        texts = await asyncio.gather(*clients)
        busy = await source.read(target(node.url), noon + timedelta(seconds=30))
        await tell(socket_path, "set server m/n1 state maint")
        is_held, let_go = asyncio.Event(), asyncio.Event()

        async def hold(_request: web.Request) -> web.StreamResponse:
            is_held.set()
            await let_go.wait()
            return web.Response(text="held")

        activator.answer = hold
        sixth = asyncio.create_task(get(session, url))
        await asyncio.wait_for(is_held.wait(), 5)
        meanwhile = [
            figures(await of.read(target(), noon + timedelta(seconds=40)))[F.RUNNING]
            for of in (source, by_its_page)
        ]
        let_go.set()
        held = await sixth
        zero = await source.read(target(), noon + timedelta(seconds=45))
        zero_by_page = await by_its_page.read(target(), noon + timedelta(seconds=45))
    gone = await source.read(target(node.url), noon + timedelta(seconds=60))

    assert F.ARRIVALS not in figures(first)
    assert found[F.RUNNING] == 2
    assert texts == ["done"] * 5
    assert figures(busy) == pytest.approx({F.WAITING: 0, F.RUNNING: 0, F.ARRIVALS: 5 / 30})
    assert held == "held"
    assert meanwhile == [0, 0]
    assert figures(zero)[F.ARRIVALS] == pytest.approx(5 / 45)  # the sixth is the activator's
    assert (figures(full)[F.WAITING], figures(full)[F.RUNNING]) == (3, 2)
    assert figures(zero_by_page)[F.ARRIVALS] == pytest.approx(5 / 45)
    assert gone.figures == ()


async def test_what_waits_for_one_server_of_haproxy_waits_and_does_not_run(
    folder: Path, session: aiohttp.ClientSession, serve: Serve, target: AsTarget, noon: datetime
) -> None:
    node = await serve("ok")
    release = asyncio.Event()

    async def slow(_request: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="done")

    node.answer = slow
    host = node.url.removeprefix("http://")
    lines = ("cookie S", f"server n1 {host} maxconn 1 cookie one", f"server n2 {host} cookie two")
    async with haproxy(folder, *lines) as (url, socket_path):
        source = HaproxySource("haproxy", by_socket(socket_path, "m"))
        bound = {"Cookie": "S=one"}
        clients = [asyncio.create_task(get(session, url, bound)) for _ in range(4)]
        found: dict[FigureName, float] = {}

        async def is_full() -> bool:
            nonlocal found
            found = figures(await source.read(target(node.url), noon))
            return found[F.WAITING] == 3

        await until(is_full)
        release.set()
        await asyncio.gather(*clients)

    assert found[F.RUNNING] == 1


async def test_a_backend_that_haproxy_does_not_have_is_a_gap(
    folder: Path, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    async with haproxy(folder, "server activator 127.0.0.1:9 backup") as (url, socket_path):
        for look in (
            by_socket(socket_path, "other"),
            by_page(session, f"{url}/metrics", "other", 2.0),
        ):
            reading = await HaproxySource("haproxy", look).read(target(), noon)

            assert reading.figures == ()
            assert "no backend 'other'" in reading.gaps[0].reason


async def test_a_real_prometheus_gives_figures_ages_and_reasons(
    folder: Path, session: aiohttp.ClientSession, serve: Serve, target: AsTarget
) -> None:
    hostile = 'a"b\\c'
    label = 'model_name="a\\"b\\\\c"'
    page = await serve(
        f"vllm:num_requests_running{{{label}}} 6\nvllm:num_requests_waiting{{{label}}} 2\n"
        f'two{{{label},x="1"}} 1\ntwo{{{label},x="2"}} 1\n'
    )
    up = "vllm:num_requests_running{model_name=$model}"
    queries = {
        "sources": f"count({up})",
        "age": f"max(time() - timestamp({up}))",
        "running": f"sum({up})",
        "waiting": "sum(vllm:num_requests_waiting{model_name=$model})",
        "arrivals": "sum(rate(vllm:request_success_total{model_name=$model}[$window]))",
        "ttft_p95": "histogram_quantile(0.95, sum by (le) (rate(none_bucket[$quantile_window])))",
        "kv_use": "two{model_name=$model}",
        "itl_p95": "sum(",
        "queue_p95": "scalar(vector(0.25))",
    }
    async with prometheus(folder, session, page.url) as url:
        source = PrometheusSource("prometheus", url, queries, hostile, session)
        reading = Reading("", now())

        async def is_scraped() -> bool:
            nonlocal reading
            reading = await source.read(target(page.url), now())
            return bool(reading.figures)

        await until(is_scraped)
        more = await source.read(target(page.url, page.url + "1"), now())
        unsure = PrometheusSource(
            "prometheus", url, {"arrivals": queries["arrivals"]}, hostile, session
        )
        unknown = await unsure.read(target(page.url), now())
        page.status = 500  # the targets' series end with the next scrape

        silent = reading

        async def is_gone() -> bool:
            nonlocal silent
            silent = await source.read(target(page.url), now())
            return not silent.figures

        await until(is_gone)
    down = await source.read(target(page.url), now())

    found = figures(reading)
    reasons = {gap.figure: gap.reason for gap in reading.gaps}
    assert (found[F.RUNNING], found[F.WAITING], found[F.QUEUE_P95]) == (6, 2, 0.25)
    assert found[F.ARRIVALS] == 0  # the counter does not exist yet, and all that should report do
    assert all(timedelta(0) <= figure.age(now()) < timedelta(30) for _, figure in reading.figures)
    assert reasons[F.KV_USE] == "the query gives 2 series: aggregate it to one"
    assert "found no series" in reasons[F.TTFT_P95]
    assert "bad_data" in reasons[F.ITL_P95]
    assert more.figures == ()
    assert "1 of 2 replicas report" in more.gaps[0].reason
    assert "not a zero" in unknown.gaps[0].reason
    assert "found no series though 1 replicas are ready" in silent.gaps[0].reason
    assert "cannot be reached" in down.gaps[0].reason


async def get(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None
) -> str:
    async with session.get(url, headers=headers) as response:
        return await response.text()


async def tell(socket_path: Path, command: str) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket_path))
    writer.write(f"{command}\n".encode())
    await writer.drain()
    await reader.read()
    writer.close()
