"""A page that a test writes, served on loopback, and instants that follow each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import aiohttp
import pytest
from aiohttp import web

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.observe.protocol import Target

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass(eq=False)
class Server:
    """Answers every path with what the test set last."""

    url: str = ""
    text: str | bytes = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.answer is not None:
            return await self.answer(request)
        body = self.text.encode() if isinstance(self.text, str) else self.text
        return web.Response(body=body, status=self.status, headers=self.headers)


class Serve(Protocol):
    """Starts one more page server."""

    async def __call__(self, text: str = "") -> Server: ...


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start page servers; each call gives another one."""
    runners: list[web.AppRunner] = []

    async def start(text: str = "") -> Server:
        server = Server(text=text)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return server

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def noon() -> datetime:
    return NOON


AsTarget = Callable[..., Target]


@pytest.fixture
def target() -> AsTarget:
    """Build a target of page servers' urls."""

    def build(*urls: str, starting: tuple[str, ...] = (), window_s: float = 60.0) -> Target:
        return Target(
            model=ModelName("m"),
            endpoints=tuple(Endpoint(f"n{i}", url, 8, 1) for i, url in enumerate(urls)),
            window=timedelta(seconds=window_s),
            starting=starting,
            ttft_target_s=0.5,
            itl_target_s=0.05,
        )

    return build
