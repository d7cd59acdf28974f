"""What is left once the VMs are gone: their system disks, disks with our mark, and our firewall rules."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from autoscaler.brakes.ours import ATTACHED, Kind, Prices, Thing, our_disks, our_rules, vm_of
from autoscaler.brakes.silence import Silence
from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Disk, Inventory
from autoscaler.domain.money import ZERO, Money
from autoscaler.errors import AutoscalerError, EndpointMissing
from autoscaler.nodes.inventory import Owner


@dataclass(slots=True)
class Rest:
    """Deletes disks and rules, look by look.

    Attributes:
        with_rules: rules too; they cost nothing, and a living daemon makes its own again.
        left: what the newest look showed.
        strays: system disks of VMs that are not listed and that nobody can tell to be ours.
    """

    cloud: Cloud
    owner: Owner
    prices: Prices
    gone_after: timedelta
    with_rules: bool = True
    left: tuple[Thing, ...] = ()
    strays: tuple[Disk, ...] = ()
    _by_hand: dict[Kind, tuple[Thing, ...]] = field(default_factory=dict)
    _in_use: tuple[Thing, ...] = ()
    _troubles: dict[Kind, str] = field(default_factory=dict)
    _unseen: dict[Kind, str] = field(default_factory=dict)
    _silence: Silence = field(init=False)

    def __post_init__(self) -> None:
        self._silence = Silence(self.gone_after)

    @property
    def usd_per_hour(self) -> Money:
        return sum((each.usd_per_hour or ZERO for each in self.left), ZERO)

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be seen, or was left alone on purpose."""
        unseen = (
            f"this cloud lists no {k}s ({why}): look in its console"
            for k, why in self._unseen.items()
        )
        in_use = (
            f"disk {d.name} ({d.id}) is used by a VM that is not ours: left alone"
            for d in self._in_use
        )
        by_hand = (
            f"{each.kind} {each.name} ({each.id}) has our mark in a name we never make: left alone"
            for things in self._by_hand.values()
            for each in things
        )
        return (*unseen, *in_use, *by_hand)

    def in_words(self) -> list[str]:
        """What is not proven absent."""
        found = [f"{each.kind} {each.name} ({each.id}) is {each.state}" for each in self.left]
        found += [f"{kind}s: {why}" for kind, why in self._troubles.items()]
        if Kind.DISK in self._unseen:
            found.append("disks: this cloud does not list them")
        return found

    async def clear(
        self, machines: Collection[MachineId], inventory: Inventory, clock: Clock
    ) -> bool:
        """Ask for all that is left to go, and say whether it is proven absent (or cannot be seen at all).

        Args:
            machines: VMs of ours, all gone: their system disks should be too.
            inventory: what VMs the cloud lists besides.
        """
        at_s = clock.boot_s()
        self._troubles = {}
        disks = await self._disks(machines, inventory)
        rules = await self._rules() if self.with_rules else ()
        self.left = (*disks, *rules)
        if not self._troubles or self.left:
            self._silence.heard(bool(self.left), at_s)
        for thing in self.left:
            if thing.state != ATTACHED:  # its VM is not truly gone
                await self._delete(thing)
        return self._silence.is_proven and not self._troubles

    async def _disks(
        self, machines: Collection[MachineId], inventory: Inventory
    ) -> tuple[Thing, ...]:
        try:
            listed = await self.cloud.disks()
        except EndpointMissing as exc:
            self._unseen[Kind.DISK] = str(exc)
            return ()
        except AutoscalerError as exc:
            self._troubles[Kind.DISK] = f"not listed: {exc}"
            return ()
        known = {machine.id for machine in inventory.machines} | set(machines)
        self.strays = tuple(d for d in listed if vm_of(d) is not None and vm_of(d) not in known)
        used = {disk.id for disk in listed if set(disk.attached_to) - set(machines)}
        found = self._ours(Kind.DISK, our_disks(listed, self.owner, self.prices, machines))
        self._in_use = tuple(each for each in found if each.id in used)
        return tuple(each for each in found if each.id not in used)

    async def _rules(self) -> tuple[Thing, ...]:
        try:
            rules = our_rules(await self.cloud.firewall_rules(), self.owner)
            return self._ours(Kind.RULE, rules)
        except EndpointMissing as exc:
            self._unseen[Kind.RULE] = str(exc)
        except AutoscalerError as exc:
            self._troubles[Kind.RULE] = f"not listed: {exc}"
        return ()

    def _ours(self, kind: Kind, things: tuple[Thing, ...]) -> tuple[Thing, ...]:
        """Those that a daemon of ours made; the others are kept to be named."""
        self._by_hand[kind] = tuple(each for each in things if not each.is_ours)
        return tuple(each for each in things if each.is_ours)

    async def _delete(self, thing: Thing) -> None:
        try:
            if thing.kind is Kind.DISK:
                await self.cloud.delete_disk(thing.id)
            else:
                await self.cloud.delete_firewall_rule(thing.id)
        except AutoscalerError as exc:
            self._troubles[thing.kind] = f"{thing.name} was not deleted: {exc}"
