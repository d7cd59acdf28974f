"""What a signed manifest makes of a machine: whether it is that one, and its row. Pure."""

from __future__ import annotations

from datetime import datetime

from autoscaler.domain.ids import DecisionId, ModelName, NodeName, node_name, parse_name
from autoscaler.domain.machine import Machine
from autoscaler.domain.money import Money
from autoscaler.domain.node import BY_HAND, Node, State
from autoscaler.domain.offer import OfferKey
from autoscaler.errors import HostKeyMismatch
from autoscaler.nodes.manifest import Manifest

ADOPTED = DecisionId("adopted")


def check(machine: Machine, manifest: Manifest, mark: str) -> None:
    """See that what was signed is this machine, as the cloud lists it.

    Raises:
        HostKeyMismatch: it is another.
    """
    parts = parse_name(machine.name)
    says = {
        "deployment": (manifest.mark, mark),
        "machine": (manifest.machine_id, machine.id),
        "offer": (str(manifest.offer), f"{OfferKey(machine.type, machine.location)}"),
    }
    if parts is not None:
        says["name"] = (manifest.name, machine.name)
        named = node_name(
            parts.prefix,
            parts.owner,
            parts.intent,
            parts.attempt,
            ModelName(manifest.model),
        )
        says["model"] = (named, machine.name)
    for what, (signed, listed) in says.items():
        if signed != listed:
            raise HostKeyMismatch(
                f"its signed manifest is not this machine's: {what} {signed} there, {listed} in the cloud's list"
            )


def row_of(manifest: Manifest, machine: Machine, host_key: str, now: datetime) -> Node:
    """The row that was lost, as far as it was signed.

    Raises:
        HostKeyMismatch: it names no node.
    """
    parts = parse_name(manifest.name)
    if parts is None:
        raise HostKeyMismatch(f"its signed manifest names {manifest.name!r}, which is no node")
    return Node(
        name=NodeName(manifest.name),
        model=ModelName(manifest.model),
        intent=parts.intent,
        attempt=parts.attempt,
        offer=manifest.offer,
        price_per_hour=Money(manifest.usd_per_hour),
        state=State.VERIFYING,
        since=now,
        created_at=manifest.sent_at,
        epoch=0,
        decision=BY_HAND if manifest.decision == BY_HAND else ADOPTED,
        reason="adopted",
        units=manifest.units,
        replicas=manifest.replicas,
        concurrency=manifest.concurrency,
        tensor_parallel=manifest.tensor_parallel,
        spec_hash=manifest.spec_hash,
        machine_id=machine.id,
        address=machine.address,
        host_key=host_key,
        disk_ids=machine.disk_ids,
        sent_at=manifest.sent_at,
        booted_at=machine.created_at or manifest.sent_at,
    )
