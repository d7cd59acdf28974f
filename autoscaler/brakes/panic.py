"""Delete all that is ours, and go on until it is proven absent: without daemon, store or draining.

It goes by the cloud's listings and our mark alone, and may be broken off and begun again at any moment. A VM counts as
gone by invariant 11: three complete listings over `gone_after` without it, and a 404 to its id. What may still appear
(a create under way) is waited for. Disks go after their VMs, rules last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta

from autoscaler.brakes.ours import (
    Prices,
    is_our_vm,
    machines_once_ours,
    our_machines,
    vm_thing,
)
from autoscaler.brakes.rest import Rest
from autoscaler.brakes.silence import Silence
from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Inventory, Machine, Operation, OperationState, PowerState
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
from autoscaler.nodes.inventory import Owner

_PATIENT_DELETES = (
    2  # accepted deletes of a running VM that may come to nothing before it is stopped first
)
_RECENT = timedelta(hours=1)  # VMs that operations of this long tell of are asked for by their id
_UNREAD = "of a create that nobody can tell of (operations are not listed)"


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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where it stands.

    Attributes:
        listed: VMs of ours in the newest listing. absent: no longer listed, not proven yet.
        coming: creates under way whose VM was not seen yet.
        rest: disks and rules that are left.
        usd_per_hour: what is still listed costs. saved_per_hour: what is listed no more did cost.
    """

    elapsed_s: float
    listed: int
    absent: int
    proven: int
    refused: int
    coming: int
    rest: int
    usd_per_hour: Money
    saved_per_hour: Money
    trouble: str

    @property
    def vms(self) -> int:
        return self.listed + self.absent + self.proven


@dataclass(slots=True)
class _Target:
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


