"""What in a project carries our mark: VMs, disks and firewall rules, as the cloud lists them.

A VM is ours when its name has the whole form that only we make: prefix, owner mark, intent, attempt. A name that only
begins with the mark is shown and never touched. A system disk carries no mark of ours, only its VM's id: it is ours
when that VM is, or was, as the operations tell that still echo our names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId, parse_name
from autoscaler.domain.machine import Disk, FirewallRule, Inventory, Machine
from autoscaler.domain.money import ZERO, Money
from autoscaler.errors import EndpointMissing
from autoscaler.nodes.inventory import Owner

OS_DISK = "OS-disk-"  # mkinf names a VM's system disk so, followed by the VM's id
ATTACHED = "attached"
_REMEMBERED = timedelta(days=7)  # how far back operations are asked for


class Kind(StrEnum):
    """What sort of thing costs money, or opens a port."""

    VM = "vm"
    DISK = "disk"
    RULE = "rule"


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost per hour, from the price list: the cloud is not asked.

    Attributes:
        vms: per type, with the OS disk.
        disk_gib: of one GiB of a disk.
    """

    vms: Mapping[str, Money] = field(default_factory=dict)
    disk_gib: Money = ZERO

    def of_disk(self, disk: Disk) -> Money:
        return self.disk_gib * Decimal(str(disk.size_gib))


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing with our mark.

    Attributes:
        what: the VM's type, the disk's size, the rule's ports.
        state: the cloud's own word.
        usd_per_hour: None when the price list does not know the type.
        is_ours: False for a name that begins with our mark and is of no form that we make.
        machine_id: the VM that it is, or belongs to.
    """

    kind: Kind
    id: str
    name: str
    what: str
    state: str
    usd_per_hour: Money | None
    is_ours: bool = True
    location: str = ""
    created_at: datetime | None = None
    machine_id: MachineId | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """All that carries our mark, and what could not be seen.

    Attributes:
        incomplete: why the list of VMs may lack some, empty when it is whole.
        unseen: kinds that this cloud lists not at all, each with why.
        strays: system disks in no use whose VM is listed no more, and which carry no mark: perhaps ours.
        foreign: VMs with our prefix and another owner mark. strangers: all other VMs.
    """

    things: tuple[Thing, ...]
    at: datetime
    incomplete: str = ""
    unseen: Mapping[Kind, str] = field(default_factory=dict)
    strays: tuple[Thing, ...] = ()
    foreign: int = 0
    strangers: int = 0

    @property
    def usd_per_hour(self) -> Money:
        return sum((each.usd_per_hour or ZERO for each in self.things), ZERO)


def mark_of(owner: Owner) -> str:
    """What every name of ours begins with."""
    return f"{owner.prefix}-{owner.owner}-"


def is_our_vm(name: str, owner: Owner) -> bool:
    """Whether a VM's name has our whole form, prefix and owner mark exactly."""
    parts = parse_name(name)
    return parts is not None and (parts.prefix, parts.owner) == (owner.prefix, owner.owner)


async def look(cloud: Cloud, owner: Owner, prices: Prices, now: datetime) -> Holdings:
    """List all that carries our mark. Reads only.

    Raises:
        CloudUnavailable, SchemaError: it could not be listed.
    """
    inventory = await cloud.inventory()
    unseen: dict[Kind, str] = {}
    disks: Sequence[Disk] = ()
    rules: Sequence[FirewallRule] = ()
    try:
        disks = await cloud.disks()
    except EndpointMissing as exc:
        unseen[Kind.DISK] = str(exc)
    try:
        rules = await cloud.firewall_rules()
    except EndpointMissing as exc:
        unseen[Kind.RULE] = str(exc)
    once = await machines_once_ours(cloud, owner, now)
    names = [machine.name for machine in inventory.machines]
    ours = our_machines(inventory, owner)
    foreign = sum(1 for name in names if _is_foreign(name, owner))
    alike = [m for m in inventory.machines if _is_look_alike(m.name, owner)]
    things = (
        *(vm_thing(machine, prices) for machine in ours),
        *(vm_thing(machine, prices, is_ours=False) for machine in alike),
        *our_disks(disks, owner, prices, {m.id for m in ours} | once),
        *our_rules(rules, owner),
    )
    return Holdings(
        things,
        inventory.at,
        incomplete="" if inventory.complete else inventory.why_incomplete or "no reason given",
        unseen=unseen,
        strays=_strays(disks, inventory, prices, once),
        foreign=foreign,
        strangers=len(names) - len(ours) - len(alike) - foreign,
    )


