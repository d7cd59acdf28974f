"""Real balancers on loopback, and model servers whose answers last until a test lets them end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest
from aiohttp import web

from autoscaler.balance.haproxy_socket import count_old_processes, show_info
from autoscaler.balance.protocol import Balancer, Pool, PoolReport, ServerReport, ServerState
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable
from autoscaler.gateway.run import Gateway
from autoscaler.gateway.settings import GatewaySettings
from tests.world.files import free_port
from tests.world.haproxy import MASTER, SHIPPED, SOCKET, shipped

DEADLINE_S = 10.0


class ModelServer:
    """An engine at the network's edge: each answer streams its first token and ends when let go."""

    def __init__(self) -> None:
        self.served = 0
        self.in_flight = 0
        self.is_healthy = True
        self.may_end = asyncio.Event()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Go away; streams are cut."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_healthy else 503)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.served += 1
        self.in_flight += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(f'data: {{"by": "{self.url}"}}\n\n'.encode())
            if body.get("is_long"):
                await self.may_end.wait()
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
            return response
        finally:
            self.in_flight -= 1


def endpoint_of(server: ModelServer, name: str, capacity: int = 100, weight: int = 100) -> Endpoint:
    return Endpoint(f"as-teamaaaa-{name}-1-qwen", server.url, capacity, weight)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got: whole, or None where the connection broke."""

    status: int
    text: str

    @property
    def is_whole(self) -> bool:
        return self.status == 200 and self.text.endswith("data: [DONE]\n\n")


class Clients:
    """Clients with kept connections, all asking for one model."""

    def __init__(self, url: str, model: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._model = model
        self._session = session

    async def ask(self, *, is_long: bool = False, model: str | None = None) -> Answer:
        body = {"model": model or self._model, "prompt": "hello", "is_long": is_long}
        try:
            async with self._session.post(f"{self._url}/v1/completions", json=body) as response:
                return Answer(response.status, await response.text())
        except aiohttp.ClientError as exc:
            return Answer(0, repr(exc))

    async def first_event(self) -> str:
        """Ask for a long answer, and go away after its first event."""
        body = {"model": self._model, "prompt": "hello", "is_long": True}
        async with self._session.post(f"{self._url}/v1/completions", json=body) as response:
            return (await response.content.readuntil(b"\n\n")).decode()


class Process(Protocol):
    """A balancer that a test may stop and start."""

    @property
    def url(self) -> str:
        """Where clients ask."""

    async def forget(self) -> None:
        """Restart or reload it so that it forgets what it was told at run time."""

    async def stop(self) -> None:
        """End it."""


@dataclass
class Balancing:
    """One balancer with its adapter, and what stands before and behind it."""

    kind: str
    balancer: Balancer
    process: Process
    model: ModelName
    clients: Clients
    control: Path
    activator: ModelServer

    async def report_when(self, is_so: Callable[[PoolReport], bool]) -> PoolReport:
        """Ask until the report is as wanted."""
        report = await self.balancer.report(self.model)
        async with asyncio.timeout(DEADLINE_S):
            while not is_so(report):
                await asyncio.sleep(0.01)
                report = await self.balancer.report(self.model)
        return report

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a condition of the test's own servers holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not is_so():  # noqa: ASYNC110 -- what is awaited is a figure, which sets no event
                await asyncio.sleep(0.005)

    async def is_up(self, endpoint: Endpoint) -> PoolReport:
        def up(report: PoolReport) -> bool:
            server = report.server(endpoint.id)
            return server is not None and server.state is ServerState.UP

        return await self.report_when(up)

    async def is_idle(self, endpoint: Endpoint) -> None:
        def idle(report: PoolReport) -> bool:
            server = report.server(endpoint.id)
            return server is not None and server.in_flight == server.queued == 0

        await self.report_when(idle)

    async def server(self, endpoint: Endpoint) -> ServerReport:
        """What the balancer says of an endpoint that it must know."""
        found = (await self.balancer.report(self.model)).server(endpoint.id)
        assert found is not None, f"{self.kind} does not list {endpoint.id}"
        return found

    async def serve(self, *endpoints: Endpoint) -> None:
        """Register endpoints and wait until they are up."""
        await self.balancer.ensure_pool(Pool(self.model))
        for endpoint in endpoints:
            await self.balancer.register(self.model, endpoint)
        for endpoint in endpoints:
            await self.is_up(endpoint)


@dataclass
class HaproxyProcess:
    """A real HAProxy with the configuration that we ship, on free ports and without root.

    Attributes:
        routes: shipped files that go with it, as their text is to be here.
    """

    folder: Path
    activator_url: str
    edits: tuple[tuple[str, str], ...] = ()
    routes: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    _process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_path(self) -> Path:
        return self.folder / SOCKET

    @property
    def master_path(self) -> Path:
        return self.folder / MASTER

    def config(self) -> str:
        return shipped(
            self.folder,
            front=self.port,
            metrics=self.metrics_port,
            activator=self.activator_url.removeprefix("http://"),
            edits=(*self.edits, ("/etc/haproxy/models.map", str(SHIPPED / "models.map"))),
        )

    def write(self) -> list[str]:
        """Write its files; the arguments that name them."""
        arguments = []
        for number, text in enumerate((self.config(), *self.routes)):
            path = self.folder / f"haproxy-{number}.cfg"
            path.write_text(text)
            arguments += ["-f", str(path)]
        return arguments

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(haproxy_binary(), "-W", "-S", str(self.master_path), *self.write()),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await self._answers(lambda _pid: True)

    async def forget(self) -> None:
        assert self._process is not None
        before = (await show_info(self.socket_path)).pid
        self._process.send_signal(signal.SIGUSR2)
        await self._answers(lambda pid: pid != before)

    def hide(self) -> None:
        """Let nobody reach its socket; it serves on, and remembers all that it was told."""
        self.socket_path.rename(self.socket_path.with_suffix(".hidden"))

    def show(self) -> None:
        self.socket_path.with_suffix(".hidden").rename(self.socket_path)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def _answers(self, is_right: Callable[[int], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(BalancerUnavailable):
                    await count_old_processes(self.master_path)
                    if is_right((await show_info(self.socket_path)).pid):
                        return
                await asyncio.sleep(0.01)


class GatewayProcess:
    """A real gateway in this event loop, without a state file: a restart forgets all."""

    def __init__(self, folder: Path) -> None:
        self.control = folder / "gateway.sock"
        self._port = 0
        self._gateway: Gateway | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        settings = GatewaySettings(
            listen=(("127.0.0.1", self._port),), control=self.control, drain_timeout_s=0.1
        )
        self._gateway = Gateway(settings)
        self._task = asyncio.create_task(self._gateway.run())
        started = asyncio.create_task(self._gateway.started.wait())
        await asyncio.wait(
            (self._task, started), timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED
        )
        started.cancel()
        if self._task.done():
            self._task.result()  # says why it did not start
        self._port = self._gateway.addresses[0][1]

    async def ask(self, model: str) -> Answer:
        """Ask once, as a client of its own."""
        async with aiohttp.ClientSession() as session:
            return await Clients(self.url, model, session).ask()

    async def forget(self) -> None:
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        if self._gateway is not None and self._task is not None:
            self._gateway.stop()
            await self._task


class FakeSocket:
    """HAProxy's socket as a fault would have it: each command is noted and answered as told."""

    def __init__(self, path: Path, answer: Callable[[str], str | None]) -> None:
        self.path = path
        self.commands: list[str] = []
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def writes(self) -> list[str]:
        return [command for command in self.commands if not command.startswith("show ")]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = (await reader.readline()).decode().strip()
        self.commands.append(command)
        answer = self._answer(command)
        if answer is None:  # silence, until the other side gives up
            await reader.read()
        else:
            writer.write(answer.encode())
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()


class StartFake(Protocol):
    """Starts a fake socket; None as an answer is silence."""

    async def __call__(self, answer: Callable[[str], str | None]) -> FakeSocket: ...


class NewServer(Protocol):
    """Starts one more model server."""

    async def __call__(self) -> ModelServer: ...


class StartHaproxy(Protocol):
    """Starts HAProxy with the shipped configuration, some of its text replaced."""

    async def __call__(self, *edits: tuple[str, str]) -> Balancing: ...


def haproxy_binary() -> str:
    """Where HAProxy is; its absence fails the test with the command that installs it."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    found = shutil.which("haproxy", path=path)
    if found is None:
        pytest.fail("no haproxy here: apt-get install haproxy")
    return found
