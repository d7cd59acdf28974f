"""A VM's life after its create was accepted: on, off, on again, gone; and what may befall it.

    power_on ─► RUNNING ─stop─► SHUTDOWN ─► SHUTOFF ─start─► STARTING ─► RUNNING
       RUNNING, SHUTOFF, … ─delete─► DELETING ─► (gone from GET) ─► (gone from the list)
       RUNNING ─crash─► CRASHED      ─power_off─► SHUTOFF      ─vanish─► (gone)

Each turn raises `vm.life`, so that whatever an earlier turn had planned for later lapses.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from autoscaler.emulator.agenda import Action
from autoscaler.emulator.machine import BOOT_FAULTS, MachineSpec
from autoscaler.emulator.model import Operation, OperationState, Vm, VmState
from autoscaler.emulator.workshop import Workshop

WATCH_S = 30.0  # and at most once per real second


class Lifecycle:
    """Moves VMs. Callers have checked that the move is allowed."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._books = shop.books

    def later(self, vm: Vm, when: datetime, action: Action) -> None:
        """Do `action` at `when`, unless the VM's life has turned by then."""
        life = vm.life

        def due(at: datetime) -> None:
            if vm.life == life and vm.id in self._books.vms:
                action(at)

        self._shop.agenda.at(when, due)

    # -- on

    def power_on(self, vm: Vm, at: datetime) -> None:
        """RUNNING: the network is up, the startup script runs, SSH and the address follow."""
        shop = self._shop
        vm.boots += 1
        vm.network_up = True
        self._books.set_state(vm, VmState.RUNNING, at)
        reuse = shop.is_struck("address_reused", vm.subject)
        vm.address = self._books.addresses.take(reuse_latest=reuse)
        self._boot(vm)
        if not shop.is_struck("no_address", vm.subject):
            delay = shop.draw(shop.settings.timings.address_after_running, "address", vm.name)
            self.later(vm, at + delay, lambda _: _tell_address(vm))
        self._doom(vm, at)
        shop.ledger.record(at, "vm_running", vm_id=vm.id, name=vm.name, address=vm.address)

    def _boot(self, vm: Vm) -> None:
        shop = self._shop
        struck = {kind for kind in BOOT_FAULTS if shop.is_struck(kind, vm.subject)}
        vm.boot_faults = frozenset(struck)
        timings = shop.settings.timings
        ssh_s = shop.chance.between(timings.ssh_after_running, "ssh", vm.name, str(vm.boots))
        slow = shop.faults.take("slow_boot", vm.subject)
        if slow is not None:
            ssh_s *= slow.option("factor")

        life = vm.life

        def booted(host_key: str) -> None:
            vm.host_key = host_key
            if vm.life == life:
                self._watch(vm, shop.clock.now())

        shop.hands.boot(self._spec(vm), shop.real_s(ssh_s), booted)

    def _watch(self, vm: Vm, at: datetime) -> None:
        """Look now and then whether the machine has ended by itself, as by `poweroff` inside it."""

        def look(due: datetime) -> None:
            if self._shop.hands.machines.is_running(vm.id):
                self._watch(vm, due)
                return
            self._turn(vm, due)
            self._set_off(vm, VmState.SHUTOFF, due)

        interval_s = max(WATCH_S, self._shop.settings.time_factor)
        self.later(vm, at + timedelta(seconds=interval_s), look)

    def _spec(self, vm: Vm) -> MachineSpec:
        settings = self._shop.settings
        return MachineSpec(
            vm_id=vm.id,
            name=vm.name,
            location=vm.location,
            gpu=vm.type.gpu.profile if vm.type.gpu else None,
            gpus=vm.type.gpus,
            vcpu=vm.type.vcpu,
            ram_gb=vm.type.ram_gb,
            disk_gb=self._books.catalogue.os_disk_gb,
            address=vm.address,
            ssh_port=settings.ssh_port,
            authorized_key=vm.ssh_public_key,
            startup_script=vm.startup_script,
            shutdown_script=vm.shutdown_script,
            time_factor=settings.time_factor,
            boot_faults=vm.boot_faults,
        )

    def _doom(self, vm: Vm, at: datetime) -> None:
        """Plan what a fault holds in store for this running VM."""
        fates = (("crash", self.crash), ("vanish", self.vanish), ("power_off", self.power_off))
        for kind, fate in fates:
            fault = self._shop.faults.take(kind, vm.subject)
            if fault is not None:
                when = at + timedelta(seconds=fault.option("after_s"))
                self.later(vm, when, partial(fate, vm))

    # -- off and on again

    def stop(self, vm: Vm, now: datetime) -> Operation:
        """SHUTDOWN while the shutdown script runs, at most 90 s; then SHUTOFF."""
        shop = self._shop
        operation = shop.begin_on_vm(vm, "STOP", "patch_vm", {"action": "STOP"}, now)
        self._turn(vm, now, operation)
        self._books.set_state(vm, VmState.SHUTDOWN, now)
        if shop.is_struck("stuck_shutdown", vm.subject):
            operation.stuck = True
            return operation
        timings = shop.settings.timings
        earliest = now + shop.draw(timings.stop, "stop", vm.name)
        life = vm.life

        def shut_off(at: datetime) -> None:
            self._set_off(vm, VmState.SHUTOFF, at)
            self._books.end(operation, OperationState.SUCCEEDED, None, at)

        def powered_off(_: None) -> None:
            if vm.life == life:
                self.later(vm, max(earliest, shop.clock.now()), shut_off)

        shop.hands.power_off(vm.id, shop.real_s(timings.stop_limit_s), powered_off)
        return operation

    def start(self, vm: Vm, now: datetime) -> Operation:
        """SHUTOFF, then STARTING, then RUNNING at another address."""
        shop = self._shop
        operation = shop.begin_on_vm(vm, "START", "patch_vm", {"action": "START"}, now)
        self._turn(vm, now, operation)
        self._books.set_state(vm, VmState.STARTING, now)

        def started(at: datetime) -> None:
            self.power_on(vm, at)
            self._books.end(operation, OperationState.SUCCEEDED, None, at)

        delay = shop.draw(shop.settings.timings.start, "start", vm.name, str(vm.boots))
        self.later(vm, now + delay, started)
        return operation

    def reset(self, vm: Vm, now: datetime) -> Operation:
        """A hard reboot: same address, the startup script runs again."""
        shop = self._shop
        operation = shop.begin_on_vm(vm, "RESET", "patch_vm", {"action": "RESET"}, now)
        self._turn(vm, now, operation)
        shop.hands.kill_in_turn(vm.id)

        def is_back(at: datetime) -> None:
            vm.boots += 1
            self._boot(vm)
            self._doom(vm, at)
            _tell_address(vm)
            self._books.end(operation, OperationState.SUCCEEDED, None, at)

        delay = shop.draw(shop.settings.timings.reset, "reset", vm.name, str(vm.boots))
        self.later(vm, now + delay, is_back)
        return operation

    # -- gone

    def delete(self, vm: Vm, now: datetime) -> Operation:
        """DELETING; then no GET finds it; then no list shows it."""
        shop = self._shop
        operation = shop.begin_on_vm(vm, "DELETE", "delete_vm", {}, now)
        taking = shop.draw(shop.settings.timings.delete, "delete", vm.name)
        if shop.is_struck("delete_ignored", vm.subject):
            self._end_later(operation, OperationState.SUCCEEDED, None, now + taking)
            return operation
        if shop.is_struck("delete_fails", vm.subject):
            failure: dict[str, object] = {"code": "internal_error", "message": "delete failed"}
            self._end_later(operation, OperationState.FAILED, failure, now + taking)
            return operation
        self._turn(vm, now, operation)
        self._books.set_state(vm, VmState.DELETING, now)
        if vm.network_up:
            limit_s = min(taking.total_seconds(), shop.settings.timings.stop_limit_s)
            shop.hands.power_off(vm.id, shop.real_s(limit_s), lambda _: None)

        def deleted(at: datetime) -> None:
            vm.gone = True
            vm.network_up = False
            self._books.end(operation, OperationState.SUCCEEDED, None, at)
            lag = shop.draw(shop.settings.timings.listed_after_delete, "unlisted", vm.name)
            self.later(vm, at + lag, lambda due: self._remove(vm, due, "vm_deleted"))
            shop.hands.destroy(vm.id, lambda _: self._books.release_address(vm))

        self.later(vm, now + taking, deleted)
        return operation

    def vanish(self, vm: Vm, at: datetime) -> None:
        """Gone without a trace, its processes killed."""
        self._turn(vm, at)
        self._shop.hands.kill(vm.id)
        self._shop.hands.destroy(vm.id, lambda _: self._books.release_address(vm))
        self._remove(vm, at, "vm_vanished")

    def crash(self, vm: Vm, at: datetime) -> None:
        """CRASHED: its processes are killed at once."""
        self._turn(vm, at)
        self._shop.hands.kill(vm.id)
        vm.network_up = False
        self._books.set_state(vm, VmState.CRASHED, at)
        self._shop.ledger.record(at, "vm_crashed", vm_id=vm.id, name=vm.name)

    def power_off(self, vm: Vm, at: datetime) -> None:
        """The provider turns it off: SHUTOFF, nobody asked."""
        self._turn(vm, at)
        limit_s = self._shop.real_s(self._shop.settings.timings.stop_limit_s)
        self._shop.hands.power_off(vm.id, limit_s, lambda _: None)
        self._set_off(vm, VmState.SHUTOFF, at)

    def machine_failed(self, vm_id: str, command: str, reason: Exception) -> None:
        """The backend could not do it: to the cloud's customers, the machine has crashed."""
        now = self._shop.clock.now()
        vm = self._books.vms.get(vm_id)
        self._shop.ledger.record(
            now,
            "machine_failed",
            vm_id=vm_id,
            name=vm.name if vm else "",
            command=command,
            reason=reason,
        )
        if vm is not None and command == "boot":
            self.crash(vm, now)

    # -- helpers

    def _turn(self, vm: Vm, at: datetime, operation: Operation | None = None) -> None:
        """What was planned lapses, and an operation still under way has failed; a new one begins."""
        vm.life += 1
        lapsed = self._books.operations.get(vm.operation_id)
        if lapsed is not None:
            cancelled: dict[str, object] = {"code": "cancelled", "message": "the VM was changed"}
            self._books.end(lapsed, OperationState.FAILED, cancelled, at)
        vm.operation_id = operation.id if operation else ""

    def _set_off(self, vm: Vm, state: VmState, at: datetime) -> None:
        vm.network_up = False
        self._books.release_address(vm)
        self._books.set_state(vm, state, at)
        self._shop.ledger.record(at, "vm_off", vm_id=vm.id, name=vm.name)

    def _remove(self, vm: Vm, at: datetime, kind: str) -> None:
        keep = self._shop.is_struck("os_disk_left", vm.subject)
        self._books.remove_vm(vm, at, keep_os_disk=keep)
        self._shop.hands.forget(vm.id)
        self._shop.ledger.record(at, kind, vm_id=vm.id, name=vm.name)

    def _end_later(
        self,
        operation: Operation,
        state: OperationState,
        result: dict[str, object] | None,
        when: datetime,
    ) -> None:
        self._shop.agenda.at(when, lambda at: self._books.end(operation, state, result, at))


def _tell_address(vm: Vm) -> None:
    vm.address_told = True
