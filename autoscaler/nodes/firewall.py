"""The one firewall rule of a project: serving and metrics ports, from the balancers and this daemon only.

Serving ports are closed until it exists, so no launch is made before it is in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from autoscaler.cloud.protocol import Cloud
from autoscaler.errors import CloudUnavailable, EndpointMissing

log = structlog.get_logger(__name__)


class FirewallGate:
    """Makes, verifies and mends the rule; lets launches through once it is active."""

    def __init__(self, cloud: Cloud, name: str, sources: Sequence[str], *, manage: bool) -> None:
        self._cloud = cloud
        self._name = name
        self._sources = tuple(sources)
        self._manage = manage
        self._ports: tuple[int, ...] = ()
        self._open_for: tuple[int, ...] | None = None

    def want(self, ports: Sequence[int]) -> None:
        """Say which TCP ports the policies serve on."""
        self._ports = tuple(sorted(set(ports)))

    async def ready(self) -> None:
        """Return once the rule was seen active for all wanted ports.

        Raises:
            CloudUnavailable: not yet; look again.
            Rejected: the cloud refuses the rule.
        """
        if not self._manage or not self._ports or self._open_for == self._ports:
            return
        await self.verify()

    async def verify(self) -> None:
        """Look at the rule again and mend it. Raises as `ready` does."""
        if not self._manage or not self._ports:
            return
        ports = self._ports
        if not self._sources:
            raise CloudUnavailable(
                "firewall.sources is empty, so nobody could reach a node's serving ports: name the CIDRs of the "
                "balancers and of this daemon, or set firewall.manage = false and open the ports yourself"
            )
        try:
            rule = await self._cloud.ensure_firewall_rule(self._name, self._sources, ports)
        except EndpointMissing as exc:
            raise CloudUnavailable(
                f"{exc}; make the rule {self._name} yourself and set firewall.manage = false"
            ) from exc
        if not rule.active:
            raise CloudUnavailable(f"the firewall rule {self._name} is not active yet")
        if self._open_for != ports:
            log.info("firewall_opened", rule=self._name, ports=ports, sources=self._sources)
        self._open_for = ports
