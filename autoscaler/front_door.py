"""Where the warm-up sets out from: where clients' requests will, the balancer's process or at least its host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from urllib.parse import urlsplit

import aiohttp
import asyncssh

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.remote import HaproxySockets, SshHost
from autoscaler.config import Config
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable, NodeUnreachable, ReachUnavailable
from autoscaler.nodes.verify_http import Answer, Asker, Door, PortClosed, TlsRefused, ask

_CONNECT_S = 10.0


@asynccontextmanager
async def warm_up_door(
    config: Config,
    authority: str | None,
    session: aiohttp.ClientSession,
    sockets: Callable[[], HaproxySockets],
) -> AsyncIterator[Callable[[Endpoint], Door] | None]:
    """What makes the warm-up set out from the balancers; None where each is an HAProxy on this host.

    Behind an HAProxy the warm-up goes from its host, and HAProxy's own check must pass besides.

    Args:
        authority: the certificate of who vouches for servers of https URLs.
        session: for requests from this host; it trusts that authority.
        sockets: asked once a node is verified: who has connections to the hosts of HAProxies elsewhere.
    """
    if config.balancer == "gateway":
        gateway = GatewayBalancer(config.gateway_control, authority=authority)
        try:
            yield partial(GatewayDoor, gateway)
        finally:
            await gateway.close()
    elif any(one.ssh is not None for one in config.haproxy):
        is_here_too = any(one.ssh is None for one in config.haproxy)

        def door(endpoint: Endpoint) -> Door:
            far = tuple(SshDoor(host, endpoint, session) for host in sockets().hosts)
            return EveryDoor((*far, session) if is_here_too else far)

        yield door
    else:
        yield None


@dataclass(frozen=True, slots=True)
class GatewayDoor:
    """Requests to one endpoint that set out from the gateway (`Door`)."""

    gateway: GatewayBalancer
    endpoint: Endpoint

    async def ask(
        self, url: str, *, timeout_s: float, payload: Mapping[str, object] | None
    ) -> Answer:
        """Have the gateway ask (`Door`)."""
        path = url.removeprefix(self.endpoint.url)
        try:
            seen = await self.gateway.probe(
                self.endpoint, path, payload, timedelta(seconds=timeout_s)
            )
        except BalancerUnavailable as exc:
            raise ReachUnavailable(f"waits for the gateway: {exc}") from exc
        match seen.failed:
            case None:
                return Answer(seen.status, seen.body, seen.seconds)
            case "connect":
                raise PortClosed(f"{url}: from the gateway: {seen.why}")
            case "tls":
                raise TlsRefused(f"{url}: from the gateway: {seen.why}")
            case "timeout":
                raise NodeUnreachable(f"{url}: from the gateway: {seen.why}") from TimeoutError()
            case _:
                raise NodeUnreachable(f"{url}: from the gateway: {seen.why}")


@dataclass(frozen=True, slots=True)
class EveryDoor:
    """Requests from several places: each that is there must be answered (`Door`).

    What is away holds nothing up here; whether a node counts without it, the balancers' group says.
    """

    doors: tuple[Asker, ...]

    async def ask(
        self, url: str, *, timeout_s: float, payload: Mapping[str, object] | None
    ) -> Answer:
        """Ask from each in turn, until one answer is no success (`Door`)."""
        answer: Answer | None = None
        away: ReachUnavailable | None = None
        for door in self.doors:
            try:
                answer = await ask(door, url, timeout_s=timeout_s, payload=payload)
            except ReachUnavailable as exc:
                away = exc
                continue
            if answer.status != 200:
                break
        if answer is None:
            raise away or ReachUnavailable(f"{url}: there is nobody to ask from")
        return answer


@dataclass(frozen=True, slots=True)
class SshDoor:
    """Requests to one endpoint that set out from the host of an HAProxy elsewhere, through its SSH connection (`Door`).

    Attributes:
        session: sends them into the tunnel; it trusts who vouches for the endpoint.
    """

    host: SshHost
    endpoint: Endpoint
    session: aiohttp.ClientSession

    async def ask(
        self, url: str, *, timeout_s: float, payload: Mapping[str, object] | None
    ) -> Answer:
        """Ask from there (`Door`)."""
        try:
            connection = await self.host.connection()
        except BalancerUnavailable as exc:
            raise ReachUnavailable(f"waits for the host of HAProxy: {exc}") from exc
        there = urlsplit(self.endpoint.url)
        address, port = there.hostname or "", there.port or 0
        await self._knock(connection, address, port)
        tunnel = await connection.forward_local_port("127.0.0.1", 0, address, port)
        try:
            here = f"{there.scheme}://127.0.0.1:{tunnel.get_port()}"
            return await ask(
                self.session,
                here + url.removeprefix(self.endpoint.url),
                timeout_s=timeout_s,
                payload=payload,
                server_name=self.endpoint.host_name,
            )
        finally:
            tunnel.close()

    async def _knock(
        self, connection: asyncssh.SSHClientConnection, address: str, port: int
    ) -> None:
        """See that the port takes a connection from there.

        Raises:
            PortClosed: it does not. ReachUnavailable: that host lets nothing through.
        """
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await connection.open_connection(address, port, encoding=None)
            writer.close()
        except asyncssh.ChannelOpenError as exc:
            if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                raise ReachUnavailable(
                    f"{self.host} does not let us ask from there: set AllowTcpForwarding local in its sshd_config"
                ) from exc
            raise PortClosed(self._closed(exc.reason), source=self.host.host) from exc
        except TimeoutError as exc:
            raise PortClosed(self._closed("no answer in time"), source=self.host.host) from exc
        except (asyncssh.Error, OSError) as exc:
            raise ReachUnavailable(f"{self.host}: the connection was lost: {exc}") from exc

    def _closed(self, why: str) -> str:
        return f"{self.endpoint.url}: from {self.host}: {why}"
