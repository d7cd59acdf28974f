"""Shared parts of the tests: a gateway in this loop, and scripted model servers on loopback."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from autoscaler.gateway.run import Gateway, GatewaySettings

MODEL = "org/chat-8b"


def event(text: str) -> bytes:
    chunk = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@dataclass(eq=False)
class Engine:
    """A model server that streams when told: `gate` holds its answers back while it is clear."""

    url: str = ""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    gone: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    events: int = 5
    die_after: int | None = None
    running: int = 0
    most_running: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            body = await request.read()
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            asked = json.loads(body)
            if asked.get("stream"):
                return await self._stream(request)
            self.started.release()
            await self.gate.wait()
            if request.path.endswith("embeddings"):
                return web.json_response(_embedding())
            return web.json_response(_completion())
        except asyncio.CancelledError:
            self.gone.release()
            raise
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(event("0"))
        self.started.release()
        await self.gate.wait()
        for index in range(1, self.events):
            if index == self.die_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(event(str(index)))
        await response.write(b"data: [DONE]\n\n")
        return response


def _completion() -> dict[str, Any]:
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33},
    }


def _embedding() -> dict[str, Any]:
    return {
        "object": "list",
        "model": MODEL,
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass(eq=False)
class Front:
    """A gateway under test, as its clients and the daemon see it."""

    gateway: Gateway
    control: aiohttp.ClientSession
    client: aiohttp.ClientSession
    done: asyncio.Task[None]

    @property
    def url(self) -> str:
        host, port = self.gateway.addresses[0]
        return f"http://{host}:{port}"

    async def tell(self, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
        """POST to the control API; the answer's status is checked."""
        async with self.control.post(f"http://gateway/v1/{path}", json=body) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == status, answer
            return answer

    async def ask(self, path: str, **query: str) -> dict[str, Any]:
        url = f"http://gateway/v1/{path}"
        async with self.control.get(url, params=query) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    async def pool(self, **settings: Any) -> None:
        await self.tell("pools/put", model=MODEL, **settings)

    async def add(self, name: str, url: str, **fields: Any) -> None:
        await self.tell("endpoints/add", model=MODEL, id=name, url=url, **fields)

    async def pool_state(self) -> dict[str, Any]:
        pool: dict[str, Any] = (await self.ask("state"))["pools"][MODEL]
        return pool

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Poll the pool's state until `holds`, for at most 10 s."""
        async with asyncio.timeout(10):
            while not holds(state := await self.pool_state()):  # noqa: ASYNC110 - it is in the other side
                await asyncio.sleep(0.01)
            return state

    async def chat(self, **fields: Any) -> tuple[int, bytes, dict[str, str]]:
        """Send one chat request; return status, body and headers (names in lower case)."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]} | fields
        data = io.BytesIO(json.dumps(body).encode())
        headers_in = {"Content-Type": "application/json"}
        url = f"{self.url}/v1/chat/completions"
        async with self.client.post(url, data=data, headers=headers_in) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, await response.read(), headers


@asynccontextmanager
async def running(settings: GatewaySettings) -> AsyncIterator[Front]:
    gateway = Gateway(settings)
    done = asyncio.create_task(gateway.run())
    started = asyncio.create_task(gateway.started.wait())
    try:
        await asyncio.wait((done, started), return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            await done
        async with AsyncExitStack() as stack:
            control = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(settings.control)))
            )
            client = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            )
            yield Front(gateway, control, client, done)
    finally:
        started.cancel()
        done.cancel()
        await asyncio.wait((done,))


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    return GatewaySettings(
        listen=(("127.0.0.1", 0),),
        control=tmp_path / "control.sock",
        state_file=tmp_path / "state.json",
    )


@pytest.fixture
async def gateway(settings: GatewaySettings) -> AsyncIterator[Front]:
    """A gateway with one pool and no endpoint."""
    async with running(settings) as front:
        await front.pool()
        yield front


@pytest.fixture
def start(
    settings: GatewaySettings,
) -> Callable[..., Any]:
    """Start another gateway, with some settings changed: `async with start(max_body_bytes=10)`."""

    def begin(**changed: Any) -> Any:
        return running(replace(settings, **changed))

    return begin


@pytest.fixture
def serve_with() -> Callable[..., Any]:
    """Serve a handler on loopback: `async with serve_with(handler) as url`."""
    return serving


@pytest.fixture
async def engines() -> AsyncIterator[Callable[[], Awaitable[Engine]]]:
    """Start model servers; their gates stand open."""
    async with AsyncExitStack() as stack:

        async def begin() -> Engine:
            engine = Engine()
            engine.gate.set()
            engine.url = await stack.enter_async_context(serving(engine.answer))
            stack.callback(engine.gate.set)
            return engine

        yield begin


@pytest.fixture
async def engine(engines: Callable[[], Awaitable[Engine]]) -> Engine:
    return await engines()


@pytest.fixture
def dead_url() -> Iterator[str]:
    """An address that refuses connections: bound, so that nobody else takes it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def dead_socket(settings: GatewaySettings) -> None:
    """A socket file that its process left behind."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(settings.control))
