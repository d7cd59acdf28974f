"""What a node's row learns from a sighting, and what it says once the node is gone. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from autoscaler.domain.money import ZERO
from autoscaler.domain.node import Node, State
from autoscaler.nodes.lifecycle import Sighting


def learned(node: Node, seen: Sighting, now: datetime) -> Node:
    """Facts about the machine that a sighting brought."""
    machine, operation = seen.machine, seen.operation
    if operation is not None:
        node = replace(
            node,
            operation_id=node.operation_id or operation.id,
            machine_id=node.machine_id or operation.machine_id,
        )
    if machine is not None and node.state is State.TERMINATING:
        # It existed after all, so it billed.
        return replace(node, booted_at=node.booted_at or now)
    if machine is None or node.state not in (State.CREATING, State.BOOTING):
        return node
    return replace(
        node,
        machine_id=machine.id,
        address=machine.address or node.address,
        disk_ids=machine.disk_ids or node.disk_ids,
        booted_at=node.booted_at or now,
    )


def closed(node: Node, now: datetime) -> Node:
    """The row of a node that is gone, with what it cost from its create call on."""
    if node.booted_at is None:
        # No listing ever had it: its operation failed, and nothing was metered.
        return replace(node, gone_at=now, cost=ZERO, sent_at=None, nonce=None)
    cost = node.price_per_hour.for_time(now - node.sent_at) if node.sent_at else node.cost
    return replace(node, gone_at=now, cost=cost, nonce=None)


def receipt(node: Node) -> str:
    """What a finished node leaves behind: when it left the balancers, when it was gone, what it cost."""
    if node.state is not State.GONE:
        return ""
    left = (
        node.unregistered_at.isoformat(timespec="seconds") if node.unregistered_at else "never in"
    )
    served = (
        f"{(node.unregistered_at - node.ready_at).total_seconds():.0f} s"
        if node.ready_at and node.unregistered_at
        else "0 s"
    )
    return (
        f"left balancers: {left}; served: {served}; deletes sent: {node.deletes}; "
        f"gone: {node.since.isoformat(timespec='seconds')}; cost: {node.cost}"
    )
