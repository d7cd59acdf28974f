"""Delete all that is ours, and go on until it is proven absent: without daemon, store or draining.

It goes by the cloud's listings and our mark alone, and may be broken off and begun again at any moment. What may still
appear (a create under way) is waited for. Disks go after their VMs, rules last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta

from autoscaler.brakes.creates import Creates, is_our_vm
from autoscaler.brakes.ours import Prices, our_machines, vm_of
from autoscaler.brakes.rest import Rest
from autoscaler.brakes.silence import Silence
from autoscaler.brakes.targets import Targets, Tempo
from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.machine import Inventory, OperationState
from autoscaler.domain.money import ZERO, Money
from autoscaler.errors import AutoscalerError, CloudUnavailable, Rejected, SchemaError
from autoscaler.nodes.inventory import Owner

__all__ = ["Panic", "Progress", "Tempo"]

_RECENT = timedelta(hours=1)  # VMs that operations of this long tell of are asked for by their id
_UNREAD = "of a create that nobody can tell of (operations are not listed)"
_MOST_ASKED = 32  # VMs that only a disk tells of, each asked for once


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
class Panic:
    """One run.

    Attributes:
        told: called after each look.
        creating: names of creates that a daemon had under way when it was told to stop.
        with_rules: delete the firewall rules too; a living daemon would only make them again.
        creates: what operations told before this begins; a finished one may be told only once.
    """

    cloud: Cloud
    owner: Owner
    prices: Prices
    tempo: Tempo
    clock: Clock
    told: Callable[[Progress], None] = lambda progress: None
    creating: Collection[str] = ()
    with_rules: bool = True
    creates: Creates | None = None
    _heard: Creates = field(init=False)
    _targets: Targets = field(init=False)
    _coming: dict[str, float] = field(default_factory=dict)  # name → given up at, on the boot clock
    _began_s: float = 0.0
    _settled_s: float = 0.0  # what was asked for before we began has appeared by then
    _trouble: str = ""
    _seen: set[str] = field(default_factory=set)  # names that were listed at least once
    _given_up: set[str] = field(default_factory=set)  # names that were waited for long enough
    _asked: set[str] = field(default_factory=set)  # VMs that only a disk told of
    _silence: Silence = field(init=False)
    _rest: Rest = field(init=False)

    def __post_init__(self) -> None:
        self._heard = self.creates or Creates(self.cloud, self.owner)
        self._targets = Targets(self.cloud, self.prices, self.tempo, self.clock)
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
            while self._targets.fatal is None and not await self._is_over(tasks):
                self.told(self.progress())
                await self.clock.sleep(self.tempo.look.total_seconds())
        self.told(self.progress())
        if self._targets.fatal is not None:
            raise self._targets.fatal

    def progress(self) -> Progress:
        """Where it stands now."""
        listed = [each for each in self._targets if each.is_listed]
        proven = sum(each.is_proven for each in self._targets)
        return Progress(
            elapsed_s=self.clock.boot_s() - self._began_s if self._began_s else 0.0,
            listed=len(listed),
            absent=len(self._targets) - len(listed) - proven,
            proven=proven,
            refused=sum(bool(each.refusal) for each in listed),
            coming=len(self._coming),
            rest=len(self._rest.left),
            usd_per_hour=sum((each.usd_per_hour for each in listed), self._rest.usd_per_hour),
            saved_per_hour=sum((e.usd_per_hour for e in self._targets if not e.is_listed), ZERO),
            trouble=self._trouble or self._targets.trouble,
        )

    def left(self) -> list[str]:
        """What is not proven absent, each in words."""
        found = [words for each in self._targets if (words := each.in_words()) is not None]
        found += [f"vm {name} may still appear" for name in self._coming]
        found += self._rest.in_words()
        if not self._heard.is_heard:
            found += [
                f"disk {disk.name} ({disk.id}) may be of a VM of ours that went before: only operations tell, "
                "and are not listed"
                for disk in self._rest.strays
            ]
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
        self._targets.ask(tasks)
        if inventory is None or self._targets.any_listed:
            return False
        ours = self._targets.ids | self._heard.machines
        is_rest_gone = await self._rest.clear(ours, inventory, self.clock)
        await self._ask_about_strays(read_at_s)
        if not self._heard.is_heard and self.clock.boot_s() < self._settled_s:
            return False
        proven = self._targets.are_proven and self._silence.is_proven
        return proven and is_rest_gone and not self._coming

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
            self._targets.show(machine)
            self._seen.add(machine.name)
            self._coming.pop(machine.name, None)
        await self._take_operations(read_at_s)
        if inventory.complete or ours:
            self._silence.heard(bool(ours), read_at_s)
        for name in [name for name, until_s in self._coming.items() if read_at_s >= until_s]:
            del self._coming[name]
            self._given_up.add(name)
        await self._targets.take(inventory, read_at_s)

    async def _take_operations(self, read_at_s: float) -> None:
        """What creates tell of that no listing shows: VMs by their id, and names that may still appear."""
        now = self.clock.now()
        trouble = ""
        try:
            await self._heard.listen(now)
            trouble = "this cloud has no such call" if self._heard.missing else ""
        except (CloudUnavailable, SchemaError, Rejected) as exc:
            trouble = str(exc)
        self._coming.pop(_UNREAD, None)
        if trouble:
            self._trouble = self._trouble or f"operations are not listed: {trouble}"
            if read_at_s < self._settled_s:  # a create may be under way, and no listing shows it
                self._coming[_UNREAD] = self._settled_s
        deleted = self._heard.deleted
        for name, operation in self._heard.named():
            age = max(now - (operation.started_at or now), timedelta(0))
            if age > _RECENT:
                continue
            if operation.machine_id is not None:
                self._targets.add(operation.machine_id, name)
            is_over = operation.state is OperationState.FAILED or operation.machine_id in deleted
            if name in self._seen or is_over or age >= self.tempo.settling:
                self._coming.pop(name, None)
            elif name not in self._coming and name not in self._given_up:
                self._coming[name] = read_at_s + (self.tempo.settling - age).total_seconds()

    async def _ask_about_strays(self, read_at_s: float) -> None:
        """A system disk that no listed VM owns may be of a VM that the list hides: ask for that VM by its id."""
        for disk in self._rest.strays:
            machine_id = vm_of(disk)
            if machine_id is None or machine_id in self._asked or len(self._asked) >= _MOST_ASKED:
                continue
            try:
                machine = await self.cloud.machine(machine_id)
            except AutoscalerError as exc:
                self._trouble = self._trouble or f"vm {machine_id} cannot be read: {exc}"
                continue
            self._asked.add(machine_id)
            if machine is not None and is_our_vm(machine.name, self.owner):
                self._targets.show(machine)
