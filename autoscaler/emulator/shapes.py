"""The answers' shapes, oddities included: an upstream project id, `:0`, `vaeq-cu`, empty strings."""

from __future__ import annotations

from datetime import datetime, timedelta

from autoscaler.emulator.books import Books
from autoscaler.emulator.model import (
    Disk,
    FirewallRule,
    Network,
    Operation,
    OperationState,
    Subnet,
    Vm,
)

Json = dict[str, object]


class Shapes:
    """Renders the books' things as the API tells them. `skew` shifts every time told."""

    def __init__(self, books: Books, skew: timedelta = timedelta(0)) -> None:
        self._books = books
        self._skew = skew

    def time(self, instant: datetime | None) -> str:
        if instant is None:
            return ""
        return (instant + self._skew).strftime("%Y-%m-%dT%H:%M:%SZ")

    def vm(self, vm: Vm) -> Json:
        return {
            "id": vm.id,
            "project_id": self._books.projects[vm.project_id].upstream_id,
            "type": vm.type.name,
            "state": f"STATE_{vm.state}",
            "ssh_destination": ":0",
            "created_at": self.time(vm.created_at),
            "updated_at": self.time(vm.updated_at),
            "name": vm.name,
            "location": vm.location,
            "commitment_period": 0,
            "commitment_end": "",
            "disks": [self._disk_of_vm(disk) for disk in self._books.disks_on(vm)],
            "network_interfaces": self._interfaces(vm),
            "host_channel_adapters": [],
            "virtualization_features": {"nested_virtualization": False},
            "instance_template_id": "",
            "instance_group_id": "",
            "reservation_id": "",
        }

    def _interfaces(self, vm: Vm) -> list[Json]:
        if not vm.boots:
            return []
        subnet = self._books.subnet_of(vm)
        address = vm.address if vm.address_told else ""
        public: Json = {"address": address, "id": vm.address_id, "type": "dynamic"}
        ip: Json = {"private_ipv4": {"address": vm.address}, "public_ipv4": public}
        return [
            {
                "id": vm.interface_id,
                "name": "default-network-interface",
                "network": subnet.network_id,
                "subnet": subnet.id,
                "interface_type": "Ethernet",
                "mac_address": vm.mac_address,
                "ips": [ip],
            }
        ]

    def _disk_of_vm(self, disk: Disk) -> Json:
        return {
            "id": disk.id,
            "name": disk.name,
            "type": "persistent-ssd",
            "size": _size(disk.size_gib),
            "location": "vaeq-cu",
            "block_size": 0 if disk.is_os else disk.block_size,
            "created_at": self.time(disk.created_at),
            "updated_at": self.time(disk.updated_at),
            "serial_number": disk.serial_number,
            "attachment_type": "os" if disk.is_os else "data",
            "mode": disk.mode,
        }

    def disk(self, disk: Disk) -> Json:
        attached = [
            {
                "id": disk.vm_id,
                "attachment_type": "os" if disk.is_os else "data",
                "mode": disk.mode,
            }
        ]
        return {
            "id": disk.id,
            "name": disk.name,
            "type": "persistent-ssd",
            "size": _size(disk.size_gib),
            "location": disk.location,
            "block_size": disk.block_size,
            "serial_number": disk.serial_number,
            "created_at": self.time(disk.created_at),
            "updated_at": self.time(disk.updated_at),
            "attached_to": attached if disk.vm_id else [],
        }

    def operation(self, operation: Operation, *, hide_id: bool = False) -> Json:
        return {
            "operation_id": operation.id,
            "state": operation.state.value,
            "metadata": {
                "operation_name": operation.name,
                "id": "" if hide_id else operation.resource_id,
                "type": operation.scope,
                "request": operation.request,
            },
            "result": None if operation.state is OperationState.IN_PROGRESS else operation.result,
            "started_at": self.time(operation.started_at),
            "completed_at": self.time(operation.completed_at),
        }

    def begun(self, operation: Operation, *, hide_id: bool = False) -> Json:
        """The answer to a call that began something: the operation, wrapped."""
        return {"operation": self.operation(operation, hide_id=hide_id)}

    def network(self, network: Network) -> Json:
        subnets = self._books.subnets.values()
        return {
            "id": network.id,
            "name": network.name,
            "cidr": network.cidr,
            "gateway": "",
            "subnets": [subnet.id for subnet in subnets if subnet.network_id == network.id],
        }

    def subnet(self, subnet: Subnet) -> Json:
        return {
            "id": subnet.id,
            "name": subnet.name,
            "cidr": subnet.cidr,
            "location": subnet.location,
            "vpc_network_id": subnet.network_id,
        }

    def rule(self, rule: FirewallRule) -> Json:
        return {
            "id": rule.id,
            "name": rule.name,
            "state": rule.state,
            "action": rule.action,
            "direction": rule.direction,
            "protocols": rule.protocols,
            "sources": rule.sources,
            "source_ports": rule.source_ports,
            "destinations": rule.destinations,
            "destination_ports": rule.destination_ports,
            "vpc_network_id": rule.network_id,
        }


def _size(gib: int) -> str:
    return f"{gib // 1024}TiB" if gib % 1024 == 0 else f"{gib}GiB"
