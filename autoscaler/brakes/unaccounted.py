"""Delete what a living daemon disowns: only what two answers, apart in time, disown, and only under the sweep's guards.

The daemon deletes its orphans itself; this is for when it should and does not. Whatever may be wrong with the answer or
with the listing holds all of it back: then a person deletes singly what is wrong (`autoscaler cloud delete ID`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from autoscaler.brakes.audit import Audit, Line, Verdict
from autoscaler.brakes.ours import ATTACHED, Kind, Prices, Thing
from autoscaler.brakes.targets import Targets, Tempo
from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId
from autoscaler.errors import AutoscalerError, CloudUnavailable, Rejected, SchemaError

_SMALL = 2  # a guard's share never forbids this few


@dataclass(frozen=True, slots=True)
class Sentence:
    """What two audits agree on.

    Attributes:
        doomed: VMs and disks to delete.
        spared: what is disowned and left alone, each with why.
        held: why nothing may be deleted at all, empty when something may.
    """

    doomed: tuple[Thing, ...] = ()
    spared: tuple[tuple[Thing, str], ...] = ()
    held: str = ""


def sentence(first: Audit, second: Audit, apart: timedelta, grace: timedelta) -> Sentence:
    """Judge what may be deleted. Pure.

    Args:
        apart: how far the two answers must lie from each other.
        grace: how old a thing must be: a younger one may be in the making, or the daemon's own to delete.
    """
    if held := _guard(first) or _guard(second):
        return Sentence(held=held)
    passed = second.holdings.at - first.holdings.at
    if passed < apart:
        return Sentence(held=f"the two answers are {passed.total_seconds():.0f} s apart")
    before = {(line.thing.kind, line.thing.id) for line in first.disowned}
    doomed: list[Thing] = []
    spared: list[tuple[Thing, str]] = []
    for line in second.disowned:
        thing = line.thing
        if (thing.kind, thing.id) not in before:
            spared.append((thing, "only the second answer disowns it"))
        elif why := _why_spared(line, second, grace):
            spared.append((thing, why))
        else:
            doomed.append(thing)
    listed = [line for line in second.lines if line.thing.kind is Kind.VM and line.thing.is_ours]
    vms = [thing for thing in doomed if thing.kind is Kind.VM]
    if _is_many(len(vms), len(listed), 10):
        return Sentence(held=f"{len(vms)} of {len(listed)} VMs would be deleted")
    return Sentence(tuple(doomed), tuple(spared))


def _guard(found: Audit) -> str:
    """Why this answer or this listing must not be acted on."""
    witness = found.witness
    if witness is None:
        return f"no daemon answers that may be believed: {found.no_witness}"
    if witness.held is not None:
        return f"the daemon's own sweep is held: {witness.held}"
    if found.holdings.incomplete:
        return f"the list of VMs is not whole: {found.holdings.incomplete}"
    vms = [line for line in found.lines if line.thing.kind is Kind.VM and line.thing.is_ours]
    disowned = sum(line.verdict is Verdict.DISOWNED for line in vms)
    if _is_many(disowned, len(vms), 30):
        return (
            f"{disowned} of {len(vms)} listed VMs are disowned: is it the right daemon and store?"
        )
    listed = {line.thing.id for line in vms}
    known = [each for each in witness.nodes.values() if each is not None]
    absent = sum(each not in listed for each in known)
    if _is_many(absent, len(known), 30):
        return f"{absent} of the daemon's {len(known)} VMs are not listed: is the list right?"
    return ""


def _is_many(count: int, of: int, percent: int) -> bool:
    return count > max(_SMALL, of * percent // 100)


def _why_spared(line: Line, found: Audit, grace: timedelta) -> str:
    thing = line.thing
    if not thing.is_ours:
        return "its name is of no form that a daemon makes"
    if thing.kind is Kind.RULE:
        return "it costs nothing"
    if thing.state == ATTACHED:
        return "it goes with its VM"
    at = found.holdings.at
    sights = [thing.created_at]
    if found.witness is not None:
        sights.append(found.witness.orphans.get(MachineId(thing.id)))
    ages = [at - sight for sight in sights if sight is not None]
    if not ages:
        return "nobody tells how old it is"
    if max(ages) < grace:
        return f"it is younger than {grace.total_seconds():.0f} s: the daemon may be at it"
    return ""


@dataclass(slots=True)
class Execution:
    """Carries a sentence out."""

    cloud: Cloud
    prices: Prices
    tempo: Tempo
    clock: Clock
    doomed: Sequence[Thing]

    async def run(self) -> list[str]:
        """Delete until the VMs are proven absent, without end; then the disks, once. What is left, in words.

        Raises:
            EndpointMissing: the cloud has no call that deletes a VM.
        """
        targets = Targets(self.cloud, self.prices, self.tempo, self.clock)
        for thing in self.doomed:
            if thing.kind is Kind.VM:
                targets.add(MachineId(thing.id), thing.name)
        async with asyncio.TaskGroup() as tasks:
            while targets.fatal is None and not targets.are_proven:
                targets.ask(tasks)
                await self.clock.sleep(self.tempo.look.total_seconds())
                read_at_s = self.clock.boot_s()
                try:
                    await targets.take(await self.cloud.inventory(), read_at_s)
                except (CloudUnavailable, SchemaError, Rejected):
                    continue  # it is looked at again; a list that was not read proves nothing
        if targets.fatal is not None:
            raise targets.fatal
        return [words for thing in self.doomed if (words := await self._delete_disk(thing))]

    async def _delete_disk(self, thing: Thing) -> str:
        if thing.kind is not Kind.DISK:
            return ""
        try:
            await self.cloud.delete_disk(thing.id)
        except AutoscalerError as exc:
            return f"disk {thing.name} ({thing.id}) was not deleted: {exc}"
        return ""
