"""Hold what carries our mark against what a living daemon accounts for. Pure; the command reads and prints."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from autoscaler.brakes.ours import Holdings, Kind, Thing
from autoscaler.brakes.witness import Witness
from autoscaler.domain.ids import MachineId


class Verdict(StrEnum):
    """What a daemon says of one thing."""

    ACCOUNTED = "accounted"
    DISOWNED = "disowned"  # a living daemon does not account for it: nobody gives it back
    UNKNOWN = "unknown"  # no daemon was there to ask


class Outcome(IntEnum):
    """The exit status of `autoscaler audit`; 1, 2 and 3 are the failures that all commands share."""

    ACCOUNTED = 0
    DISOWNED = 4
    UNKNOWN = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One thing with its verdict, and why."""

    thing: Thing
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        no_witness: why no daemon counts as a witness, empty when one does.
    """

    holdings: Holdings
    lines: tuple[Line, ...]
    witness: Witness | None
    no_witness: str = ""

    @property
    def disowned(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.verdict is Verdict.DISOWNED)

    @property
    def outcome(self) -> Outcome:
        if self.disowned:
            return Outcome.DISOWNED
        return Outcome.ACCOUNTED if self.witness is not None else Outcome.UNKNOWN


def judge(holdings: Holdings, witness: Witness | None, no_witness: str = "") -> Audit:
    """Give every thing its verdict.

    The daemon must have been asked after the cloud was listed: its rows are written before a VM exists, so whatever was
    listed and is accounted for is in an answer that came later.
    """
    if witness is None:
        lines = [Line(each, Verdict.UNKNOWN, "no daemon answers") for each in holdings.things]
        return Audit(holdings, tuple(lines), None, no_witness)
    vms = [_vm(each, witness) for each in holdings.things if each.kind is Kind.VM]
    known = {line.thing.machine_id for line in vms if line.verdict is Verdict.ACCOUNTED}
    known |= {each for each in witness.nodes.values() if each is not None}
    strays = [_disk(each, witness, known) for each in _known_strays(holdings, witness)]
    others = [
        _disk(each, witness, known) if each.kind is Kind.DISK else _rule(each, witness)
        for each in holdings.things
        if each.kind is not Kind.VM
    ]
    return Audit(holdings, (*vms, *others, *strays), witness)


def _vm(thing: Thing, witness: Witness) -> Line:
    if witness.accounts_for(thing.name, thing.id):
        return Line(thing, Verdict.ACCOUNTED, "the daemon's")
    if not thing.is_ours:
        why = "its name begins with our mark, and is of no form that a daemon makes"
    elif thing.id in witness.orphans:
        why = "an orphan: the daemon deletes it after timings.orphan_grace"
    elif MachineId(thing.id) in witness.closed:
        why = "the daemon takes it for gone"
    else:
        why = "the daemon does not know it"
    return Line(thing, Verdict.DISOWNED, why)


def _disk(thing: Thing, witness: Witness, known: Set[MachineId | None]) -> Line:
    if thing.machine_id is not None and thing.machine_id in known:
        return Line(thing, Verdict.ACCOUNTED, "of a VM of the daemon's")
    if thing.machine_id is not None and thing.machine_id in witness.closed:
        return Line(
            thing, Verdict.DISOWNED, "its VM is gone: the daemon deletes it within the hour"
        )
    why = "its VM is not the daemon's" if thing.machine_id else "no daemon makes such disks"
    return Line(thing, Verdict.DISOWNED, why)


def _known_strays(holdings: Holdings, witness: Witness) -> list[Thing]:
    """System disks that only the daemon can tell to be ours: it remembers the VMs that it closed."""
    ours = set(witness.closed) | {each for each in witness.nodes.values() if each is not None}
    return [each for each in holdings.strays if each.machine_id in ours]


def _rule(thing: Thing, witness: Witness) -> Line:
    if thing.name in witness.rules:
        return Line(thing, Verdict.ACCOUNTED, "the daemon's")
    return Line(thing, Verdict.DISOWNED, "the daemon makes no rule of that name")
