"""The cloud's books: everything there is, who owns it, what is left of it.

No time passes here and nothing is started: each change comes with its instant.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from autoscaler.emulator.addresses import AddressPool
from autoscaler.emulator.catalogue import Catalogue, MachineType
from autoscaler.emulator.chance import Chance
from autoscaler.emulator.meter import Account, Meter
from autoscaler.emulator.model import (
    Disk,
    FirewallRule,
    Network,
    Operation,
    OperationState,
    Subnet,
    Vm,
    VmState,
)
from autoscaler.emulator.settings import Project, Settings


class Books:
    """All state of the emulated cloud but its processes."""

    def __init__(self, settings: Settings, chance: Chance) -> None:
        self.catalogue: Catalogue = settings.catalogue
        self.projects = {project.id: project for project in settings.projects}
        self.switches = settings.switches
        self.meter = Meter()
        self.addresses = AddressPool(settings.address_block)
        self.vms: dict[str, Vm] = {}
        self.vm_numbers: dict[str, int] = {}  # in the order of their creation, for ever
        self.disks: dict[str, Disk] = {}
        self.operations: dict[str, Operation] = {}
        self.rules: dict[str, FirewallRule] = {}
        self.networks: dict[str, Network] = {}
        self.subnets: dict[str, Subnet] = {}
        self.quota = {name: gpu.quota for name, gpu in self.catalogue.gpus.items()}
        self.stock = {
            (machine_type.name, location): count
            for machine_type in self.catalogue.types.values()
            for location, count in machine_type.stock.items()
        }
        self._chance = chance
        for project in settings.projects:
            self._open_network(project)

    # -- networks

    def _open_network(self, project: Project) -> None:
        network = Network(self._chance.new_id(), "default-vpc-network", project.id, "172.27.0.0/16")
        self.networks[network.id] = network
        for index, location in enumerate(self.catalogue.locations, start=1):
            subnet = Subnet(
                self._chance.new_id(),
                f"default-subnet-{location}",
                network.id,
                f"172.27.{16 * (index % 16)}.0/20",
                location,
            )
            self.subnets[subnet.id] = subnet

    def network_of(self, project_id: str) -> Network:
        return next(one for one in self.networks.values() if one.project_id == project_id)

    def subnet_of(self, vm: Vm) -> Subnet:
        network = self.network_of(vm.project_id)
        return next(
            subnet
            for subnet in self.subnets.values()
            if subnet.network_id == network.id and subnet.location == vm.location
        )

    # -- stock and quota

    def left(self, type_name: str, location: str) -> int | None:
        """Machines of the type that may be rented there; None if it is not offered there."""
        return self.stock.get((type_name, location))

    def gpus_in_use(self, project_id: str, family: str) -> int:
        return sum(
            vm.type.gpus
            for vm in self.vms.values()
            if vm.project_id == project_id and vm.type.gpu and vm.type.gpu.family == family
        )

    def exceeds_quota(self, project_id: str, machine_type: MachineType) -> bool:
        if machine_type.gpu is None:
            return False
        family = machine_type.gpu.family
        return self.gpus_in_use(project_id, family) + machine_type.gpus > self.quota[family]

    # -- VMs

    def vms_of(self, project_id: str) -> Iterator[Vm]:
        """The project's VMs, oldest first, those not yet or no longer told included."""
        return (vm for vm in self.vms.values() if vm.project_id == project_id)

    def find_vm(self, id_or_name: str) -> Vm | None:
        """By id, else the latest of that name, in any project."""
        if id_or_name in self.vms:
            return self.vms[id_or_name]
        named = [vm for vm in self.vms.values() if vm.name == id_or_name]
        return named[-1] if named else None

    def add_vm(self, vm: Vm, at: datetime) -> Disk:
        """Enter a VM with its OS disk: stock goes down, and both begin to bill."""
        self.vms[vm.id] = vm
        self.vm_numbers[vm.id] = len(self.vm_numbers) + 1
        self.stock[vm.type.name, vm.location] -= 1
        self.meter.open(
            Account(
                kind="vm",
                id=vm.id,
                name=vm.name,
                project_id=vm.project_id,
                type=vm.type.name,
                location=vm.location,
                usd_per_hour=vm.type.usd_per_hour,
                units=max(1, vm.type.gpus),
            ),
            at,
        )
        disk = Disk(
            id=self._chance.new_id(),
            name=f"OS-disk-{vm.id}",
            project_id=vm.project_id,
            location=vm.location,
            size_gib=self.catalogue.os_disk_gb,
            block_size=0,
            serial_number=self._chance.new_serial(),
            created_at=at,
            updated_at=at,
            is_os=True,
            vm_id=vm.id,
        )
        self.add_disk(disk, at)
        return disk

    def set_state(self, vm: Vm, state: VmState, at: datetime) -> None:
        vm.state = state
        vm.updated_at = at
        self.meter.set_running(vm.id, state is VmState.RUNNING, at)

    def remove_vm(self, vm: Vm, at: datetime, *, keep_os_disk: bool = False) -> None:
        """The VM is gone: its OS disk goes, its data disks are free, its stock is back."""
        del self.vms[vm.id]
        self.stock[vm.type.name, vm.location] += 1
        self.meter.close(vm.id, at)
        self.release_address(vm)
        for disk in self.disks_on(vm):
            disk.vm_id = ""
            if disk.is_os and not keep_os_disk:
                self.remove_disk(disk, at)

    def release_address(self, vm: Vm) -> None:
        if vm.address:
            self.addresses.give_back(vm.address)
        vm.address = ""
        vm.address_told = False

    # -- disks

    def disks_on(self, vm: Vm) -> list[Disk]:
        """The VM's disks, its OS disk first."""
        mine = [disk for disk in self.disks.values() if disk.vm_id == vm.id]
        return sorted(mine, key=lambda disk: not disk.is_os)

    def add_disk(self, disk: Disk, at: datetime) -> None:
        self.disks[disk.id] = disk
        self.meter.open(
            Account(
                kind="disk",
                id=disk.id,
                name=disk.name,
                project_id=disk.project_id,
                type="persistent-ssd",
                location=disk.location,
                usd_per_hour=self.disk_price(disk.size_gib),
                units=disk.size_gib,
            ),
            at,
        )

    def disk_price(self, size_gib: int) -> Decimal:
        return self.catalogue.disk_gb_hour * size_gib

    def grow_disk(self, disk: Disk, size_gib: int, at: datetime) -> None:
        disk.size_gib = size_gib
        disk.updated_at = at
        self.meter.set_price(disk.id, self.disk_price(size_gib), size_gib, at)

    def remove_disk(self, disk: Disk, at: datetime) -> None:
        del self.disks[disk.id]
        self.meter.close(disk.id, at)

    # -- operations

    def begin(
        self,
        scope: str,
        name: str,
        project_id: str,
        resource_id: str,
        request: dict[str, object],
        at: datetime,
        *,
        stuck: bool = False,
    ) -> Operation:
        """Open an operation; one that is `stuck` never ends."""
        operation = Operation(
            id=self._chance.new_id(),
            scope=scope,
            name=name,
            project_id=project_id,
            resource_id=resource_id,
            request=request,
            started_at=at,
            stuck=stuck,
        )
        self.operations[operation.id] = operation
        return operation

    def end(
        self,
        operation: Operation,
        state: OperationState,
        result: dict[str, object] | None,
        at: datetime,
    ) -> None:
        """Finish an operation, unless a fault holds it for ever or it is finished."""
        if operation.stuck or operation.state is not OperationState.IN_PROGRESS:
            return
        operation.state = state
        operation.result = result
        operation.completed_at = at
