"""What every part that changes the cloud works with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from autoscaler.emulator.agenda import Agenda
from autoscaler.emulator.books import Books
from autoscaler.emulator.chance import Chance
from autoscaler.emulator.clock import Clock
from autoscaler.emulator.faults import Faults, Subject
from autoscaler.emulator.hands import Hands
from autoscaler.emulator.ledger import Ledger
from autoscaler.emulator.model import Operation, Vm
from autoscaler.emulator.settings import Seconds, Settings


@dataclass(frozen=True, slots=True)
class Workshop:
    """The cloud's tools, and the few moves that all parts make with them."""

    settings: Settings
    books: Books
    agenda: Agenda
    faults: Faults
    chance: Chance
    ledger: Ledger
    hands: Hands
    clock: Clock

    def draw(self, bounds: Seconds, *key: str) -> timedelta:
        return timedelta(seconds=self.chance.between(bounds, *key))

    def real_s(self, emulated_s: float) -> float:
        return emulated_s / self.settings.time_factor

    def is_struck(self, kind: str, subject: Subject, call: str = "") -> bool:
        """Say whether a fault strikes here; it is counted down."""
        return self.faults.take(kind, replace(subject, call=call)) is not None

    def begin_on_vm(
        self, vm: Vm, name: str, call: str, request: dict[str, object], now: datetime
    ) -> Operation:
        """Open an operation on a VM, which a fault may hold for ever."""
        stuck = self.is_struck("operation_stuck", vm.subject, call)
        return self.books.begin("vm", name, vm.project_id, vm.id, request, now, stuck=stuck)
