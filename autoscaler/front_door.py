"""The warm-up as the gateway sends it: from its process, by its connections and its TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.config import Config
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable, NodeUnreachable, ReachUnavailable
from autoscaler.nodes.verify_http import Answer, Door, PortClosed, TlsRefused


@asynccontextmanager
async def warm_up_door(
    config: Config, authority: str | None
) -> AsyncIterator[Callable[[Endpoint], Door] | None]:
    """What makes the warm-up set out from the gateway; None behind an HAProxy, whose own check must pass besides.

    Args:
        authority: the certificate of who vouches for servers of https URLs.
    """
    if config.balancer != "gateway":
        yield None
        return
    gateway = GatewayBalancer(config.gateway_control, authority=authority)
    try:
        yield partial(GatewayDoor, gateway)
    finally:
        await gateway.close()


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
