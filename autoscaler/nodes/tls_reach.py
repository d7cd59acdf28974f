"""HTTPS to the public address: each node has a certificate of our own authority, in its memory only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoscaler.clock import Clock
from autoscaler.domain.machine import Machine
from autoscaler.domain.node import Endpoint, Node, host_name
from autoscaler.errors import NodeUnreachable
from autoscaler.nodes.facts import endpoints_of
from autoscaler.nodes.pki import Authority
from autoscaler.nodes.reach import host_of
from autoscaler.nodes.shell import NodeShell
from autoscaler.policy import Policy

TLS_FILE = "/run/autoscaler/secrets/tls.pem"
STAGE = "tls"


@dataclass(frozen=True, slots=True)
class TlsReach:
    """Verified HTTPS (`Reach`)."""

    authority: Authority
    clock: Clock

    async def endpoints(self, node: Node, machine: Machine, policy: Policy) -> tuple[Endpoint, ...]:
        """Each replica at its port of the public address (`Reach`)."""
        if node.address is None:
            raise NodeUnreachable(f"{node.name}: the cloud lists no address yet")
        host, port = host_of(node.address), policy.server.port
        return endpoints_of(node, [f"https://{host}:{port + i}" for i in range(node.replicas)])

    async def prepare(self, shell: NodeShell, stage: str | None, node: Node) -> None:
        """Give it a fresh key and certificate when its script waits for them (`Reach`)."""
        if stage == STAGE and node.address is not None:
            made = self.authority.issue(host_name(node.name), node.address, self.clock.now())
            await shell.put_secret(TLS_FILE, made.reveal().encode("ascii"))

    async def keep(self, node: Node) -> None:
        """Nothing to keep (`Reach`)."""

    async def close(self, node: Node) -> None:
        """Nothing to forget: its certificate names a machine that will not be again (`Reach`)."""

    def ports_to_open(self, ports: Sequence[int]) -> tuple[int, ...]:
        """All of them (`Reach`)."""
        return tuple(ports)
