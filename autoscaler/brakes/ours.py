"""What in a project carries our mark: VMs, disks and firewall rules, as the cloud lists them.

A VM is ours when its name has the whole form that only we make: prefix, owner mark, intent, attempt. A rule is ours
when it has the one name that a daemon gives its rule. A system disk carries no mark, only its VM's id: it is ours when
that VM is, or was, as the operations tell that still echo our names. What only begins with the mark somebody made by
hand: a data disk, another rule. It is shown, and never touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from autoscaler.brakes.creates import Creates, is_our_vm
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId, parse_name
from autoscaler.domain.machine import Disk, FirewallRule, Inventory, Machine
from autoscaler.domain.money import ZERO, Money
from autoscaler.errors import EndpointMissing
from autoscaler.nodes.inventory import Owner

OS_DISK = "OS-disk-"  # mkinf names a VM's system disk so, followed by the VM's id
ATTACHED = "attached"
_MARKED = re.compile(r"(?P<prefix>[a-z][a-z0-9]{0,7})-(?P<owner>[a-z0-9]{8})-.*")


class Kind(StrEnum):
    """What sort of thing costs money, or opens a port."""

    VM = "vm"
    DISK = "disk"
    RULE = "rule"
    CREATE = "create"  # asked for, and perhaps not listed yet


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
        foreign: VMs with our prefix and another owner mark. foreign_rest: disks and rules of such. strangers: all
            other VMs.
    """

    things: tuple[Thing, ...]
    at: datetime
    incomplete: str = ""
    unseen: Mapping[Kind, str] = field(default_factory=dict)
    strays: tuple[Thing, ...] = ()
    foreign: int = 0
    foreign_rest: int = 0
    strangers: int = 0

    @property
    def usd_per_hour(self) -> Money:
        return sum((each.usd_per_hour or ZERO for each in self.things), ZERO)


def mark_of(owner: Owner) -> str:
    """What every name of ours begins with."""
    return f"{owner.prefix}-{owner.owner}-"


def rule_of(owner: Owner) -> str:
    """The name of the one rule that a daemon of ours makes."""
    return f"{mark_of(owner)}serve"


async def look(
    cloud: Cloud, owner: Owner, prices: Prices, now: datetime, creates: Creates | None = None
) -> Holdings:
    """List all that carries our mark. Reads only.

    Args:
        creates: hears what operations tell; for who goes on listening.

    Raises:
        CloudUnavailable, SchemaError, Rejected: it could not be listed.
    """
    heard = creates or Creates(cloud, owner)
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
    await heard.listen(now)
    if heard.missing:
        unseen[Kind.CREATE] = heard.missing
    names = [machine.name for machine in inventory.machines]
    ours = our_machines(inventory, owner)
    foreign = sum(1 for name in names if _is_foreign(name, owner))
    alike = [m for m in inventory.machines if _is_look_alike(m.name, owner)]
    things = (
        *(vm_thing(machine, prices) for machine in ours),
        *(vm_thing(machine, prices, is_ours=False) for machine in alike),
        *our_disks(disks, owner, prices, {m.id for m in ours} | heard.machines),
        *our_rules(rules, owner),
    )
    return Holdings(
        things,
        inventory.at,
        incomplete="" if inventory.complete else inventory.why_incomplete or "no reason given",
        unseen=unseen,
        strays=_strays(disks, inventory, prices, heard.machines),
        foreign=foreign,
        foreign_rest=sum(
            _has_foreign_mark(each, owner)
            for each in (*(d.name for d in disks), *(r.name for r in rules))
        ),
        strangers=len(names) - len(ours) - len(alike) - foreign,
    )


def our_machines(inventory: Inventory, owner: Owner) -> tuple[Machine, ...]:
    """The listed VMs that are ours, and may be deleted."""
    return tuple(m for m in inventory.machines if is_our_vm(m.name, owner))


def our_disks(
    disks: Sequence[Disk], owner: Owner, prices: Prices, machines: Collection[MachineId]
) -> tuple[Thing, ...]:
    """The system disks of these VMs of ours, and disks that somebody gave our mark: not ours."""
    return tuple(
        _disk_thing(disk, prices, is_ours=vm_of(disk) in machines)
        for disk in disks
        if vm_of(disk) in machines or disk.name.startswith(mark_of(owner))
    )


def our_rules(rules: Sequence[FirewallRule], owner: Owner) -> tuple[Thing, ...]:
    """Our firewall rule, and rules that somebody gave our mark: not ours."""
    return tuple(
        Thing(
            Kind.RULE,
            rule.id,
            rule.name,
            f"{len(rule.ports)} ports" if len(rule.ports) > 2 else ", ".join(rule.ports),
            "active" if rule.active else "pending",
            ZERO,
            rule.name == rule_of(owner),
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


def _disk_thing(disk: Disk, prices: Prices, *, is_ours: bool = True) -> Thing:
    is_in_vms_price = vm_of(disk) is not None and bool(disk.attached_to)
    return Thing(
        Kind.DISK,
        disk.id,
        disk.name,
        f"{disk.size_gib:.0f} GiB",
        ATTACHED if disk.attached_to else "unattached",
        ZERO if is_in_vms_price else prices.of_disk(disk),
        is_ours,
        location=disk.location,
        created_at=disk.created_at,
        machine_id=vm_of(disk),
    )


def vm_of(disk: Disk) -> MachineId | None:
    """The VM whose system disk this is, by its name."""
    return MachineId(disk.name.removeprefix(OS_DISK)) if disk.name.startswith(OS_DISK) else None


def _strays(
    disks: Sequence[Disk], inventory: Inventory, prices: Prices, ours: Collection[MachineId]
) -> tuple[Thing, ...]:
    listed = {machine.id for machine in inventory.machines} | set(ours)
    return tuple(
        _disk_thing(disk, prices)
        for disk in disks
        if not disk.attached_to and vm_of(disk) is not None and vm_of(disk) not in listed
    )


def _is_foreign(name: str, owner: Owner) -> bool:
    parts = parse_name(name)
    return parts is not None and parts.prefix == owner.prefix and parts.owner != owner.owner


def _has_foreign_mark(name: str, owner: Owner) -> bool:
    found = _MARKED.fullmatch(name)
    return found is not None and found["prefix"] == owner.prefix and found["owner"] != owner.owner


def _is_look_alike(name: str, owner: Owner) -> bool:
    return name.startswith(mark_of(owner)) and not is_our_vm(name, owner)
