"""Proof that a machine is gone: no single answer of a cloud proves it.

Gone is: absent from at least three complete listings that span the confirming time, and a 404 to a GET of its id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Inventory

_LISTINGS = 3


@dataclass(slots=True)
class AbsenceProof:
    """Collects witnesses for one machine. Kept in memory: a restart begins anew, which is safe.

    Listings are told apart by when they were read, in seconds since boot: the wall clock may jump.
    """

    confirm_over: timedelta
    seen: list[float] = field(default_factory=list)

    def witness(
        self, inventory: Inventory, read_at_s: float, name: str, machine_id: MachineId | None
    ) -> None:
        """Take one listing into account; an incomplete one, or one seen before, adds nothing."""
        present = (
            inventory.by_id(machine_id) is not None
            if machine_id is not None
            else bool(inventory.named(name))
        )
        if present:
            self.seen.clear()
        elif inventory.complete and (not self.seen or read_at_s > self.seen[-1]):
            self.seen.append(read_at_s)
            del self.seen[1:-_LISTINGS]  # the first and the newest say it all

    def absent_for(self, now_s: float) -> timedelta:
        """How long ago, at this time since boot, the first of the listings that agree was read."""
        return timedelta(seconds=now_s - self.seen[0]) if self.seen else timedelta(0)

    @property
    def listings_agree(self) -> bool:
        """Whether only the GET is missing."""
        if len(self.seen) < _LISTINGS:
            return False
        return self.seen[-1] - self.seen[0] >= self.confirm_over.total_seconds()
