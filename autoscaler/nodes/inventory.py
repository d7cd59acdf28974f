"""What the cloud lists against what we recorded, both ways. Pure; `sweep` carries the findings out.

Per listed machine: the current attempt of an open row is left alone; a lost, superseded or closed attempt is adopted
when its intent still wants one and no later attempt was sent, else deleted; twins of one name lose all but one; ours
but unknown is an orphan with a grace time; our prefix with another owner is shown and never touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoscaler.domain.ids import IntentId, MachineId, NodeName, parse_name
from autoscaler.domain.machine import Inventory, Machine, PowerState
from autoscaler.domain.node import CLOSED, Node, State
from autoscaler.store.protocol import Orphan, Store

_CHOOSE = "was the store lost? `autoscaler adopt` takes them over, `autoscaler sweep --confirm` lets them be deleted"
_SMALL = 2  # a guard's share never forbids this few
# A machine that boots may lag in the listing, and one that terminates should leave it.
_ESTABLISHED = frozenset({State.VERIFYING, State.READY, State.DRAINING, State.FAILED})


@dataclass(frozen=True, slots=True)
class Owner:
    """Our mark in the names of machines.

    Attributes:
        is_derived: nobody wrote the mark down: a copy of this host would have the same one, so that an unknown machine
            with it may be that copy's.
    """

    prefix: str
    owner: str
    is_derived: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What a sweep found.

    Attributes:
        adopt: written-off attempts whose machine surfaced and is still wanted.
        surplus: machines of ours that no row wants any more, each with why: to be deleted now.
        orphans: ours and unknown, with their first sight; those past their grace are in `expired`.
        foreign: our prefix, another owner: counted and shown.
        strangers: how many machines are nobody's business of ours.
        held: the guard that forbids acting on this listing, None when none does.
    """

    adopt: tuple[tuple[NodeName, Machine], ...] = ()
    surplus: tuple[tuple[Machine, str], ...] = ()
    orphans: tuple[Orphan, ...] = ()
    expired: tuple[Machine, ...] = ()
    foreign: tuple[Machine, ...] = ()
    strangers: int = 0
    absent: tuple[NodeName, ...] = ()
    held: str | None = None


def compare(
    inventory: Inventory,
    rows: Sequence[Node],
    last_attempts: Mapping[IntentId, int],
    orphans: Sequence[Orphan],
    mark: Owner,
    grace: timedelta,
    now: datetime,
    *,
    confirmed: bool = False,
) -> Findings:
    """Compare one listing with the store.

    Args:
        rows: every open row, and closed ones whose machine may still surface.
        last_attempts: the highest attempt ever recorded of each intent seen in the listing.
        orphans: first sights remembered from earlier sweeps.
        confirmed: a person confirmed that this listing may be acted on although a guard holds.
    """
    by_name = {row.name: row for row in rows}
    doomed = {row.machine_id for row in rows if row.state is State.TERMINATING}
    kept = _kept_twins(inventory, by_name)
    remembered = {orphan.machine_id: orphan for orphan in orphans}
    adopt: list[tuple[NodeName, Machine]] = []
    surplus: list[tuple[Machine, str]] = []
    found: list[Orphan] = []
    expired: list[Machine] = []
    foreign: list[Machine] = []
    strangers = ours = 0
    for machine in inventory.machines:
        parts = parse_name(machine.name)
        if parts is None or parts.prefix != mark.prefix:
            strangers += 1
            continue
        if parts.owner != mark.owner:
            foreign.append(machine)
            continue
        ours += 1
        row = by_name.get(NodeName(machine.name))
        if row is None:
            first = remembered.get(machine.id, Orphan(machine.id, machine.name, now))
            found.append(first)
            if now - first.first_seen >= grace:
                expired.append(machine)
        elif machine.id in doomed:
            continue  # a row terminates it already
        elif machine.id != kept[machine.name]:
            surplus.append((machine, "a second machine of one name"))
        elif row.state in CLOSED:
            later = last_attempts.get(row.intent, row.attempt) > row.attempt
            if row.state is State.LOST and not later:
                adopt.append((row.name, machine))
            else:
                surplus.append((machine, f"its attempt is {row.state}"))
    if not inventory.complete:
        # What it does not list may be there all the same: its grace time goes on.
        listed = {machine.id for machine in inventory.machines}
        found.extend(orphan for orphan in orphans if orphan.machine_id not in listed)
    absent = _absent(inventory, rows)
    findings = Findings(
        adopt=tuple(adopt),
        surplus=tuple(surplus),
        orphans=tuple(found),
        expired=tuple(expired),
        foreign=tuple(foreign),
        strangers=strangers,
        absent=absent,
    )
    if not inventory.complete:  # a person can vouch for what is listed, not for what was not read
        return _holding(findings, f"the listing is incomplete: {inventory.why_incomplete}")
    held = None if confirmed else _guard(findings, rows, ours)
    return findings if held is None else _holding(findings, held)


