"""The process: binds, serves, and ends without cutting an answer.

SIGTERM stops accepting, answers whoever waits with 503, and lets running answers end for up to the drain
timeout. The control socket answers until the last, so that the daemon can watch. SIGUSR2 starts the next process, which
takes over: this one then accepts no more and ends when its last answer has, however long that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import structlog
from aiohttp import web

from autoscaler.bounded_http import BoundedPage
from autoscaler.errors import ConfigError
from autoscaler.gateway.body import Bodies
from autoscaler.gateway.connection import ClientServer
from autoscaler.gateway.control import Control
from autoscaler.gateway.door import Door
from autoscaler.gateway.exposure import check_exposure, is_loopback
from autoscaler.gateway.forward import Forwarder
from autoscaler.gateway.front import Front
from autoscaler.gateway.front_page import FrontPage
from autoscaler.gateway.handover import Handover
from autoscaler.gateway.listen import BACKLOG, unlink_control
from autoscaler.gateway.notify import Notifier
from autoscaler.gateway.open_files import connections_that_fit, say_if_bounded
from autoscaler.gateway.peer import folder_of
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.predecessors import Predecessors, Succession, begin
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.gateway.sockets import Sockets
from autoscaler.gateway.state_file import StateFile
from autoscaler.gateway.upgrade import start_successor
from autoscaler.gateway.upstream import Upstreams

log = structlog.get_logger(__name__)

_HOUSEKEEPING_S = 1.0
_DRAIN_POLL_S = 0.25
_IDLE_S = 1.0  # long enough for a client that asks on a kept connection just now


async def serve(settings: GatewaySettings) -> None:
    """Run a gateway until SIGTERM or SIGINT, or until cancelled.

    Raises:
        ConfigError: an address, a path, a key or a certificate cannot be had, or must not be.
    """
    wanted = settings.max_connections
    settings = replace(settings, max_connections=connections_that_fit(wanted))
    gateway = Gateway(settings, connections_wanted=wanted)
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for number, does in (
            (signal.SIGTERM, gateway.stop),
            (signal.SIGINT, gateway.stop),
            (signal.SIGUSR2, gateway.upgrade),
        ):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, does)  # not in a side thread
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
        connections_wanted: what was asked for, where the limit of open files allows fewer.
    """

    settings: GatewaySettings
    connections_wanted: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    addresses: list[tuple[str, int]] = field(default_factory=list)
    metrics_address: tuple[str, int] | None = None
    door: Door = field(init=False)
    bodies: Bodies = field(init=False)
    clients: ClientServer | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)  # stopping, or retired
    _upgrading: asyncio.Event = field(default_factory=asyncio.Event)
    _listeners: list[asyncio.Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.door = Door(self.settings)
        self.bodies = Bodies(self.settings)

    def stop(self) -> None:
        """Begin to end: what runs may finish. Asked a second time, cut it."""
        if self._stopping.is_set() and self.clients is not None:
            self.clients.abort_all()
        self._stopping.set()
        self._leaving.set()

    def upgrade(self) -> None:
        """Start the next process, which takes over when it can."""
        self._upgrading.set()

    async def run(self) -> None:
        """Serve until `stop`, then drain; or until cancelled, which cuts.

        Raises:
            ConfigError: an address, a path, a key or a certificate cannot be had, or must not be.
        """
        loop = asyncio.get_running_loop()
        pools = Pools(loop)
        state_file = StateFile(self.settings.state_file, pools)
        notifier = Notifier()
        predecessors = Predecessors(pools)

        def retire(successor: int) -> None:
            pools.retire()
            state_file.let_go()
            for listener in self._listeners:
                listener.close()
            notifier.send(f"MAINPID={successor}")
            self._leaving.set()

        handover = Handover(pools, self.settings.control, retire, self.stop)
        async with contextlib.AsyncExitStack() as stack:
            handover.open(folder_of(self.settings))
            stack.callback(handover.close)
            stack.callback(predecessors.forget)
            succession = await self._meet(predecessors, handover, state_file)
            if succession is not None:
                stack.callback(succession.close)
            upstreams = Upstreams(loop, self.settings.node_keepalive_s)
            stack.callback(upstreams.close)
            door, bodies = self.door, self.bodies
            door.open()
            front = Front(
                pools,
                Forwarder(self.settings, upstreams),
                door.admission,
                bodies,
                frozenset(self.settings.paths),
            )
            clients = ClientServer(
                web.Server(front.handle, handler_cancellation=True),
                self.settings,
                loop,
                door.serving_context(),
            )
            self.clients = clients
            stack.push_async_callback(clients.shutdown)
            sockets = self._bind(stack, succession, handover)
            for opened in sockets.of("client"):
                self._listeners.append(
                    await loop.create_server(clients, sock=opened, backlog=BACKLOG)
                )
                stack.callback(self._listeners[-1].close)
            if succession is not None:
                predecessors.adopt(await succession.finish())
            page = FrontPage(door, clients, bodies)
            control = Control(pools, state_file, handover, predecessors, upstreams, page)
            serving = await stack.enter_async_context(contextlib.AsyncExitStack())
            await self._serve_control(serving, control, sockets)
            self._announce(notifier)
            async with asyncio.TaskGroup() as tasks:
                keepers = (
                    tasks.create_task(_housekeep(clients, upstreams, pools, state_file, notifier)),
                    tasks.create_task(door.keep()),
                    tasks.create_task(handover.serve()),
                    tasks.create_task(self._upgrades()),
                )
                following = tasks.create_task(predecessors.follow())
                await self._leaving.wait()
                if handover.is_retired:
                    following.cancel()  # it is the younger one's to tell them now
                    predecessors.forget()
                    log.info("gateway_retired", running=_running(pools))
                    await serving.aclose()
                    await self._finish(clients)
                else:
                    notifier.send("STOPPING=1")
                    for listener in self._listeners:
                        listener.close()
                    await predecessors.stop()
                pools.close()
                clients.close_idle()
                await self._drain(clients, pools, predecessors, notifier)
                for keeper in (*keepers, following):
                    keeper.cancel()
        log.info("gateway_stopped")

    async def _meet(
        self, predecessors: Predecessors, handover: Handover, state_file: StateFile
    ) -> Succession | None:
        """Find the elders of this process, begin to take over from the one that serves, and have the pools."""
        settings = self.settings
        serving = await predecessors.find(folder_of(settings), settings.control, handover.path)
        succession = await begin(serving) if serving is not None and settings.take_over else None
        if succession is None:
            state_file.load()
        else:
            state_file.take(succession.state)
        await predecessors.tell()
        return succession

    def _bind(
        self, stack: contextlib.AsyncExitStack, succession: Succession | None, handover: Handover
    ) -> Sockets:
        sockets = Sockets(self.settings, succession.sockets if succession else (), stack)
        sockets.open()
        if sockets.owns_control:
            inode = self.settings.control.stat().st_ino

            def unlink() -> None:
                is_elders = succession is not None and not succession.is_done
                if not handover.is_retired and not is_elders:
                    unlink_control(self.settings.control, inode)

            stack.callback(unlink)
        self.addresses = [opened.getsockname()[:2] for opened in sockets.of("client")]
        check_exposure(self.settings, self.addresses)
        if any(one.inherited for one in sockets.opened if one.role == "client"):
            self._compare_with_systemd()
        for opened in sockets.of("metrics"):
            self.metrics_address = opened.getsockname()[:2]
        handover.sockets = sockets.opened
        return sockets

    async def _serve_control(
        self, serving: contextlib.AsyncExitStack, control: Control, sockets: Sockets
    ) -> None:
        await serving.enter_async_context(_served(control.app(), sockets.of("control")))
        if metrics := sockets.of("metrics"):
            page = _served(control.metrics_app(), metrics, is_bounded=True)
            await serving.enter_async_context(page)

    async def _upgrades(self) -> None:
        while True:
            await self._upgrading.wait()
            self._upgrading.clear()
            await start_successor()

    def _announce(self, notifier: Notifier) -> None:
        for host, port in self.addresses:
            log.info("gateway_listening", host=host, port=port, **self._guards())
            if not is_loopback(host) and self.settings.behind_proxy:
                log.warning(
                    "gateway_trusts_its_proxy",
                    host=host,
                    hint="whoever reaches this address past the proxy can use the models",
                )
        say_if_bounded(self.connections_wanted, self.settings.max_connections)
        notifier.send("READY=1")
        self.started.set()

    def _compare_with_systemd(self) -> None:
        """Say so where a config asks for another address than the one that systemd opened."""
        listen = self.settings.listen
        if listen != GatewaySettings().listen and set(listen) != set(self.addresses):
            log.warning(
                "listen_not_served",
                listen=listen,
                served=self.addresses,
                hint="systemd opened the sockets: set ListenStream= in autoscaler-gateway.socket",
            )

    def _guards(self) -> dict[str, bool]:
        settings = self.settings
        return {"tls": settings.tls is not None, "keys": settings.client_keys is not None}

    async def _finish(self, clients: ClientServer) -> None:
        """Retired: serve who is connected, until all of them have been idle for a while, or until asked to stop."""
        loop = asyncio.get_running_loop()
        deadline, busy_at = loop.time() + self.settings.drain_timeout_s, loop.time()
        while clients.connections and not self._stopping.is_set() and loop.time() < deadline:
            if not all(connection.is_idle for connection in clients.connections):
                busy_at = loop.time()
            elif loop.time() - busy_at >= _IDLE_S:
                return
            await clients.emptied(_DRAIN_POLL_S)

    async def _drain(
        self,
        clients: ClientServer,
        pools: Pools,
        predecessors: Predecessors,
        notifier: Notifier,
    ) -> None:
        deadline = asyncio.get_running_loop().time() + self.settings.drain_timeout_s
        while clients.connections or predecessors.members:
            running = _running(pools) + predecessors.running
            notifier.send(f"STATUS={running} answers still run", "EXTEND_TIMEOUT_USEC=30000000")
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                log.warning("answers_cut", running=running)
                return
            if clients.connections:
                await clients.emptied(min(left_s, 10.0))
            else:
                await asyncio.sleep(min(left_s, _DRAIN_POLL_S))


def _running(pools: Pools) -> int:
    return sum(pool.in_flight for pool in pools.by_model.values())


@contextlib.asynccontextmanager
async def _served(
    app: web.Application, sockets: list[socket.socket], *, is_bounded: bool = False
) -> AsyncIterator[None]:
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=1.0,
        handler_cancellation=True,  # a daemon that died leaves no one waiting
        keepalive_timeout=75.0,
    )
    await runner.setup()
    listeners: list[asyncio.Server] = []
    try:
        for opened in sockets:
            if is_bounded and runner.server is not None:
                page = BoundedPage(runner.server)
                loop = asyncio.get_running_loop()
                listeners.append(await loop.create_server(page, sock=opened))
            else:
                await web.SockSite(runner, opened).start()
        yield
    finally:
        for listener in listeners:
            listener.close()
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
