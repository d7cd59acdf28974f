"""Builders for the engine: a server on loopback whose speed the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from autoscaler.emulator.engine.batch import Batch
from autoscaler.emulator.engine.commandline import parse
from autoscaler.emulator.engine.figures import Figures
from autoscaler.emulator.engine.hub import model_shape
from autoscaler.emulator.engine.running import Engine
from autoscaler.emulator.engine.server import Server
from autoscaler.emulator.engine.speed import Speed


def speed(step_s: float = 0.0005, kv_tokens: int = 100_000) -> Speed:
    """A step takes `step_s`, whatever its size; prompts cost next to nothing."""
    return Speed(1e-7, step_s, 0.0, 0.0, 0.0, kv_tokens)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up."""

    url: str
    server: Server
    http: aiohttp.ClientSession

    @property
    def batch(self) -> Batch:
        return self.server.engine.batch

    async def chat(self, **changes: object) -> dict[str, object]:
        """One answer, whole."""
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body | changes) as answer:
            found: dict[str, object] = await answer.json()
            return found | {"status": answer.status}

    async def metrics(self) -> dict[str, float]:
        """The metrics page: series → value."""
        async with self.http.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in pairs}


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start servers by a real server's command line; all are stopped at the end."""
    servers: list[TestServer] = []
    drivers: list[asyncio.Task[None]] = []

    async with aiohttp.ClientSession() as http:

        async def build(
            *arguments: str, step_s: float = 0.0005, kv_tokens: int = 100_000, ready: bool = True
        ) -> Running:
            settings = parse(["--events-per-second", "100", *arguments], {})
            batch = Batch(
                speed=speed(step_s, kv_tokens),
                figures=Figures(),
                max_num_seqs=settings.max_num_seqs,
                emit_every_s=1 / settings.events_per_second,
            )
            shape = model_shape(settings.model)
            context = settings.max_model_len or shape.context
            server = Server(settings, shape, Engine(batch), context, is_ready=ready)
            drivers.append(asyncio.create_task(server.engine.drive()))
            site = TestServer(server.application())
            await site.start_server()
            servers.append(site)
            return Running(str(site.make_url("")).rstrip("/"), server, http)

        yield build
        for site in servers:
            await site.close()
    for driver in drivers:
        driver.cancel()
    await asyncio.gather(*drivers, return_exceptions=True)
