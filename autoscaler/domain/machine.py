"""A machine: a VM as the cloud lists it, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from autoscaler.domain.ids import MachineId, OperationId
from autoscaler.domain.money import Money


class PowerState(StrEnum):
    """What the cloud says of a VM, folded to what we do about it. All of these exist and may bill."""

    STARTING = "starting"  # wait, within the creating deadline
    RUNNING = "running"  # powered on; says nothing of SSH or of the startup script
    STOPPING = "stopping"
    STOPPED = "stopped"  # exists, disks bill: unexpected
    BROKEN = "broken"
    DELETING = "deleting"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Machine:
    """One listed VM.

    Attributes:
        raw_state: the cloud's own word, for messages.
        address: public IPv4, None until there is one.
        disk_ids: its data and OS disks.
    """

    id: MachineId
    name: str
    type: str
    location: str
    power: PowerState
    raw_state: str
    address: str | None = None
    private_address: str | None = None
    created_at: datetime | None = None
    disk_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """A listing of every VM of the project.

    Attributes:
        complete: False when a page, a token or an item was not understood: it may then add machines, never prove
            that one is absent.
        why_incomplete: for people, empty when complete.
    """

    machines: tuple[Machine, ...]
    at: datetime
    complete: bool
    why_incomplete: str = ""

    def named(self, name: str) -> tuple[Machine, ...]:
        """Machines of that name: one, none, or twins."""
        return tuple(machine for machine in self.machines if machine.name == name)

    def by_id(self, machine_id: MachineId) -> Machine | None:
        """The machine of that id, or None when it is not listed."""
        return next((m for m in self.machines if m.id == machine_id), None)


class OperationState(StrEnum):
    """Where an asynchronous call stands. An unknown word counts as IN_PROGRESS: judge by the machine."""

    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Operation:
    """An asynchronous call of the cloud.

    Attributes:
        machine_id: the VM it is about, when the cloud says so.
        request_name: the name in the create call that it echoes.
        echoes_script: it shows the startup script too.
        code, message: why it failed. Never the request's body: it holds the startup script.
    """

    id: OperationId
    state: OperationState
    kind: str
    machine_id: MachineId | None = None
    request_name: str | None = None
    code: str = ""
    message: str = ""
    started_at: datetime | None = None
    echoes_script: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """A persistent disk as the cloud lists it; its price is that of our list."""

    id: str
    name: str
    size_gib: float
    location: str
    attached_to: tuple[MachineId, ...] = ()
    created_at: datetime | None = None
    price_per_hour: Money | None = None


@dataclass(frozen=True, slots=True)
class FirewallRule:
    """One ingress rule: who may reach which TCP ports of a network."""

    id: str
    name: str
    sources: tuple[str, ...]  # CIDRs, sorted
    ports: tuple[str, ...]  # "8000" or "3000-8080", sorted
    active: bool
    network_id: str | None = None
