"""Terminate: ask for the machine to go until it is proven absent, for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Inventory, Machine, PowerState
from autoscaler.domain.node import Node
from autoscaler.errors import (
    CloudUnavailable,
    EndpointMissing,
    Forbidden,
    OutcomeUnknown,
    Rejected,
)

log = structlog.get_logger(__name__)

_PATIENT_DELETES = (
    2  # deletes of a running machine that may come to nothing before it is stopped first
)
FORBIDDEN_RETRY = timedelta(seconds=40)  # the alert on our key ends a minute after a refusal


def delete_due(node: Node, first: timedelta, longest: timedelta, now: datetime) -> bool:
    """Whether it is time to ask again: after 5 s at first, doubling to 5 min, with no end."""
    if node.last_delete_at is None or node.last_delete_at > now:
        return True  # never tried, or the clock was set back since
    doublings = min(max(node.deletes - 1, 0), 20)
    wait = min(first * (1 << doublings), longest)
    return now - node.last_delete_at >= wait


def machines_to_delete(node: Node, inventory: Inventory) -> tuple[Machine, ...]:
    """The machines that are this node: by its id, else all that carry its name."""
    if node.machine_id is not None:
        found = inventory.by_id(node.machine_id)
        return (found,) if found is not None else ()
    return inventory.named(node.name)


async def delete(
    cloud: Cloud, node: Node, inventory: Inventory | None, now: datetime
) -> tuple[Node, bool]:
    """Send one round of deletes and return the node with the try counted; the caller records it.

    Also returned: whether our credential may not delete it, which is for a person to mend.

    Args:
        inventory: None when it could not be read; a machine whose id is known is deleted all the same.

    Raises:
        CloudUnavailable: nothing is known. Ask again.
    """
    machines = machines_to_delete(node, inventory) if inventory is not None else ()
    ids = {machine.id for machine in machines}
    if node.machine_id is not None:
        ids.add(node.machine_id)
    elif inventory is None:
        raise CloudUnavailable(f"{node.name}: its machine's id is not known, nor what is listed")
    running = {machine.id for machine in machines if machine.power is PowerState.RUNNING}
    is_forbidden = False
    for machine_id in sorted(ids):
        if node.deletes >= _PATIENT_DELETES and machine_id in running:
            # The deletes were accepted and came to nothing: some clouds delete only what is switched off.
            await _stop(cloud, node, machine_id)
        if await _is_forbidden(cloud, node, machine_id):
            is_forbidden = True
    return replace(node, last_delete_at=now, deletes=node.deletes + 1), is_forbidden


async def _is_forbidden(cloud: Cloud, node: Node, machine_id: MachineId) -> bool:
    """Ask for one machine to go; whether our credential may not."""
    try:
        await cloud.delete(machine_id)
    except EndpointMissing:
        raise
    except Rejected as exc:
        # Some clouds delete only what is switched off: stop it, the next round deletes it.
        log.warning("delete_refused", node=node.name, machine=machine_id, why=str(exc))
        await _stop(cloud, node, machine_id)
        return isinstance(exc, Forbidden)
    except OutcomeUnknown as exc:
        log.warning("delete_answer_lost", node=node.name, machine=machine_id, why=str(exc))
    return False


async def _stop(cloud: Cloud, node: Node, machine_id: MachineId) -> None:
    """Switch it off, if that can be had; whatever comes of it, deletes go on."""
    try:
        await cloud.stop(machine_id)
    except (Rejected, OutcomeUnknown, CloudUnavailable) as exc:
        log.warning("stop_refused", node=node.name, machine=machine_id, why=str(exc))
    else:
        log.info("machine_stopped", node=node.name, machine=machine_id, deletes=node.deletes)
