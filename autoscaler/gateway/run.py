"""The process: binds, serves, and ends without cutting an answer.

SIGTERM stops accepting, answers whoever waits with 503, and lets running answers end for up to the drain
timeout. The control socket answers until the last, so that the daemon can watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from autoscaler.errors import ConfigError
from autoscaler.gateway.body import Bodies
from autoscaler.gateway.connection import ClientServer
from autoscaler.gateway.control import Control
from autoscaler.gateway.door import Door
from autoscaler.gateway.exposure import check_exposure, is_loopback
from autoscaler.gateway.forward import Forwarder
from autoscaler.gateway.front import Front
from autoscaler.gateway.front_page import FrontPage
from autoscaler.gateway.listen import BACKLOG, bind_control, bind_tcp, inherited, unlink_control
from autoscaler.gateway.notify import Notifier
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.gateway.state_file import StateFile
from autoscaler.gateway.upstream import Upstreams

log = structlog.get_logger(__name__)

_HOUSEKEEPING_S = 1.0


async def serve(settings: GatewaySettings) -> None:
    """Run a gateway until SIGTERM or SIGINT, or until cancelled.

    Raises:
        ConfigError: an address, a path, a key or a certificate cannot be had, or must not be.
    """
    gateway = Gateway(settings)
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, gateway.stop)  # not in a side thread
                stack.callback(loop.remove_signal_handler, number)
        await gateway.run()


@dataclass(eq=False, slots=True)
class Gateway:
    """One gateway in this event loop.

    Attributes:
        addresses: where clients reach it, once `started` is set.
        metrics_address: where Prometheus reaches it, if asked for.
        door: keys and certificate, as they are in force.
        bodies: what clients have sent of requests under way.
        clients: their connections.
    """

    settings: GatewaySettings
    started: asyncio.Event = field(default_factory=asyncio.Event)
    addresses: list[tuple[str, int]] = field(default_factory=list)
    metrics_address: tuple[str, int] | None = None
    door: Door = field(init=False)
    bodies: Bodies = field(init=False)
    clients: ClientServer | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.door = Door(self.settings)
        self.bodies = Bodies(self.settings)

    def stop(self) -> None:
        """Begin to end: what runs may finish. Asked a second time, cut it."""
        if self._stopping.is_set() and self.clients is not None:
            self.clients.abort_all()
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`, then drain; or until cancelled, which cuts.

        Raises:
            ConfigError: an address, a path, a key or a certificate cannot be had, or must not be.
        """
        loop = asyncio.get_running_loop()
        pools = Pools(loop)
        state_file = StateFile(self.settings.state_file, pools)
        state_file.load()
        notifier = Notifier()
        async with contextlib.AsyncExitStack() as stack:
            upstreams = Upstreams(loop, self.settings.node_keepalive_s)
            stack.callback(upstreams.close)
            door = self.door
            door.open()
            front = Front(pools, Forwarder(self.settings, upstreams), door.admission, self.bodies)
            clients = ClientServer(
                web.Server(front.handle, handler_cancellation=True),
                self.settings,
                loop,
                door.serving_context(),
            )
            self.clients = clients
            stack.push_async_callback(clients.shutdown)
            control = Control(pools, state_file, FrontPage(door, clients, self.bodies))
            client_sockets, control_sockets = self._bind(stack)
            await stack.enter_async_context(_served(control.app(), control_sockets))
            if self.settings.metrics is not None:
                opened = bind_tcp(*self.settings.metrics, reuse_port=self.settings.reuse_port)
                self.metrics_address = opened.getsockname()[:2]
                await stack.enter_async_context(_served(control.metrics_app(), [opened]))
            listeners = [
                await loop.create_server(clients, sock=opened, backlog=BACKLOG)
                for opened in client_sockets
            ]
            for listener in listeners:
                stack.callback(listener.close)
            self.addresses = [opened.getsockname()[:2] for opened in client_sockets]
            self._announce(notifier)
            async with asyncio.TaskGroup() as tasks:
                keepers = (
                    tasks.create_task(_housekeep(clients, upstreams, pools, state_file, notifier)),
                    tasks.create_task(door.keep()),
                )
                await self._stopping.wait()
                notifier.send("STOPPING=1")
                for listener in listeners:
                    listener.close()
                await self._drain(clients, pools, notifier)
                for keeper in keepers:
                    keeper.cancel()
        log.info("gateway_stopped")

    def _bind(
        self, stack: contextlib.AsyncExitStack
    ) -> tuple[list[socket.socket], list[socket.socket]]:
        clients, control = inherited()
        if not clients:
            clients = []
            for host, port in self.settings.listen:
                clients.append(bind_tcp(host, port, reuse_port=self.settings.reuse_port))
                stack.callback(clients[-1].close)
        check_exposure(self.settings, [opened.getsockname()[:2] for opened in clients])
        if not control:
            control = [bind_control(self.settings.control)]
            inode = self.settings.control.stat().st_ino
            stack.callback(unlink_control, self.settings.control, inode)
        return clients, control

    def _announce(self, notifier: Notifier) -> None:
        for host, port in self.addresses:
            log.info("gateway_listening", host=host, port=port, **self._guards())
            if not is_loopback(host) and self.settings.behind_proxy:
                log.warning(
                    "gateway_trusts_its_proxy",
                    host=host,
                    hint="whoever reaches this address past the proxy can use the models",
                )
        notifier.send("READY=1")
        self.started.set()

    def _guards(self) -> dict[str, bool]:
        settings = self.settings
        return {"tls": settings.tls is not None, "keys": settings.client_keys is not None}

    async def _drain(self, clients: ClientServer, pools: Pools, notifier: Notifier) -> None:
        pools.close()
        clients.close_idle()
        deadline = asyncio.get_running_loop().time() + self.settings.drain_timeout_s
        while clients.connections:
            running = sum(pool.in_flight for pool in pools.by_model.values())
            notifier.send(f"STATUS={running} answers still run", "EXTEND_TIMEOUT_USEC=30000000")
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                log.warning("answers_cut", running=running)
                return
            await clients.emptied(min(left_s, 10.0))


@contextlib.asynccontextmanager
async def _served(app: web.Application, sockets: list[socket.socket]) -> AsyncIterator[None]:
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=1.0,
        handler_cancellation=True,  # a daemon that died leaves no one waiting
        keepalive_timeout=75.0,
    )
    await runner.setup()
    try:
        for opened in sockets:
            await web.SockSite(runner, opened).start()
        yield
    finally:
        await runner.cleanup()


async def _housekeep(
    clients: ClientServer,
    upstreams: Upstreams,
    pools: Pools,
    state_file: StateFile,
    notifier: Notifier,
) -> None:
    """Once a second: sweep the connections, keep the rings and the file current, feed the watchdog."""
    loop = asyncio.get_running_loop()
    fed = loop.time()
    while True:
        try:
            clients.sweep()
            upstreams.sweep()
            for pool in pools.by_model.values():
                pool.tick()
            if state_file.is_behind:
                await state_file.keep()
        except Exception:
            log.exception("housekeeping_failed")
        if notifier.watchdog_s and loop.time() - fed >= min(notifier.watchdog_s, 10.0):
            notifier.send("WATCHDOG=1")
            fed = loop.time()
        await asyncio.sleep(_HOUSEKEEPING_S)


__all__ = ["ConfigError", "Gateway", "GatewaySettings", "serve"]