@dataclass(slots=True)
class Panic:
    """One run.

    Attributes:
        told: called after each look.
        creating: names of creates that a daemon had under way when it was told to stop.
        with_rules: delete the firewall rules too; a living daemon would only make them again.
    """

    cloud: Cloud
    owner: Owner
    prices: Prices
    tempo: Tempo
    clock: Clock
    told: Callable[[Progress], None] = lambda progress: None
    creating: Collection[str] = ()
    with_rules: bool = True
    _targets: dict[MachineId, _Target] = field(default_factory=dict)
    _coming: dict[str, float] = field(default_factory=dict)  # name → given up at, on the boot clock
    _began_s: float = 0.0
    _settled_s: float = 0.0  # what was asked for before we began has appeared by then
    _trouble: str = ""
    _fatal: AutoscalerError | None = None
    _seen: set[str] = field(default_factory=set)  # names that were listed at least once
    _once: frozenset[MachineId] | None = None  # VMs of earlier days, whose disks may be left
    _silence: Silence = field(init=False)
    _rest: Rest = field(init=False)

    def __post_init__(self) -> None:
        self._silence = Silence(self.tempo.gone_after)
        self._rest = Rest(
            self.cloud, self.owner, self.prices, self.tempo.gone_after, with_rules=self.with_rules
        )

    async def run(self) -> None:
        """Delete until all is proven absent.

        Raises:
            EndpointMissing: the cloud has no call that deletes a VM.
        """
        self._began_s = self.clock.boot_s()
        self._settled_s = self._began_s + self.tempo.settling.total_seconds()
        self._coming = dict.fromkeys(self.creating, self._settled_s)
        async with asyncio.TaskGroup() as tasks:
            while self._fatal is None and not await self._is_over(tasks):
                self.told(self.progress())
                await self.clock.sleep(self.tempo.look.total_seconds())
        self.told(self.progress())
        if self._fatal is not None:
            raise self._fatal

    def progress(self) -> Progress:
        """Where it stands now."""
        targets = self._targets.values()
        listed = [each for each in targets if each.machine is not None]
        proven = sum(each.is_proven for each in targets)
        return Progress(
            elapsed_s=self.clock.boot_s() - self._began_s if self._began_s else 0.0,
            listed=len(listed),
            absent=len(self._targets) - len(listed) - proven,
            proven=proven,
            refused=sum(bool(each.refusal) for each in listed),
            coming=len(self._coming),
            rest=len(self._rest.left),
            usd_per_hour=sum((each.usd_per_hour for each in listed), self._rest.usd_per_hour),
            saved_per_hour=sum((e.usd_per_hour for e in targets if e.machine is None), ZERO),
            trouble=self._trouble,
        )

    def left(self) -> list[str]:
        """What is not proven absent, each in words."""
        found = []
        for each in self._targets.values():
            if each.machine is not None:
                why = f": {each.refusal}" if each.refusal else ""
                found.append(f"vm {each.name} ({each.id}) is {each.machine.raw_state}{why}")
            elif not each.is_proven:
                found.append(f"vm {each.name} ({each.id}) is not listed, and not proven absent")
        found += [f"vm {name} may still appear" for name in self._coming]
        found += self._rest.in_words()
        if self._once is None:
            found.append("disks of VMs that went before: only operations tell, and are not listed")
        if not found and not self._silence.is_proven:
            found.append(f"the list was not seen empty for {self.tempo.gone_after} yet")
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be seen, or was left alone on purpose."""
        return self._rest.notes

    async def _is_over(self, tasks: asyncio.TaskGroup) -> bool:
        """Look once, ask for what is due, and say whether all is proven absent."""
        read_at_s = self.clock.boot_s()
        inventory = await self._listing()
        if inventory is not None:
            await self._take(inventory, read_at_s)
        now_s = self.clock.boot_s()
        for target in self._targets.values():
            if not (target.is_asking or target.is_proven or now_s < target.due_s):
                target.is_asking = True
                tasks.create_task(self._ask_for(target), name=f"panic {target.name}")
        if inventory is None or any(each.machine is not None for each in self._targets.values()):
            return False
        is_rest_gone = await self._rest.clear(await self._all_ours(), self.clock)
        if self._once is None and now_s < self._settled_s:
            return False
        are_proven = all(each.is_proven for each in self._targets.values())
        return are_proven and is_rest_gone and not self._coming and self._silence.is_proven

    async def _all_ours(self) -> frozenset[MachineId]:
        """Every VM that is known to have been ours, for the disks that it may have left."""
        if self._once is None:
            try:
                self._once = await machines_once_ours(self.cloud, self.owner, self.clock.now())
            except (CloudUnavailable, SchemaError, Rejected) as exc:
                self._trouble = f"operations are not listed: {exc}"
        return frozenset(self._targets) | (self._once or frozenset())

    async def _listing(self) -> Inventory | None:
        try:
            inventory = await self.cloud.inventory()
        except (CloudUnavailable, SchemaError, Rejected) as exc:
            self._trouble = f"not listed: {exc}"
            return None
        self._trouble = (
            "" if inventory.complete else f"the list is not whole: {inventory.why_incomplete}"
        )
        return inventory

    async def _take(self, inventory: Inventory, read_at_s: float) -> None:
        """Take one listing into account: what is new, what is still there, what is proven absent."""
        ours = our_machines(inventory, self.owner)
        for machine in ours:
            target = self._target(machine.id, machine.name)
            if target.is_proven or target.machine is None:
                target.is_proven, target.due_s = False, 0.0  # new, or back: some clouds flicker
            target.usd_per_hour = vm_thing(machine, self.prices).usd_per_hour or ZERO
            self._seen.add(machine.name)
            self._coming.pop(machine.name, None)
        await self._take_operations(read_at_s)
        for target in self._targets.values():
            target.machine = inventory.by_id(target.id)
            target.proof.witness(inventory, read_at_s, target.name, target.id)
        if inventory.complete or ours:
            self._silence.heard(bool(ours), read_at_s)
        for name in [name for name, until_s in self._coming.items() if read_at_s >= until_s]:
            del self._coming[name]
        await asyncio.gather(
            *(
                self._prove(target)
                for target in self._targets.values()
                if not target.is_proven and target.proof.listings_agree
            )
        )

    async def _take_operations(self, read_at_s: float) -> None:
        """What creates tell of that no listing shows: VMs by their id, and names that may still appear."""
        now = self.clock.now()
        try:
            operations = await self.cloud.operations(now - _RECENT)
        except (CloudUnavailable, SchemaError, Rejected) as exc:
            self._trouble = self._trouble or f"operations are not listed: {exc}"
            if read_at_s < self._settled_s:  # a create may be under way, and no listing shows it
                self._coming[_UNREAD] = self._settled_s
            return
        self._coming.pop(_UNREAD, None)
        deleted = {op.machine_id for op in operations if _is_delete(op)}
        for operation in operations:
            name = operation.request_name or ""
            if not is_our_vm(name, self.owner):
                continue
            if operation.machine_id is not None:
                self._target(operation.machine_id, name)
            is_over = operation.state is OperationState.FAILED or operation.machine_id in deleted
            left = self.tempo.settling - max(now - (operation.started_at or now), timedelta(0))
            if name in self._seen or is_over or left <= timedelta(0):
                self._coming.pop(name, None)
            else:
                self._coming.setdefault(name, read_at_s + left.total_seconds())

    async def _prove(self, target: _Target) -> None:
        """The GET that, after the listings, makes it gone."""
        try:
            machine = await self.cloud.machine(target.id)
        except (CloudUnavailable, SchemaError, Rejected) as exc:
            self._trouble = f"vm {target.name} cannot be read: {exc}"
            return
        if machine is None:
            target.is_proven, target.refusal = True, ""
        else:
            target.machine = machine
            target.proof.seen.clear()

    def _target(self, machine_id: MachineId, name: str) -> _Target:
        if machine_id not in self._targets:
            proof = AbsenceProof(self.tempo.gone_after)
            self._targets[machine_id] = _Target(machine_id, name, ZERO, proof)
        return self._targets[machine_id]

    async def _ask_for(self, target: _Target) -> None:
        """One round of asking a VM to go; whatever comes of it, there is a next one until it is proven absent."""
        is_running = target.machine is not None and target.machine.power is PowerState.RUNNING
        try:
            if target.deletes >= _PATIENT_DELETES and is_running:
                await self._stop(target)
            await self.cloud.delete(target.id)
            target.refusal = ""
        except EndpointMissing as exc:
            self._fatal = exc
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

    async def _stop(self, target: _Target) -> None:
        try:
            await self.cloud.stop(target.id)
        except (Rejected, OutcomeUnknown, CloudUnavailable, SchemaError) as exc:
            target.refusal = f"refused, and not stopped: {exc}"


def _is_delete(operation: Operation) -> bool:
    is_delete = "delete" in operation.kind.lower()
    return is_delete and operation.state is OperationState.SUCCEEDED
