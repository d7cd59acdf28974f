"""Put a verified node behind every balancer, and ask each whether it is so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from autoscaler.balance.protocol import Balancer, PoolReport, ServerState
from autoscaler.domain.node import Node


async def reports(balancers: Sequence[Balancer], node: Node) -> tuple[PoolReport, ...]:
    """What every balancer knows of the node's model now.

    Raises:
        BalancerUnavailable: one of them did not answer: nothing is known.
    """
    return tuple(await asyncio.gather(*(b.report(node.model) for b in balancers)))


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


async def register(balancers: Sequence[Balancer], node: Node) -> None:
    """Tell every balancer that does not know it.

    Raises:
        BalancerUnavailable: at least one did not answer; the others were told. Repeat.
    """
    await asyncio.gather(
        *(b.register(node.model, endpoint) for b in balancers for endpoint in node.endpoints)
    )
