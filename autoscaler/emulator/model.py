"""The things in the books: VMs, disks, operations, networks, firewall rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from autoscaler.emulator.catalogue import MachineType
from autoscaler.emulator.faults import Subject


class VmState(StrEnum):
    """libvirt's names, without the `STATE_` that the API puts before them."""

    DEFINING = "DEFINING"
    PAUSED = "PAUSED"
    RUNNING = "RUNNING"
    SHUTDOWN = "SHUTDOWN"
    SHUTOFF = "SHUTOFF"
    STARTING = "STARTING"
    CRASHED = "CRASHED"
    DELETING = "DELETING"


class OperationState(StrEnum):
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(slots=True)
class Operation:
    """Something begun. `scope` says in which list it stands: vm, disk, firewall_rule."""

    id: str
    scope: str
    name: str
    project_id: str
    resource_id: str
    request: dict[str, object]
    started_at: datetime
    state: OperationState = OperationState.IN_PROGRESS
    result: dict[str, object] | None = None
    completed_at: datetime | None = None
    stuck: bool = False
    read: bool = False


@dataclass(slots=True)
class Disk:
    """A persistent disk. An OS disk (`is_os`) comes and goes with its VM."""

    id: str
    name: str
    project_id: str
    location: str
    size_gib: int
    block_size: int
    serial_number: str
    created_at: datetime
    updated_at: datetime
    is_os: bool = False
    vm_id: str = ""
    mode: str = "read-write"


@dataclass(slots=True)
class Vm:
    """A machine as the cloud knows it.

    Attributes:
        operation_id: of what is under way, or was last; "" if nobody asked for it.
        life: raised by every turn of its life, so that what an earlier one had planned lapses.
        seen_by_get, seen_by_list: whether callers can see it yet; `gone`: GET no longer does.
        address: "" until its network is up; `address_told` is what callers may see of it.
    """

    id: str
    name: str
    project_id: str
    type: MachineType
    location: str
    image: str
    ssh_public_key: str
    startup_script: str
    shutdown_script: str
    created_at: datetime
    updated_at: datetime
    interface_id: str
    address_id: str
    mac_address: str
    state: VmState = VmState.DEFINING
    life: int = 0
    seen_by_get: bool = False
    seen_by_list: bool = False
    gone: bool = False
    address: str = ""
    address_told: bool = False
    network_up: bool = False
    boots: int = 0
    host_key: str = ""
    boot_faults: frozenset[str] = frozenset()
    operation_id: str = ""

    @property
    def subject(self) -> Subject:
        return Subject(name=self.name, type=self.type.name, location=self.location)


@dataclass(frozen=True, slots=True)
class Network:
    id: str
    name: str
    project_id: str
    cidr: str


@dataclass(frozen=True, slots=True)
class Subnet:
    id: str
    name: str
    network_id: str
    cidr: str
    location: str


@dataclass(slots=True)
class FirewallRule:
    """A rule; `sources` and `destinations` are objects with `cidr` or `resource_id`."""

    id: str
    project_id: str
    network_id: str
    name: str
    action: str
    direction: str
    protocols: list[str]
    sources: list[dict[str, str]]
    source_ports: list[str]
    destinations: list[dict[str, str]]
    destination_ports: list[str]
    state: str = "inactive"
    created_at: datetime | None = field(default=None)
