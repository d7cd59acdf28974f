"""The parts of the emulated cloud that its routes speak to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from autoscaler.emulator.books import Books
from autoscaler.emulator.creation import Creation
from autoscaler.emulator.credentials import Credentials
from autoscaler.emulator.faults import Faults, Subject
from autoscaler.emulator.http import not_found
from autoscaler.emulator.ledger import Ledger
from autoscaler.emulator.lifecycle import Lifecycle
from autoscaler.emulator.model import Vm
from autoscaler.emulator.shapes import Json, Shapes
from autoscaler.emulator.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Cloud:
    """Books, hands and rules, behind one door."""

    shop: Workshop
    lifecycle: Lifecycle
    creation: Creation
    credentials: Credentials
    stale_lists: dict[int, dict[str, list[Json]]]

    @property
    def books(self) -> Books:
        return self.shop.books

    @property
    def faults(self) -> Faults:
        return self.shop.faults

    @property
    def ledger(self) -> Ledger:
        return self.shop.ledger

    def now(self) -> datetime:
        return self.shop.clock.now()

    def shapes(self) -> Shapes:
        """How things are told at this moment: a clock fault shifts all times."""
        skew = self.faults.standing_of("clock_skew")
        return Shapes(self.books, timedelta(seconds=skew.option("skew_s") if skew else 0))

    def stuck(self, call: str, name: str = "") -> bool:
        """Whether the operation that this call begins is to stay in progress for ever."""
        return self.shop.is_struck("operation_stuck", Subject(name=name), call)

    def visible_vm(self, project_id: str, vm_id: str, call: str) -> Vm:
        """The VM as a caller may see it.

        Raises:
            Refused: 404, not there, not yet, no longer, or a fault hides it.
        """
        vm = self.books.vms.get(vm_id)
        if vm is None or vm.project_id != project_id or vm.gone or not vm.seen_by_get:
            raise not_found("vm")
        if self.faults.take("flicker", replace(vm.subject, call=call)) is not None:
            raise not_found("vm")
        return vm

    def freeze_lists(self, fault_id: int) -> None:
        """Keep what the lists say now, for the `list_stale` fault with this id."""
        self.stale_lists[fault_id] = {
            project_id: [
                self.shapes().vm(vm) for vm in self.books.vms_of(project_id) if vm.seen_by_list
            ]
            for project_id in self.books.projects
        }
