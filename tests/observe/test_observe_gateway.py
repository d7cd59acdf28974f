"""The real gateway, asked over its control socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from autoscaler.domain.signals import FigureName, Partiality
from autoscaler.gateway.run import Gateway
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.observe.gateway import GatewaySource
from autoscaler.observe.latency import LatencySettings
from autoscaler.observe.protocol import Reading

if TYPE_CHECKING:
    from tests.observe.conftest import AsTarget, Serve

F = FigureName


@dataclass(eq=False)
class Running:
    """A gateway in this loop, and a way to tell it things."""

    control: Path
    gateway: Gateway
    task: asyncio.Task[None]

    @property
    def url(self) -> str:
        host, port = self.gateway.addresses[0]
        return f"http://{host}:{port}/v1/completions"

    async def tell(self, path: str, body: dict[str, object]) -> None:
        connector = aiohttp.UnixConnector(str(self.control))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://gateway{path}", json=body) as response,
        ):
            assert response.status == 200, await response.text()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def start(control: Path) -> Running:
    gateway = Gateway(GatewaySettings(listen=(("127.0.0.1", 0),), control=control))
    task = asyncio.create_task(gateway.run())
    started = asyncio.create_task(gateway.started.wait())
    await asyncio.wait({task, started}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    if not gateway.started.is_set():
        await task
    return Running(control, gateway, task)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        running = await start(Path(folder) / "g.sock")
        await running.tell("/v1/pools/put", {"model": "m"})
        yield running
        await running.stop()


def source(control: Path) -> GatewaySource:
    return GatewaySource(
        "gateway", "m", control, LatencySettings(min_observations=3), timeout_s=2.0, interval_s=1.0
    )


def figures(reading: Reading) -> dict[FigureName, float]:
    return {name: figure.value for name, figure in reading.figures}


async def test_a_gateway_that_is_not_there_is_a_gap_for_every_figure(
    target: AsTarget, noon: datetime, tmp_path: Path
) -> None:
    reader = source(tmp_path / "none.sock")

    reading = await reader.read(target(), noon)
    await reader.close()

    assert reading.figures == ()
    assert {gap.figure for gap in reading.gaps} == reader.gives
    assert "is it running?" in reading.gaps[0].reason


async def test_a_model_that_the_gateway_does_not_know_yet_is_a_gap(
    running: Running, target: AsTarget, noon: datetime
) -> None:
    reader = GatewaySource("gateway", "other", running.control, LatencySettings())

    reading = await reader.read(target(), noon)
    await reader.close()

    assert reading.figures == ()
    assert "does not know this model" in reading.gaps[0].reason


async def test_a_request_held_at_zero_nodes_is_seen_at_once(
    running: Running, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    reader = source(running.control)
    before = await reader.read(target(), noon)

    asked = asyncio.create_task(session.post(running.url, json={"model": "m", "prompt": "hi"}))
    async with asyncio.timeout(5):
        held = before
        while held.held == 0:
            held = await reader.read(target(), noon + timedelta(seconds=1))
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await reader.close()

    assert (before.held, figures(before)[F.WAITING]) == (0, 0)
    assert (held.held, figures(held)[F.WAITING], figures(held)[F.RUNNING]) == (1, 1, 0)


async def test_arrivals_outlive_this_daemon_but_not_the_gateway(
    running: Running, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    first = source(running.control)
    asks = [
        asyncio.create_task(session.post(running.url, json={"model": "m", "prompt": "hi"}))
        for _ in range(8)
    ]
    short = target(window_s=1.0)
    async with asyncio.timeout(10):
        reading = await first.read(short, noon)
        while not figures(reading).get(F.ARRIVALS) or reading.held < 8:
            reading = await first.read(short, noon)
    successor = source(running.control)
    again = await successor.read(short, noon)
    for ask in asks:
        ask.cancel()
    await asyncio.gather(*asks, return_exceptions=True)
    await running.stop()
    restarted = await start(running.control)
    await restarted.tell("/v1/pools/put", {"model": "m"})
    fresh = await successor.read(target(), noon)
    await restarted.stop()
    await first.close()
    await successor.close()

    assert figures(again)[F.ARRIVALS] > 0
    assert F.ARRIVALS not in figures(fresh)  # a second old: not a rate yet, and not a zero
    assert not fresh.idle


async def test_served_requests_give_latencies_and_tokens(
    running: Running,
    session: aiohttp.ClientSession,
    serve: Serve,
    target: AsTarget,
    noon: datetime,
) -> None:
    event = 'data: {"choices": [{"text": "a"}]}\n\n'
    usage = 'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 5}}\n\n'
    node = await serve(event * 5 + usage + "data: [DONE]\n\n")
    node.headers = {"Content-Type": "text/event-stream"}
    await running.tell(
        "/v1/endpoints/add", {"model": "m", "id": "n0", "url": node.url, "max_inflight": 8}
    )
    reader = source(running.control)
    await reader.read(target(node.url), noon)

    for _ in range(5):
        body = {"model": "m", "prompt": "hi", "stream": True}
        async with session.post(running.url, json=body) as response:
            assert response.status == 200
            await response.read()
    reading = await reader.read(target(node.url, window_s=4.0), noon + timedelta(seconds=1))
    async with asyncio.timeout(10):
        while F.OUTPUT_TOKENS not in figures(reading):  # a gateway under a second old has no rate
            await asyncio.sleep(0.05)
            reading = await reader.read(target(node.url, window_s=4.0), noon + timedelta(seconds=2))
    await reader.close()

    found = figures(reading)
    assert 0 < found[F.TTFT_P95] < 2
    assert found[F.TTFT_ATTAINED] == 1.0
    assert found[F.QUEUE_P95] < 0.5
    assert found[F.OUTPUT_TOKENS] > 0
    assert dict(reading.figures)[F.WAITING].partiality is Partiality.FULL
