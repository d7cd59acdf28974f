"""VMs to be rid of: each is asked to go again and again, until its absence is proven.

A VM counts as gone by invariant 11: three complete listings over `gone_after` without it, and a 404 to its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from autoscaler.brakes.ours import Prices
from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Inventory, Machine, PowerState
from autoscaler.domain.money import ZERO, Money
from autoscaler.errors import (
    AutoscalerError,
    CloudUnavailable,
    EndpointMissing,
    OutcomeUnknown,
    Rejected,
    SchemaError,
)
from autoscaler.nodes.absence import AbsenceProof

_PATIENT_DELETES = (
    2  # accepted deletes of a running VM that may come to nothing before it is stopped first
)


@dataclass(frozen=True, slots=True)
class Tempo:
    """How often it looks and asks, and for how long absence must last.

    Attributes:
        settling: how long a create under way may still bring a VM.
    """

    look: timedelta = timedelta(seconds=2)
    gone_after: timedelta = timedelta(seconds=60)
    retry: timedelta = timedelta(seconds=5)
    retry_max: timedelta = timedelta(seconds=60)
    settling: timedelta = timedelta(seconds=600)


@dataclass(slots=True)
class Target:
    """One VM to be rid of, as far as it was ever seen.

    Attributes:
        due_s: when it is asked for next. is_asking: a call is under way.
        is_proven: absent as invariant 11 defines.
    """

    id: MachineId
    name: str
    usd_per_hour: Money
    proof: AbsenceProof
    machine: Machine | None = None
    deletes: int = 0
    due_s: float = 0.0
    refusal: str = ""
    is_asking: bool = False
    is_proven: bool = False

    @property
    def is_listed(self) -> bool:
        return self.machine is not None

    def in_words(self) -> str | None:
        """What is not proven absent of it, None when all is."""
        if self.machine is not None:
            why = f": {self.refusal}" if self.refusal else ""
            return f"vm {self.name} ({self.id}) is {self.machine.raw_state}{why}"
        if not self.is_proven:
            return f"vm {self.name} ({self.id}) is not listed, and not proven absent"
        return None


@dataclass(slots=True)
class Targets:
    """All of them.

    Attributes:
        fatal: why asking can never succeed, None while it may.
        trouble: why the newest reading of one failed, empty when none did.
    """

    cloud: Cloud
    prices: Prices
    tempo: Tempo
    clock: Clock
    fatal: AutoscalerError | None = None
    trouble: str = ""
    _all: dict[MachineId, Target] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Target]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    @property
    def ids(self) -> frozenset[MachineId]:
        return frozenset(self._all)

    @property
    def any_listed(self) -> bool:
        return any(each.is_listed for each in self)

    @property
    def are_proven(self) -> bool:
        return all(each.is_proven for each in self)

    def add(self, machine_id: MachineId, name: str) -> Target:
        """The target of that id, known before or not."""
        if machine_id not in self._all:
            proof = AbsenceProof(self.tempo.gone_after)
            self._all[machine_id] = Target(machine_id, name, ZERO, proof)
        return self._all[machine_id]

    def show(self, machine: Machine) -> Target:
        """One that a listing shows: it is new, or there still, or back again, as some clouds flicker."""
        target = self.add(machine.id, machine.name)
        if target.is_proven or target.machine is None:
            target.is_proven, target.due_s = False, 0.0
        target.usd_per_hour = self.prices.vms.get(machine.type) or ZERO
        return target

    def ask(self, tasks: asyncio.TaskGroup) -> None:
        """Begin a round of asking with each that is due."""
        now_s = self.clock.boot_s()
        for target in self:
            if not (target.is_asking or target.is_proven or now_s < target.due_s):
                target.is_asking = True
                tasks.create_task(self._ask_for(target), name=f"delete {target.name}")

    async def take(self, inventory: Inventory, read_at_s: float) -> None:
        """Hold all of them against one listing, and prove absent what may be."""
        self.trouble = ""
        for target in self:
            target.machine = inventory.by_id(target.id)
            target.proof.witness(inventory, read_at_s, target.name, target.id)
        await asyncio.gather(
            *(
                self._prove(target)
                for target in self
                if not target.is_proven and target.proof.listings_agree
            )
        )

    async def _prove(self, target: Target) -> None:
        """The GET that, after the listings, makes it gone."""
        try:
            machine = await self.cloud.machine(target.id)
        except (CloudUnavailable, SchemaError, Rejected) as exc:
            self.trouble = f"vm {target.name} cannot be read: {exc}"
            return
        if machine is None:
            target.is_proven, target.refusal = True, ""
        else:
            target.machine = machine
            target.proof.seen.clear()

    async def _ask_for(self, target: Target) -> None:
        """One round of asking a VM to go; whatever comes of it, there is a next one until it is proven absent."""
        is_running = target.machine is not None and target.machine.power is PowerState.RUNNING
        try:
            if target.deletes >= _PATIENT_DELETES and is_running:
                await self._stop(target)
            await self.cloud.delete(target.id)
            target.refusal = ""
        except EndpointMissing as exc:
            self.fatal = exc
        except Rejected as exc:
            target.refusal = f"refused: {exc}"
            await self._stop(target)
        except (OutcomeUnknown, CloudUnavailable, SchemaError) as exc:
            target.refusal = f"not answered: {exc}"
        finally:
            wait = min(self.tempo.retry * 2 ** min(target.deletes, 20), self.tempo.retry_max)
            if target.refusal.startswith("refused"):
                wait = self.tempo.retry  # stopped now: the next delete may be taken
            target.deletes += 1
            target.due_s = self.clock.boot_s() + wait.total_seconds()
            target.is_asking = False

    async def _stop(self, target: Target) -> None:
        try:
            await self.cloud.stop(target.id)
        except (Rejected, OutcomeUnknown, CloudUnavailable, SchemaError) as exc:
            target.refusal = f"refused, and not stopped: {exc}"
