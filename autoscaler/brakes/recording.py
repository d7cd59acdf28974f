"""A cloud that is watched: every call goes through, and what a trial wants to know of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud, Created, CreateRequest, UsageLine
from autoscaler.domain.ids import MachineId, NodeName, OperationId
from autoscaler.domain.machine import (
    Disk,
    FirewallRule,
    Inventory,
    Machine,
    Operation,
    PowerState,
)
from autoscaler.domain.offer import Offer
from autoscaler.errors import Rejected


@dataclass(slots=True)
class Seen:
    """What was seen of the VM of one name. Times are seconds since boot.

    Attributes:
        answered_s: when the create call was answered; None while it was not. held_id: that answer had the VM's id.
        listed_s: when a listing first showed it. most: how many VMs one listing showed under the name.
        deleted_running: a delete was taken while the newest listing had it running.
        refusals: deletes that were refused. stops: how often it was stopped.
        echoes: whether an operation showed the startup script; None when none was read.
    """

    answered_s: float | None = None
    held_id: bool = False
    machine_id: MachineId | None = None
    listed_s: float | None = None
    most: int = 0
    power: PowerState | None = None
    deleted_running: bool = False
    refusals: int = 0
    stops: int = 0
    echoes: bool | None = None


@dataclass(slots=True)
class RecordingCloud:
    """Satisfies `Cloud`, whose docstrings say what each call does."""

    cloud: Cloud
    clock: Clock
    seen: dict[NodeName, Seen] = field(default_factory=dict)
    deleted_disks: set[str] = field(default_factory=set)

    async def create(self, request: CreateRequest) -> Created:
        seen = self.seen[request.name] = Seen()
        created = await self.cloud.create(request)
        seen.answered_s = self.clock.boot_s()
        seen.held_id, seen.machine_id = created.machine_id is not None, created.machine_id
        return created

    async def inventory(self) -> Inventory:
        inventory = await self.cloud.inventory()
        now_s = self.clock.boot_s()
        for name, seen in self.seen.items():
            machines = inventory.named(name)
            seen.most = max(seen.most, len(machines))
            if machines:
                seen.listed_s = seen.listed_s if seen.listed_s is not None else now_s
                seen.machine_id, seen.power = machines[0].id, machines[0].power
        return inventory

    async def delete(self, machine_id: MachineId) -> None:
        seen = self._of(machine_id)
        try:
            await self.cloud.delete(machine_id)
        except Rejected:
            if seen is not None:
                seen.refusals += 1
            raise
        if seen is not None and seen.power is PowerState.RUNNING and not seen.stops:
            seen.deleted_running = True

    async def stop(self, machine_id: MachineId) -> None:
        seen = self._of(machine_id)
        if seen is not None:
            seen.stops += 1
        await self.cloud.stop(machine_id)

    async def operation(self, operation_id: OperationId) -> Operation | None:
        operation = await self.cloud.operation(operation_id)
        self._note(() if operation is None else (operation,))
        return operation

    async def operations(self, since: datetime) -> Sequence[Operation]:
        operations = await self.cloud.operations(since)
        self._note(operations)
        return operations

    async def delete_disk(self, disk_id: str) -> None:
        self.deleted_disks.add(disk_id)
        await self.cloud.delete_disk(disk_id)

    async def offers(self) -> Sequence[Offer]:
        return await self.cloud.offers()

    async def machine(self, machine_id: MachineId) -> Machine | None:
        return await self.cloud.machine(machine_id)

    async def disks(self) -> Sequence[Disk]:
        return await self.cloud.disks()

    async def firewall_rules(self) -> Sequence[FirewallRule]:
        return await self.cloud.firewall_rules()

    async def ensure_firewall_rule(
        self, name: str, sources: Sequence[str], ports: Sequence[int]
    ) -> FirewallRule:
        return await self.cloud.ensure_firewall_rule(name, sources, ports)

    async def delete_firewall_rule(self, rule_id: str) -> None:
        await self.cloud.delete_firewall_rule(rule_id)

    async def project_id(self) -> str:
        return await self.cloud.project_id()

    async def usage(self, since: datetime, until: datetime) -> Sequence[UsageLine]:
        return await self.cloud.usage(since, until)

    async def close(self) -> None:
        await self.cloud.close()

    def _of(self, machine_id: MachineId) -> Seen | None:
        return next((s for s in self.seen.values() if s.machine_id == machine_id), None)

    def _note(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            seen = self.seen.get(NodeName(operation.request_name or ""))
            if seen is not None:
                seen.echoes = bool(seen.echoes) or operation.echoes_script
