"""HAProxy as we ship it, and the gateway, its activator and a way in of its own: for fleets and clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.haproxy import HaproxyBalancer, HaproxySettings
from autoscaler.balance.haproxy_socket import show_info
from autoscaler.balance.protocol import Balancer, PoolReport
from autoscaler.domain.ids import ModelName
from autoscaler.errors import BalancerUnavailable
from tests.gateway.front_parts import put, write_pair
from tests.world.files import free_ports
from tests.world.haproxy import CONFIG, MASTER, SOCKET, write_for_models
from tests.world.processes import die_with_parent

_CHECK_S = 0.5
_START_S = 30.0


@dataclass(eq=False)
class Standing:
    """Both balancers, for these models.

    Attributes:
        reloads: how often each was reloaded.
    """

    folder: Path
    models: Sequence[ModelName]
    gateway: GatewayBalancer = field(init=False)
    haproxy: HaproxyBalancer = field(init=False)
    reloads: dict[str, int] = field(default_factory=dict)
    _ports: list[int] = field(default_factory=lambda: free_ports(4))
    _processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def balancers(self) -> tuple[Balancer, Balancer]:
        return self.gateway, self.haproxy

    @property
    def ways(self) -> Mapping[str, str]:
        """Where clients ask by HTTP/1.1."""
        front, inner, _, _ = self._ports
        return {"haproxy": f"http://127.0.0.1:{front}", "gateway": f"http://127.0.0.1:{inner}"}

    @property
    def http2(self) -> tuple[str, Path]:
        """Where they ask by HTTP/2, and the certificate that vouches for it."""
        return f"https://127.0.0.1:{self._ports[3]}", self.folder / "tls" / "fullchain.pem"

    async def __aenter__(self) -> Standing:
        self._write()
        await self._start("haproxy", self._haproxy_argv())
        await self._start("gateway", self._gateway_argv())
        self.gateway = GatewayBalancer(self.folder / "gateway.sock")
        self._stack.push_async_callback(self.gateway.close)
        check = timedelta(seconds=_CHECK_S)
        stats, master = self.folder / SOCKET, self.folder / MASTER
        self.haproxy = HaproxyBalancer(HaproxySettings(stats, master, check_interval=check))
        for balancer in self.balancers:
            await self._answers(balancer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _write(self) -> None:
        front, inner, metrics, http2 = self._ports
        pair, both = write_pair(self.folder / "tls"), self.folder / "tls" / "both.pem"
        put(both, (pair / "fullchain.pem").read_bytes() + (pair / "privkey.pem").read_bytes())
        write_for_models(
            *(self.folder, self.models),
            front=front,
            inner=inner,
            metrics=metrics,
            http2=(http2, both),
        )

    async def _start(self, name: str, argv: Sequence[str]) -> None:
        self._processes[name] = await self._stack.enter_async_context(_process(argv))

    def _haproxy_argv(self) -> tuple[str, ...]:
        binary = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin") or "haproxy"
        return (binary, "-W", "-S", str(self.folder / MASTER), "-f", str(self.folder / CONFIG))

    def _gateway_argv(self, *more: str) -> tuple[str, ...]:
        return (
            *(
                sys.executable,
                "-m",
                "autoscaler.gateway",
                "--listen",
                f"127.0.0.1:{self._ports[1]}",
            ),
            *("--control", str(self.folder / "gateway.sock"), "--state"),
            *(str(self.folder / "gateway.json"), *more),
        )

    async def reload_haproxy(self) -> None:
        """A new process takes over; the old one ends its answers."""
        before = (await self._answers(self.haproxy)).incarnation
        self._processes["haproxy"].send_signal(signal.SIGUSR2)
        await self._replaced(self.haproxy, before)
        self.reloads["haproxy"] = self.reloads.get("haproxy", 0) + 1

    async def upgrade_gateway(self) -> None:
        """The same."""
        before = (await self._answers(self.gateway)).incarnation
        await self._start("gateway", self._gateway_argv("--take-over"))
        await self._replaced(self.gateway, before)
        self.reloads["gateway"] = self.reloads.get("gateway", 0) + 1

    async def crash(self, name: str) -> None:
        """One of them is killed, and started again as it was."""
        worker = (await show_info(self.folder / SOCKET)).pid  # HAProxy's master does not serve
        self._processes[name].kill()
        await self._processes[name].wait()
        if name == "haproxy":
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            await self._start(name, self._haproxy_argv())
            await self._answers(self.haproxy)
        else:
            await self._start(name, self._gateway_argv())
            await self._answers(self.gateway)

    async def _replaced(self, balancer: Balancer, before: str) -> None:
        async with asyncio.timeout(_START_S):
            while (await self._answers(balancer)).incarnation == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _answers(self, balancer: Balancer) -> PoolReport:
        """Ask a balancer until it answers."""
        async with asyncio.timeout(_START_S):
            while True:
                with contextlib.suppress(BalancerUnavailable):
                    return await balancer.report(self.models[0])
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _process(argv: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program; it is killed on leaving, as it is when this process ends."""
    started = await asyncio.create_subprocess_exec(
        *argv,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(5):
                await started.wait()
        except TimeoutError:
            started.kill()
            await started.wait()
