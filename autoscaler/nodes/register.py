"""Whether a node stands behind the balancers, as each of them reports it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from autoscaler.balance.protocol import PoolReport, ServerState
from autoscaler.domain.node import Node


def is_registered(node: Node, seen: Sequence[PoolReport]) -> bool:
    """Whether every balancer lists every endpoint of the node, at its address, as up."""
    return bool(node.endpoints) and all(
        (server := report.server(endpoint.id)) is not None
        and server.url == endpoint.url
        and server.state is ServerState.UP
        for report in seen
        for endpoint in node.endpoints
    )


def is_known(node: Node, seen: Sequence[PoolReport]) -> bool:
    """Whether every balancer at least lists every endpoint, up or not yet, and not draining."""
    return bool(node.endpoints) and all(
        (server := report.server(endpoint.id)) is not None
        and server.url == endpoint.url
        and server.state is not ServerState.DRAINING
        for report in seen
        for endpoint in node.endpoints
    )


def is_unregistered(node: Node, seen: Sequence[PoolReport]) -> bool:
    """Whether no balancer lists any endpoint of the node."""
    return all(report.server(endpoint.id) is None for report in seen for endpoint in node.endpoints)