async def machines_once_ours(cloud: Cloud, owner: Owner, now: datetime) -> frozenset[MachineId]:
    """VMs that operations still tell of as made under a name of ours; as many as the cloud remembers.

    Raises:
        CloudUnavailable, SchemaError: they could not be listed.
    """
    return frozenset(
        operation.machine_id
        for operation in await cloud.operations(now - _REMEMBERED)
        if operation.machine_id is not None and is_our_vm(operation.request_name or "", owner)
    )


def our_machines(inventory: Inventory, owner: Owner) -> tuple[Machine, ...]:
    """The listed VMs that are ours, and may be deleted."""
    return tuple(m for m in inventory.machines if is_our_vm(m.name, owner))


def our_disks(
    disks: Sequence[Disk], owner: Owner, prices: Prices, machines: Collection[MachineId]
) -> tuple[Thing, ...]:
    """Disks that carry our mark, and the system disks of these VMs of ours."""
    return tuple(
        _disk_thing(disk, prices)
        for disk in disks
        if _vm_of(disk) in machines or disk.name.startswith(mark_of(owner))
    )


def our_rules(rules: Sequence[FirewallRule], owner: Owner) -> tuple[Thing, ...]:
    """Firewall rules that carry our mark."""
    return tuple(
        Thing(
            Kind.RULE,
            rule.id,
            rule.name,
            f"{len(rule.ports)} ports" if len(rule.ports) > 2 else ", ".join(rule.ports),
            "active" if rule.active else "pending",
            ZERO,
        )
        for rule in rules
        if rule.name.startswith(mark_of(owner))
    )


def vm_thing(machine: Machine, prices: Prices, *, is_ours: bool = True) -> Thing:
    """A listed VM as a thing with a price."""
    return Thing(
        Kind.VM,
        machine.id,
        machine.name,
        machine.type,
        machine.raw_state or machine.power.value,
        prices.vms.get(machine.type),
        is_ours,
        machine.location,
        machine.created_at,
        machine.id,
    )


def _disk_thing(disk: Disk, prices: Prices) -> Thing:
    is_in_vms_price = _vm_of(disk) is not None and bool(disk.attached_to)
    return Thing(
        Kind.DISK,
        disk.id,
        disk.name,
        f"{disk.size_gib:.0f} GiB",
        ATTACHED if disk.attached_to else "unattached",
        ZERO if is_in_vms_price else prices.of_disk(disk),
        location=disk.location,
        created_at=disk.created_at,
        machine_id=_vm_of(disk),
    )


def _vm_of(disk: Disk) -> MachineId | None:
    """The VM whose system disk this is, by its name."""
    return MachineId(disk.name.removeprefix(OS_DISK)) if disk.name.startswith(OS_DISK) else None


def _strays(
    disks: Sequence[Disk], inventory: Inventory, prices: Prices, ours: Collection[MachineId]
) -> tuple[Thing, ...]:
    listed = {machine.id for machine in inventory.machines} | set(ours)
    return tuple(
        _disk_thing(disk, prices)
        for disk in disks
        if not disk.attached_to and _vm_of(disk) is not None and _vm_of(disk) not in listed
    )


def _is_foreign(name: str, owner: Owner) -> bool:
    parts = parse_name(name)
    return parts is not None and parts.prefix == owner.prefix and parts.owner != owner.owner


def _is_look_alike(name: str, owner: Owner) -> bool:
    return name.startswith(mark_of(owner)) and not is_our_vm(name, owner)
