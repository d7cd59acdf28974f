"""Model servers over SSH: a local port each, which another process leads to the node's loopback.

That process keeps what it was told. It is told again whenever its list says otherwise, so it does not matter which of
the two was restarted, or when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

import structlog

from autoscaler.clock import Clock
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.machine import Machine
from autoscaler.domain.node import Endpoint, Node, State
from autoscaler.errors import NodeUnreachable, ReachUnavailable
from autoscaler.nodes.facts import endpoints_of
from autoscaler.nodes.shell import NodeShell
from autoscaler.nodes.tunnel_client import TunnelClient, TunnelState, TunnelWish
from autoscaler.policy import Policy

log = structlog.get_logger(__name__)

LOCAL = "127.0.0.1"


@dataclass(eq=False, slots=True)
class TunnelReach:
    """Tunnels, one for each replica (`Reach`).

    Attributes:
        user: to log in as, at `port` of every node.
        mark: what the names of our nodes begin with: tunnels of other names are nobody's business here.
        policies: which port a model's servers have, for a process that has forgotten everything.
        fresh: how old a listing may be to stand for now.
        trouble: why the process cannot be asked, as it was last seen.
    """

    client: TunnelClient
    user: str
    port: int
    mark: str
    policies: Callable[[], Mapping[ModelName, Policy]]
    clock: Clock
    fresh: timedelta
    trouble: str | None = None
    _known: Mapping[str, TunnelState] | ReachUnavailable = field(default_factory=dict)
    _known_at_s: float | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _unwanted: frozenset[str] = frozenset()

    async def endpoints(self, node: Node, machine: Machine, policy: Policy) -> tuple[Endpoint, ...]:
        """A tunnel for each replica; what they are called is fixed, so asked again it gives the same (`Reach`)."""
        made = endpoints_of(node, [""] * node.replicas)
        urls = []
        for replica, endpoint in enumerate(made):
            wish = self._wish(node, endpoint.id, policy.server.port + replica, None)
            urls.append(f"http://{LOCAL}:{(await self._put(wish)).local_port}")
        return endpoints_of(node, urls)

    async def prepare(self, shell: NodeShell, stage: str | None, node: Node) -> None:
        """Nothing to give: the node's sshd is all that it needs (`Reach`)."""

    async def keep(self, node: Node) -> None:
        """Tell the process again what it does not have; while a node boots, its port may refuse (`Reach`).

        Raises:
            ReachUnavailable: the process does not answer; nothing is known of the node.
        """
        policy = self.policies().get(node.model)
        for replica, endpoint in enumerate(node.endpoints):
            local_port = _local_port(endpoint)
            if local_port is None or policy is None:
                continue  # it was reached another way when it was made, or nobody knows its port
            listed = (await self._listing()).get(endpoint.id)
            port = listed.remote_port if listed is not None else policy.server.port + replica
            wish = self._wish(node, endpoint.id, port, local_port)
            if listed is None or not wish.is_met_by(listed):
                listed = await self._put(wish)
                log.info("tunnel_told_again", node=node.name, tunnel=endpoint.id)
            if listed.local_port != local_port:
                raise NodeUnreachable(
                    f"its local port {local_port} is another process's now (ss -ltnp), so that balancers "
                    "cannot reach it any more"
                )
            if listed.state != "up" and node.state is not State.VERIFYING:
                raise NodeUnreachable(f"the tunnel to {node.address}: {listed.why}")

    async def close(self, node: Node) -> None:
        """Forget its tunnels. A process that is away forgets them later: no deletion waits for it (`Reach`)."""
        for endpoint in node.endpoints:
            if _local_port(endpoint) is None:
                continue
            try:
                if endpoint.id in await self._listing():
                    await self.client.remove(endpoint.id)
                    self._known_at_s = None
            except ReachUnavailable as exc:
                log.debug("tunnel_not_removed", tunnel=endpoint.id, why=str(exc))

    def ports_to_open(self, ports: Sequence[int]) -> tuple[int, ...]:
        """None: only SSH is used, which is open (`Reach`)."""
        return ()

    async def tend(
        self, wanted: Collection[str], is_closed: Callable[[NodeName], Awaitable[bool]]
    ) -> None:
        """Look whether the process answers, and remove tunnels of nodes that are no more.

        Args:
            wanted: the ids of all endpoints of nodes that are not closed. A tunnel goes when two looks in a row found
                it unwanted: one may have been put while the nodes were read.
            is_closed: whether a node is recorded as gone. The tunnel of one that no row knows stays: the store may
                have been lost, and requests go on through it.

        Raises:
            StoreUnavailable: `is_closed` could not be asked.
        """
        try:
            listed = await self._listing()
            left = {name for name in listed if name.startswith(self.mark)} - set(wanted)
            unwanted = {name for name in left if await is_closed(NodeName(name.partition(".")[0]))}
            for name in sorted(unwanted & self._unwanted):
                await self.client.remove(name)
                self._known_at_s = None
                log.info("tunnel_of_nobody_removed", tunnel=name)
            self._unwanted = frozenset(unwanted)
        except ReachUnavailable as exc:
            if str(exc) != self.trouble:
                log.error("tunnels_unavailable", why=str(exc), nodes="none is given up for it")
            self.trouble = str(exc)
            return
        if self.trouble is not None:
            log.info("tunnels_available")
        self.trouble = None

    def _wish(
        self, node: Node, tunnel_id: str, remote_port: int, local_port: int | None
    ) -> TunnelWish:
        if node.address is None or node.host_key is None:
            raise NodeUnreachable(f"{node.name}: no pinned host key, so nothing is led to it")
        return TunnelWish(
            tunnel_id, node.address, self.port, self.user, node.host_key, remote_port, local_port
        )

    async def _put(self, wish: TunnelWish) -> TunnelState:
        self._known_at_s = None
        return await self.client.put(wish)

    async def _listing(self) -> Mapping[str, TunnelState]:
        """What the process has, or that it does not answer: asked once for all nodes that are looked at in one step."""
        async with self._asking:
            now_s = self.clock.boot_s()
            if self._known_at_s is None or now_s - self._known_at_s >= self.fresh.total_seconds():
                try:
                    self._known = await self.client.listing()
                except ReachUnavailable as exc:
                    self._known = exc
                self._known_at_s = self.clock.boot_s()
        if isinstance(self._known, ReachUnavailable):
            raise ReachUnavailable(str(self._known)) from self._known
        return self._known


def _local_port(endpoint: Endpoint) -> int | None:
    """The local port that leads to an endpoint; None when it is reached another way."""
    parts = urlsplit(endpoint.url)
    return parts.port if parts.hostname == LOCAL else None
