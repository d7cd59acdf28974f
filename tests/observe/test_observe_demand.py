"""The real gateway tells of requests that begin to wait."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from autoscaler.domain.ids import ModelName
from autoscaler.gateway.run import Gateway
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.observe.demand import DemandWatch

Woken = asyncio.Queue[ModelName]


@pytest.fixture
def control() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        yield Path(folder) / "g.sock"


@asynccontextmanager
async def running(control: Path) -> AsyncIterator[str]:
    """A gateway that serves `m` and `other` without a node; where clients ask."""
    gateway = Gateway(GatewaySettings(listen=(("127.0.0.1", 0),), control=control))
    task = asyncio.create_task(gateway.run())
    async with asyncio.timeout(10):
        await gateway.started.wait()
    connector = aiohttp.UnixConnector(str(control))
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
        for model in ("m", "other"):
            async with session.post("http://gateway/v1/pools/put", json={"model": model}):
                pass
    host, port = gateway.addresses[0]
    try:
        yield f"http://{host}:{port}/v1/completions"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def watching(control: Path, interval_s: float = 0.0) -> AsyncIterator[Woken]:
    woken: Woken = asyncio.Queue()
    watch = DemandWatch(control, timedelta(seconds=interval_s))
    task = asyncio.create_task(watch.run(woken.put_nowait))
    try:
        yield woken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def waiting_client(url: str, model: str = "m") -> AsyncIterator[None]:
    """A client whose request is held."""

    async def ask() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"model": model, "prompt": "x"}),
        ):
            pass

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def first(woken: Woken) -> ModelName:
    async with asyncio.timeout(10):
        return await woken.get()


async def test_a_held_request_wakes_its_model_at_once(control: Path) -> None:
    async with running(control) as url, watching(control) as woken, waiting_client(url, "other"):
        assert await first(woken) == "other"


async def test_a_request_that_waited_before_the_watch_began_is_told_too(control: Path) -> None:
    async with running(control) as url, waiting_client(url), watching(control) as woken:
        assert await first(woken) == "m"


async def test_many_held_requests_wake_their_model_once_in_an_interval(control: Path) -> None:
    async with (
        running(control) as url,
        watching(control, interval_s=60) as woken,
        waiting_client(url),
        waiting_client(url),
        waiting_client(url),
    ):
        assert await first(woken) == "m"
        async with waiting_client(url, "other"):
            assert await first(woken) == "other"

    assert woken.empty()


async def test_the_watch_goes_on_when_the_gateway_has_restarted(control: Path) -> None:
    async with watching(control) as woken:
        for _ in range(2):
            async with running(control) as url, waiting_client(url):
                assert await first(woken) == "m"
            while not woken.empty():
                woken.get_nowait()
