"""What is done where an inferred endpoint is missing: networks are told from the VMs that stand in them."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from autoscaler.cloud.mkinf.values import Listing, Network, Subnet, Vm
from autoscaler.errors import EndpointMissing

log = structlog.get_logger(__name__)


def note_fallback(missing: EndpointMissing) -> None:
    """Log that another way was taken."""
    log.info("cloud_fallback_taken", reason=str(missing))


def networks_of(vms: Iterable[Vm]) -> Listing[Network]:
    """The networks that these VMs stand in, by id."""
    faces = [face for vm in vms for face in vm.network_interfaces]
    ids = sorted({face.network for face in faces if face.network})
    return Listing(tuple(Network(id=each) for each in ids))


def subnets_of(vms: Iterable[Vm]) -> Listing[Subnet]:
    """The subnets that these VMs stand in, by id."""
    found = {
        face.subnet: Subnet(id=face.subnet, location=vm.location, vpc_network_id=face.network)
        for vm in vms
        for face in vm.network_interfaces
        if face.subnet
    }
    return Listing(tuple(found[each] for each in sorted(found)))
