"""What is sent: bodies and queries as the API wants them, from our values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from autoscaler.cloud.mkinf.values import RuleRequest, VmRequest


def vm(request: VmRequest) -> dict[str, object]:
    """A VM to create."""
    body: dict[str, object] = {
        "name": request.name,
        "type": request.type,
        "location": request.location,
        "image": request.image,
        "ssh_public_key": request.ssh_public_key,
    }
    if request.startup_script:
        body["startup_script"] = request.startup_script
    if request.shutdown_script:
        body["shutdown_script"] = request.shutdown_script
    if request.disks:
        body["disks"] = [asdict(disk) for disk in request.disks]
    return body


def rule(request: RuleRequest) -> dict[str, object]:
    """An ingress rule to create."""
    return {
        "name": request.name,
        "action": "allow",
        "direction": "ingress",
        "protocols": list(request.protocols),
        "sources": [{"cidr": cidr} for cidr in request.sources],
        "source_ports": list(request.source_ports),
        "destinations": [{"resource_id": request.destination_id or request.network_id}],
        "destination_ports": list(request.destination_ports),
        "vpc_network_id": request.network_id,
    }


def rule_change(
    name: str | None, sources: Sequence[str] | None, destination_ports: Sequence[str] | None
) -> dict[str, object]:
    """What is to change of a rule; `sources` are CIDRs."""
    body: dict[str, object] = {}
    if name is not None:
        body["name"] = name
    if sources is not None:
        body["sources"] = [{"cidr": cidr} for cidr in sources]
    if destination_ports is not None:
        body["destination_ports"] = list(destination_ports)
    return body


def query(**filters: str | Sequence[str] | None) -> dict[str, str]:
    """Keep the filters that are given; several values are joined by commas."""
    joined = {
        name: value if isinstance(value, str) else ",".join(value)
        for name, value in filters.items()
        if value
    }
    return joined
