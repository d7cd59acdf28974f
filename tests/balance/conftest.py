"""Start real balancers and model servers, and end them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.haproxy import HaproxyBalancer, HaproxySettings
from autoscaler.balance.protocol import Pool
from autoscaler.domain.ids import ModelName
from tests.balance.parts import (
    Balancing,
    Clients,
    FakeSocket,
    GatewayProcess,
    HaproxyProcess,
    ModelServer,
    NewServer,
    StartFake,
    StartHaproxy,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="balance-") as name:
        yield Path(name)


@pytest.fixture
async def new_server() -> AsyncIterator[NewServer]:
    """Start one more model server."""
    async with contextlib.AsyncExitStack() as stack:

        async def start() -> ModelServer:
            server = ModelServer()
            await server.start()
            stack.push_async_callback(server.stop)
            stack.callback(server.may_end.set)
            return server

        yield start


@pytest.fixture
async def fake_socket(folder: Path) -> AsyncIterator[StartFake]:
    """Listen on a Unix socket in HAProxy's place, answering as a test says; it notes the commands."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(answer: Callable[[str], str | None]) -> FakeSocket:
            fake = FakeSocket(folder / "fake.sock", answer)
            stack.push_async_callback(fake.stop)
            await fake.start()
            return fake

        yield start


@pytest.fixture
async def start_haproxy(folder: Path, new_server: NewServer) -> AsyncIterator[StartHaproxy]:
    """Start HAProxy with the shipped configuration, `edits` made to it."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*edits: tuple[str, str]) -> Balancing:
            activator = await new_server()
            process = HaproxyProcess(folder, activator.url, edits)
            stack.push_async_callback(process.stop)
            await process.start()
            session = await stack.enter_async_context(_session())
            settings = HaproxySettings(
                process.socket_path, process.master_path, check_interval=timedelta(seconds=0.2)
            )
            model = ModelName("Qwen/Qwen3-8B")
            return Balancing(
                "haproxy",
                HaproxyBalancer(settings),
                process,
                model,
                Clients(process.url, model, session),
                process.socket_path,
                activator,
            )

        yield start


@pytest.fixture
async def start_gateway(
    folder: Path, new_server: NewServer
) -> AsyncIterator[Callable[[], Awaitable[Balancing]]]:
    """Start the gateway."""
    async with contextlib.AsyncExitStack() as stack:

        async def start() -> Balancing:
            process = GatewayProcess(folder)
            stack.push_async_callback(process.stop)
            await process.start()
            session = await stack.enter_async_context(_session())
            balancer = GatewayBalancer(process.control)
            stack.push_async_callback(balancer.close)
            model = ModelName("Qwen/Qwen3-8B")
            return Balancing(
                "gateway",
                balancer,
                process,
                model,
                Clients(process.url, model, session),
                process.control,
                await new_server(),
            )

        yield start


@pytest.fixture(params=["haproxy", "gateway"])
async def balancing(
    request: pytest.FixtureRequest,
    start_haproxy: StartHaproxy,
    start_gateway: Callable[[], Awaitable[Balancing]],
) -> Balancing:
    """Each balancer in turn, with an empty pool."""
    started = await (start_haproxy() if request.param == "haproxy" else start_gateway())
    await started.balancer.ensure_pool(Pool(started.model))
    return started


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=30)
    )
