"""The way to a node's model servers: which address, which port open, what the node needs for it.

Requests, the balancers' checks, the warm-up and the pages of figures all go the same way. `config.toml` names it once:
`private` (the cloud's own network), `tls` (a certificate per node), `tunnel` (over the pinned SSH session) or
`public-plain` (plain HTTP over the internet, which must be named to be had).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoscaler.domain.machine import Machine
from autoscaler.domain.node import Endpoint, Node
from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.facts import endpoints_of
from autoscaler.nodes.shell import NodeShell
from autoscaler.policy import Policy


class Reach(Protocol):
    """How model servers are reached from the balancers and from here."""

    async def endpoints(self, node: Node, machine: Machine, policy: Policy) -> tuple[Endpoint, ...]:
        """Say where the node's model servers will be reached, in the order of its replicas.

        Asked once its host key is pinned; asked again, it gives the same. `node.address` and `node.host_key` are set.

        Raises:
            NodeUnreachable: not known now; ask again.
            VerificationFailed: this node can never be reached this way; the message names the others.
        """

    async def prepare(self, shell: NodeShell, stage: str | None, node: Node) -> None:
        """Give the node, over its pinned session, what its startup script waits for in this stage, if it does.

        Called at each look at a node that boots, and after a reboot.

        Raises:
            NodeUnreachable: not known to be given.
        """

    async def keep(self, node: Node) -> None:
        """See that the way is still open. Called before each look at a node that is verified or serves.

        Raises:
            NodeUnreachable: it is not, and could not be opened again.
        """

    async def close(self, node: Node) -> None:
        """Forget the way: the node is about to be deleted. Unknown is no error."""

    def ports_to_open(self, ports: Sequence[int]) -> tuple[int, ...]:
        """Which of the serving ports the cloud's firewall must let the balancers reach."""


@dataclass(frozen=True, slots=True)
class PlainReach:
    """Plain HTTP: to the address in the cloud's own network, or, where it was named, to the public one."""

    public: bool = False

    async def endpoints(self, node: Node, machine: Machine, policy: Policy) -> tuple[Endpoint, ...]:
        """Each replica at its port, nothing before it (`Reach`)."""
        address = self._public(node) if self.public else self._private(node, machine)
        return endpoints_of(node, plain_urls(address, policy.server.port, node.replicas))

    async def prepare(self, shell: NodeShell, stage: str | None, node: Node) -> None:
        """Nothing to give (`Reach`)."""

    async def keep(self, node: Node) -> None:
        """Nothing to keep (`Reach`)."""

    async def close(self, node: Node) -> None:
        """Nothing to forget (`Reach`)."""

    def ports_to_open(self, ports: Sequence[int]) -> tuple[int, ...]:
        """All of them (`Reach`)."""
        return tuple(ports)

    def _public(self, node: Node) -> str:
        if node.address is None:
            raise NodeUnreachable(f"{node.name}: the cloud lists no address yet")
        return node.address

    def _private(self, node: Node, machine: Machine) -> str:
        for address in (machine.private_address, node.address):
            if address is not None and is_private(address):
                return address
        raise VerificationFailed(
            f"{node.name}: has the public address {node.address} only, and config.toml says "
            f"{PRIVATE}: requests would cross the internet in plain text. {CHOICES}"
        )


PRIVATE = 'reach = "private"'
CHOICES = (
    'Set reach = "tls" (a certificate per node), "tunnel" (over SSH), or "public-plain" (if nobody may mind), or give '
    "the project a network that VMs are in"
)


# RFC 1918, RFC 6598 (behind a carrier's NAT, and VPNs), RFC 4193, and loopback. Python's `is_private` takes in more.
_PRIVATE = tuple(
    ipaddress.ip_network(block)
    for block in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
        *("127.0.0.0/8", "::1/128"),
    )
)


def is_private(address: str) -> bool:
    """Whether an address leads to no place outside: of a private block, or loopback."""
    found = ipaddress.ip_address(address)
    return any(found in block for block in _PRIVATE)


def host_of(address: str) -> str:
    """The address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def plain_urls(address: str, port: int, replicas: int) -> tuple[str, ...]:
    """Where the replicas of one node listen, the first on `port`."""
    return tuple(f"http://{host_of(address)}:{port + i}" for i in range(replicas))
