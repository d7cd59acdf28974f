"""How a VM comes to be: from an accepted create to RUNNING, or to one of the ways to fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from autoscaler.emulator.catalogue import MachineType
from autoscaler.emulator.faults import Subject
from autoscaler.emulator.lifecycle import Lifecycle
from autoscaler.emulator.model import Operation, OperationState, Vm, VmState
from autoscaler.emulator.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Order:
    """A create that was found valid."""

    project_id: str
    name: str
    type: MachineType
    location: str
    image: str
    ssh_public_key: str
    startup_script: str
    shutdown_script: str
    disks: tuple[tuple[str, str], ...]
    request: dict[str, object]

    @property
    def subject(self) -> Subject:
        return Subject(name=self.name, type=self.type.name, location=self.location)


class Creation:
    """Carries out orders."""

    def __init__(self, shop: Workshop, lifecycle: Lifecycle) -> None:
        self._shop = shop
        self._books = shop.books
        self._lifecycle = lifecycle

    def create(self, order: Order, now: datetime) -> Operation:
        """Begin: the operation is told at once, everything else comes later."""
        shop = self._shop
        vm_id = shop.chance.new_id()
        stuck = shop.is_struck("operation_stuck", order.subject, "create_vm")
        operation = self._books.begin(
            "vm", "CREATE", order.project_id, vm_id, order.request, now, stuck=stuck
        )
        failure = self._why_not(order, now)
        if failure is not None:
            delay = shop.draw(shop.settings.timings.create_fails, "fails", order.name)
            shop.agenda.at(
                now + delay,
                lambda at: self._books.end(operation, OperationState.FAILED, failure, at),
            )
            shop.ledger.record(now, "create_failed", name=order.name, reason=failure["code"])
            return operation
        vm = self._enter(order, vm_id, operation, now)
        self._plan(vm, operation, now)
        return operation

    def _why_not(self, order: Order, now: datetime) -> dict[str, object] | None:
        shop = self._shop
        if shop.is_struck("create_fails", order.subject):
            return {"code": "internal_error", "message": "the host failed"}
        if self._books.exceeds_quota(order.project_id, order.type):
            return {"code": "quota_exceeded", "message": "quota exceeded for this GPU family"}
        self._let_rival_in(order, now)
        out = shop.is_struck("out_of_stock", order.subject)
        if out or not self._books.left(order.type.name, order.location):
            return {"code": "out_of_stock", "message": f"{order.type.name} is out of stock"}
        return None

    def _let_rival_in(self, order: Order, now: datetime) -> None:
        """Another tenant may have taken what was just listed; it comes back after a while."""
        fault = self._shop.faults.take("rival", order.subject)
        if fault is None:
            return
        key = (order.type.name, order.location)
        taken = self._books.stock[key]
        self._books.stock[key] = 0

        def give_back(_: datetime) -> None:
            self._books.stock[key] += taken

        self._shop.agenda.at(now + timedelta(seconds=fault.option("hold_s")), give_back)

    def _enter(self, order: Order, vm_id: str, operation: Operation, now: datetime) -> Vm:
        chance = self._shop.chance
        vm = Vm(
            id=vm_id,
            name=order.name,
            project_id=order.project_id,
            type=order.type,
            location=order.location,
            image=order.image,
            ssh_public_key=order.ssh_public_key,
            startup_script=order.startup_script,
            shutdown_script=order.shutdown_script,
            created_at=now,
            updated_at=now,
            interface_id=chance.new_id(),
            address_id=chance.new_id(),
            mac_address=chance.new_mac(),
            operation_id=operation.id,
        )
        self._books.add_vm(vm, now)
        for disk_id, mode in order.disks:
            disk = self._books.disks[disk_id]
            disk.vm_id, disk.mode = vm.id, mode
        self._shop.ledger.record(
            now, "vm_created", vm_id=vm.id, name=vm.name, type=vm.type.name, location=vm.location
        )
        return vm

    def _plan(self, vm: Vm, operation: Operation, now: datetime) -> None:
        shop, timings = self._shop, self._shop.settings.timings
        self._plan_sight(vm, now)
        taking = shop.draw(timings.create, "create", vm.name)
        slow = shop.faults.take("slow_create", replace(vm.subject, call="create_vm"))
        if slow is not None:
            taking *= slow.option("factor")
        if shop.is_struck("stuck_defining", vm.subject):
            operation.stuck = True
            return

        def paused(at: datetime) -> None:
            self._books.set_state(vm, VmState.PAUSED, at)

        self._lifecycle.later(vm, now + taking / 2, paused)
        self._lifecycle.later(vm, now + taking, lambda at: self._finish(vm, operation, at))

    def _plan_sight(self, vm: Vm, now: datetime) -> None:
        """Neither GET nor the list shows a VM at once."""
        shop, timings = self._shop, self._shop.settings.timings
        lag = shop.faults.take("list_lag", vm.subject)
        if lag is None:
            get_after = shop.draw(timings.seen_by_get, "get", vm.name)
            list_after = shop.draw(timings.seen_by_list, "list", vm.name)
        else:
            get_after = list_after = timedelta(seconds=lag.option("lag_s"))

        def seen_by_get(_: datetime) -> None:
            vm.seen_by_get = True

        def seen_by_list(_: datetime) -> None:
            vm.seen_by_list = True

        shop.agenda.at(now + get_after, seen_by_get)
        shop.agenda.at(now + list_after, seen_by_list)

    def _finish(self, vm: Vm, operation: Operation, at: datetime) -> None:
        shop = self._shop
        if shop.is_struck("no_vm", vm.subject):
            self._books.end(operation, OperationState.SUCCEEDED, told_result(vm), at)
            self._lifecycle.vanish(vm, at)
            return
        self._lifecycle.power_on(vm, at)
        if shop.is_struck("failed_vm_left", vm.subject):
            failure: dict[str, object] = {"code": "internal_error", "message": "create failed"}
            self._books.end(operation, OperationState.FAILED, failure, at)
        else:
            self._books.end(operation, OperationState.SUCCEEDED, told_result(vm), at)


def told_result(vm: Vm) -> dict[str, object]:
    """What a finished create tells of its VM."""
    return {"id": vm.id, "name": vm.name, "state": "STATE_RUNNING"}
