"""`autoscaler audit`: what carries our mark, and whether a living daemon accounts for it. Deletes only when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import typer

from autoscaler.brakes.audit import Audit, Line, judge
from autoscaler.brakes.ours import Kind, Thing, look
from autoscaler.brakes.targets import Tempo
from autoscaler.brakes.unaccounted import Execution, Sentence, sentence
from autoscaler.brakes.witness import NoWitness, ask
from autoscaler.cli.ask import YesOption
from autoscaler.cli.connection import JsonOption, Table, confirmed, said_errors, show
from autoscaler.cli.marked import Marked, marked_command
from autoscaler.clock import SystemClock
from autoscaler.domain.ids import parse_name
from autoscaler.errors import CloudUnavailable, ConfigError

_APART = timedelta(seconds=60)  # between the two answers that condemn


@marked_command
def audit(
    whose: Marked,
    terminate_unaccounted: Annotated[
        bool,
        typer.Option(
            "--terminate-unaccounted",
            help="delete the VMs and disks that a living daemon disowns in two answers, 60 s apart",
        ),
    ] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """List all that carries our mark, and whether a living daemon accounts for it. Changes nothing by itself.

    Works without the store, from any host with a key. Ends with 0 when a daemon accounts for all, 4 when it disowns
    something, 5 when no daemon answers, so that nothing is known. A watchdog: run it by a timer, on another host.
    """
    with said_errors():
        if terminate_unaccounted and whose.cloud.owner_is_derived:
            raise ConfigError(
                "--terminate-unaccounted: nobody wrote the owner mark down, so a copy of this host may have the same "
                "one: write cloud.owner into config.toml"
            )
        found = asyncio.run(audited(whose))
        if terminate_unaccounted:
            found = _terminate(whose, found, yes=yes, as_json=json)
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


def _terminate(whose: Marked, first: Audit, *, yes: bool, as_json: bool) -> Audit:
    """Ask once more, delete what both answers disown, and look again."""

    def say(line: str) -> None:
        typer.echo(line, err=as_json)

    if first.witness is not None and not first.disowned:
        return first
    apart = whose.timings.gone_after if whose.cloud.is_loopback else _APART
    verdict, second = Sentence(held=f"unknown: {first.no_witness}"), first
    if first.witness is not None:
        say(f"the daemon is asked once more in {apart.total_seconds():g} s")
        second = asyncio.run(_later(whose, apart))
        verdict = sentence(first, second, apart, whose.timings.orphan_grace)
    for thing, why in verdict.spared:
        say(f"left alone: {thing.kind} {thing.name} ({thing.id}): {why}")
    if not verdict.doomed:
        say(f"nothing is deleted{f': {verdict.held}' if verdict.held else ''}")
        return second
    for thing in verdict.doomed:
        say(f"to be deleted: {thing.kind} {thing.name} ({thing.id}), {price(thing)} $/h")
    confirmed(f"Delete these {len(verdict.doomed)}? Requests in flight are cut", yes=yes)
    for line in asyncio.run(_carry_out(whose, verdict)):
        say(f"left: {line}")
    return asyncio.run(audited(whose))


async def _later(whose: Marked, apart: timedelta) -> Audit:
    await asyncio.sleep(apart.total_seconds())
    return await audited(whose)


async def _carry_out(whose: Marked, verdict: Sentence) -> list[str]:
    cloud, timings = whose.open(), whose.timings
    tempo = Tempo(
        timings.step,
        timings.gone_after,
        timings.delete_retry,
        min(timings.delete_retry_max, Tempo().retry_max),
    )
    try:
        return await Execution(cloud, whose.prices(), tempo, SystemClock(), verdict.doomed).run()
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
    if holdings.foreign_rest:
        notes.append(f"{holdings.foreign_rest} disks and rules have another owner mark: not ours")
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
        "foreign_rest": holdings.foreign_rest,
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
        "is_ours": thing.is_ours,
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
