"""`autoscaler audit`: what carries our mark, and whether a living daemon accounts for it. Reads only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import typer

from autoscaler.brakes.audit import Audit, Line, judge
from autoscaler.brakes.ours import Kind, Thing, look
from autoscaler.brakes.witness import NoWitness, ask
from autoscaler.cli.connection import JsonOption, Table, said_errors, show, warnings_to_stderr
from autoscaler.cli.marked import (
    ConfigOption,
    DaemonOption,
    EmailOption,
    KeyFileOption,
    Marked,
    OwnerOption,
    PasswordFileOption,
    PrefixOption,
    ProjectOption,
    UrlOption,
    marked,
)
from autoscaler.clock import SystemClock
from autoscaler.domain.ids import parse_name
from autoscaler.errors import CloudUnavailable


def audit(
    config: ConfigOption = None,
    daemon: DaemonOption = None,
    url: UrlOption = None,
    project: ProjectOption = None,
    key_file: KeyFileOption = None,
    email: EmailOption = None,
    password_file: PasswordFileOption = None,
    owner: OwnerOption = None,
    prefix: PrefixOption = None,
    json: JsonOption = False,
) -> None:
    """List all that carries our mark, and whether a living daemon accounts for it. Changes nothing.

    Works without the store, from any host with a key. Ends with 0 when a daemon accounts for all, 4 when it disowns
    something, 5 when no daemon answers, so that nothing is known. A watchdog: run it by cron, on another host.
    """
    warnings_to_stderr()
    with said_errors():
        whose = marked(config, url, project, key_file, email, password_file, owner, prefix, daemon)
        found = asyncio.run(audited(whose))
        show(_table(found, whose), as_json=json)
        if found.holdings.incomplete and not found.disowned:
            raise CloudUnavailable(
                f"the list of VMs is not whole, so not all may be told: {found.holdings.incomplete}"
            )
    raise typer.Exit(found.outcome)


async def audited(whose: Marked) -> Audit:
    """List, then ask the daemon. Raises as `look` does."""
    clock, cloud = SystemClock(), whose.open()
    try:
        project = await cloud.project_id()
        holdings = await look(cloud, whose.owner, whose.prices(), clock.now())
        try:
            witness = await ask(whose.daemons, whose.owner, project)
        except NoWitness as exc:
            return judge(holdings, None, str(exc))
        return judge(holdings, witness)
    finally:
        await cloud.close()


def _table(found: Audit, whose: Marked) -> Table:
    at = found.holdings.at
    return Table(
        columns=("What", "Name", "Is", "State", "Age", "$/h", "Daemon"),
        rows=[
            (
                line.thing.kind,
                short_name(line.thing),
                line.thing.what,
                line.thing.state,
                age(line.thing.created_at, at),
                price(line.thing),
                line.verdict,
            )
            for line in found.lines
        ],
        document=_document(found, whose),
        notes=_notes(found),
    )


def _notes(found: Audit) -> Sequence[str]:
    holdings = found.holdings
    notes = [
        f"{line.thing.kind} {line.thing.name} ({line.thing.id}): {line.why}"
        for line in found.disowned
    ]
    for kind, why in holdings.unseen.items():
        notes.append(f"{kind}s are not listed by this cloud ({why}): look in its console")
    if holdings.foreign:
        notes.append(f"{holdings.foreign} VMs have our prefix and another owner mark: not ours")
    if holdings.strangers:
        notes.append(f"{holdings.strangers} other VMs in the project: not ours")
    if found.witness is None:
        notes.append(f"unknown: {found.no_witness}")
    else:
        witness = found.witness
        held = f", its sweep is held: {witness.held}" if witness.held else ""
        notes.append(f"witness: {witness.where}, swept {witness.swept_age_s:.0f} s ago{held}")
    notes.append(
        f"{len(found.lines)} with our mark, {holdings.usd_per_hour}/h; {len(found.disowned)} disowned"
    )
    return notes


def _document(found: Audit, whose: Marked) -> dict[str, object]:
    holdings, witness = found.holdings, found.witness
    return {
        "prefix": whose.owner.prefix,
        "owner": whose.owner.owner,
        "at": holdings.at.isoformat(),
        "outcome": found.outcome.name.lower(),
        "usd_per_hour": str(holdings.usd_per_hour.usd),
        "complete": not holdings.incomplete,
        "unseen": {kind.value: why for kind, why in holdings.unseen.items()},
        "foreign": holdings.foreign,
        "strangers": holdings.strangers,
        "daemon": {"answers": False, "why": found.no_witness}
        if witness is None
        else {
            "answers": True,
            "where": witness.where,
            "swept_age_s": witness.swept_age_s,
            "held": witness.held,
        },
        "items": [_item(line, holdings.at) for line in found.lines],
    }


def _item(line: Line, at: datetime) -> dict[str, object]:
    thing = line.thing
    return {
        "kind": thing.kind.value,
        "id": thing.id,
        "name": thing.name,
        "what": thing.what,
        "location": thing.location,
        "state": thing.state,
        "created_at": thing.created_at.isoformat() if thing.created_at else None,
        "age_s": (at - thing.created_at).total_seconds() if thing.created_at else None,
        "usd_per_hour": str(thing.usd_per_hour.usd) if thing.usd_per_hour is not None else None,
        "machine_id": thing.machine_id,
        "verdict": line.verdict.value,
        "why": line.why,
    }


def short_name(thing: Thing) -> str:
    """A name that fits: of a VM its intent and attempt, of a system disk the head of its VM's id."""
    parts = parse_name(thing.name)
    if thing.kind is Kind.VM and parts is not None:
        return f"{parts.intent}-{parts.attempt}"
    return thing.name if len(thing.name) <= 20 else f"{thing.name[:19]}…"


def age(since: datetime | None, now: datetime) -> str | None:
    """How old something is, in its largest fitting unit."""
    if since is None:
        return None
    seconds = (now - since).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def price(thing: Thing) -> str:
    """Dollars an hour with cents, more digits for less than a cent, `?` where the price list knows none."""
    if thing.usd_per_hour is None:
        return "?"
    return str(thing.usd_per_hour).removeprefix("$") if thing.usd_per_hour else "0"