def _kept_twins(inventory: Inventory, rows: Mapping[NodeName, Node]) -> dict[str, MachineId]:
    """Of several machines of one name, the one to keep: the row's, else the running one, else the oldest."""

    def rank(machine: Machine) -> tuple[bool, bool, float, str]:
        row = rows.get(NodeName(machine.name))
        recorded = row is not None and row.machine_id == machine.id
        created = machine.created_at.timestamp() if machine.created_at else 0.0
        return (not recorded, machine.power is not PowerState.RUNNING, created, machine.id)

    kept: dict[str, MachineId] = {}
    for machine in sorted(inventory.machines, key=rank):
        kept.setdefault(machine.name, machine.id)
    return kept


async def is_anothers(node: Node, store: Store) -> bool:
    """Whether another open row has this node's machine: of twins the sweep may have chosen it to give back."""
    rows = await store.nodes()
    return any(row.machine_id == node.machine_id and row.name != node.name for row in rows)


def _known(rows: Sequence[Node]) -> tuple[Node, ...]:
    return tuple(r for r in rows if r.state in _ESTABLISHED and r.machine_id is not None)


def _absent(inventory: Inventory, rows: Sequence[Node]) -> tuple[NodeName, ...]:
    """Open rows whose machine was up before and is not listed now."""
    listed = {machine.id for machine in inventory.machines}
    return tuple(row.name for row in _known(rows) if row.machine_id not in listed)


def implausible(
    inventory: Inventory, rows: Sequence[Node], confirmed: Set[NodeName] = frozenset()
) -> bool:
    """Whether a listing misses too many known machines to be believed of any one of them.

    Args:
        confirmed: nodes whose machines a person said are gone.
    """
    absent = [name for name in _absent(inventory, rows) if name not in confirmed]
    return len(absent) > max(_SMALL, len(_known(rows)) * 30 // 100)


def _guard(findings: Findings, rows: Sequence[Node], ours: int) -> str | None:
    confirm = "run `autoscaler sweep --confirm` if it is right"
    doomed = len(findings.surplus) + len(findings.expired)
    checks = (
        (len(findings.absent), len(_known(rows)), 30, "of our known machines are absent", confirm),
        (len(findings.orphans), ours, 30, "of our listed machines are unknown", _CHOOSE),
        (doomed, ours, 10, "machines would be deleted", confirm),
    )
    for count, total, percent, what, do in checks:
        if count > max(_SMALL, total * percent // 100):
            return f"{count} {what} ({total} in all): {do}"
    return None


def holding_traffic(findings: Findings, in_traffic: Set[NodeName]) -> Findings:
    """The same, held when a balancer sends to a machine that no row knows: the store was lost, or is an old copy.

    However few they are. To delete one would cut its requests, since no drain can begin without a row.
    """
    serving = [one.name for one in findings.orphans if NodeName(one.name) in in_traffic]
    if not serving or findings.held is not None:
        return findings
    what = "a machine" if len(serving) == 1 else f"{len(serving)} machines"
    return _holding(findings, f"balancers send to {what} of ours that no row knows: {_CHOOSE}")


def _holding(findings: Findings, why: str) -> Findings:
    """The same findings with nothing to act on: orphans are still remembered."""
    return Findings(
        orphans=findings.orphans,
        foreign=findings.foreign,
        strangers=findings.strangers,
        absent=findings.absent,
        held=why,
    )
